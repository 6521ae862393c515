//! TLS as hosts.toml describes it: a private authority, client certificates, and no verification at all.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::build::{Compression, Flavour, image, layer};
use crate::fixture::Fixture;
use crate::registry::Registry;

/// An authority, and a server's and a client's certificate by it.
pub struct Certificates {
    pub dir: tempfile::TempDir,
}

fn openssl(dir: &Path, arguments: &str) -> Result<(), String> {
    let output =
        Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).to_string()) }
}

impl Certificates {
    fn new() -> Result<Self, String> {
        let dir = tempfile::tempdir().expect("tempdir");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(dir.path(), &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"))?;
        let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(dir.path().join("extensions"), extensions).expect("write");
        for name in ["server", "client"] {
            openssl(dir.path(), &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
            let by = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions";
            openssl(dir.path(), &format!("x509 -req -in {name}.csr -out {name}.crt {by}"))?;
        }
        Ok(Self { dir })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_authorities_and_client_certificates() {
    let test = "private_authorities_and_client_certificates";
    let certificates = match Certificates::new() {
        Ok(certificates) => certificates,
        Err(e) => return println!("SKIP {test}: no certificates: {e}"),
    };
    let Some(fixture) = Fixture::new(test) else { return };
    let Some(registry) = Registry::start_tls(&certificates).await else {
        return println!("SKIP {test}: no docker-registry");
    };
    registry.push("app", "latest", &image(Flavour::Oci, &[layer(&[("a", b"a")], Compression::Gzip)], json!({}))).await;
    let dir = certificates.dir.path().display();
    let (ca, client) =
        (format!("ca = \"{dir}/ca.crt\""), format!("client = [[\"{dir}/client.crt\", \"{dir}/client.key\"]]"));
    let reference = format!("{}/app", registry.address);
    let cases = [
        (String::new(), false),
        (ca.clone(), false),
        (client.clone(), false),
        (format!("{ca}\n{client}"), true),
        (format!("skip_verify = true\n{client}"), true),
    ];
    for (settings, good) in cases {
        fixture.hosts(&registry.address, &format!("server = \"https://{}\"\n{settings}\n", registry.address));
        let pulled = fixture.pull(&reference).await;
        assert_eq!(pulled.is_ok(), good, "{settings}: {pulled:?}");
        if let Err(e) = pulled {
            // A server that misses a certificate may hang up before its alert is read.
            let text = e.to_string();
            let said = text.to_lowercase().contains("cert") || settings.starts_with("ca");
            assert!(text.starts_with("RegistryUnavailable") && said, "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_certificates_is_enough() {
    let test = "a_folder_of_certificates_is_enough";
    let certificates = match Certificates::new() {
        Ok(certificates) => certificates,
        Err(e) => return println!("SKIP {test}: no certificates: {e}"),
    };
    let Some(fixture) = Fixture::new(test) else { return };
    let Some(registry) = Registry::start_tls(&certificates).await else {
        return println!("SKIP {test}: no docker-registry");
    };
    registry.push("app", "latest", &image(Flavour::Oci, &[], json!({}))).await;
    fixture.hosts(&registry.address, "");
    let folder = &fixture.config.images.hosts_dirs[0].join(&registry.address);
    for (from, to) in [("ca.crt", "ca.crt"), ("client.crt", "client.cert"), ("client.key", "client.key")] {
        std::fs::copy(certificates.dir.path().join(from), folder.join(to)).expect("copy");
    }
    fixture.pull(&format!("{}/app", registry.address)).await.expect("pull");
}
