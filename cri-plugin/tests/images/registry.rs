//! Debian's docker-registry on a port of its own, and what is pushed into it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cleatd::images::digest::Digest;
use reqwest::header::{CONTENT_TYPE, LOCATION};

use crate::build::Image;

pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    scheme: &'static str,
    client: reqwest::Client,
    _storage: tempfile::TempDir,
}

impl Registry {
    /// None where docker-registry is not installed.
    pub async fn start() -> Option<Self> {
        let client = client().build().expect("client");
        Self::run("", "http", client).await
    }

    /// The same over TLS, with certificates made by `crate::tls`; the pusher trusts and shows them.
    pub async fn start_tls(certificates: &crate::tls::Certificates) -> Option<Self> {
        let dir = certificates.dir.path().display();
        let tls =
            format!("\n  tls: {{certificate: {dir}/server.crt, key: {dir}/server.key, clientcas: [{dir}/ca.crt]}}");
        let read = |name: &str| std::fs::read(certificates.dir.path().join(name)).expect("certificate");
        let trusted = reqwest::Certificate::from_pem(&read("ca.crt")).expect("ca");
        let shown = reqwest::Identity::from_pem(&[read("client.crt"), read("client.key")].concat()).expect("client");
        let client = client().tls_certs_only([trusted]).identity(shown).build().expect("client");
        Self::run(&tls, "https", client).await
    }

    async fn run(tls: &str, scheme: &'static str, client: reqwest::Client) -> Option<Self> {
        let storage = tempfile::tempdir().expect("tempdir");
        let address =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").to_string();
        let config = storage.path().join("config.yml");
        let data = storage.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: \"{address}\"{tls}\n",
            data.display()
        );
        std::fs::write(&config, text).expect("config");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            other => other.expect("docker-registry"),
        };
        let registry = Self { process, address, scheme, client, _storage: storage };
        let deadline = Instant::now() + Duration::from_secs(20);
        while registry.client.get(registry.url("")).send().await.is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(registry)
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}/v2/{path}", self.scheme, self.address)
    }

    /// Pushes blobs and manifest; the manifest gets `tag`.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) {
        for (digest, bytes) in &image.blobs {
            self.push_blob(repository, digest, bytes).await;
        }
        self.push_manifest(repository, tag, image.media_type, &image.manifest).await;
    }

    pub async fn push_blob(&self, repository: &str, digest: &Digest, bytes: &[u8]) {
        let start = self.client.post(self.url(&format!("{repository}/blobs/uploads/"))).send().await.expect("upload");
        let location = start.headers()[LOCATION].to_str().expect("location").to_string();
        let put =
            self.client.put(format!("{location}&digest={digest}")).body(bytes.to_vec()).send().await.expect("put");
        assert!(put.status().is_success(), "{}: {}", put.status(), put.text().await.unwrap_or_default());
    }

    pub async fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let put = self.client.put(self.url(&format!("{repository}/manifests/{tag}")));
        let put = put.header(CONTENT_TYPE, media_type).body(bytes.to_vec()).send().await.expect("put");
        assert!(put.status().is_success(), "{}: {}", put.status(), put.text().await.unwrap_or_default());
    }
}

fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
