//! Which hosts serve a registry: containerd's `certs.d/HOST/hosts.toml` (its docs/hosts.md), read anew at each pull, so
//! that an edit counts at once.
//!
//! Two differences, both on purpose. A file that does not parse is an error that names it, where containerd falls back to
//! the public registry behind the administrator's back. And plain http is spoken only where a URL says `http://`:
//! localhost is no exception. Unknown keys are left alone: the file is not ours. Pushing is absent.

mod file;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderMap;
use reqwest::Url;

use crate::{Error, Result};
pub use tls::Tls;

/// One host that may serve a registry's content.
#[derive(Debug, Clone)]
pub struct Host {
    /// The API's root, `https://registry-1.docker.io/v2`, without a slash at its end.
    pub base: Url,
    /// Whether it may say what a tag is.
    pub resolve: bool,
    /// Whether content may be fetched from it by digest.
    pub pull: bool,
    /// Sent with every request to it, to no other host.
    pub headers: HeaderMap,
    /// How TLS is spoken with it.
    pub tls: Tls,
    /// How long a connection may take.
    pub dial_timeout: Option<Duration>,
    /// For a mirror, the registry it stands for: sent as the query `ns`.
    pub namespace: Option<String>,
}

impl Host {
    /// `name:port` as in URLs, for messages and for comparing.
    pub fn authority(&self) -> String {
        authority(&self.base)
    }
}

/// Host and, where it is written, port of a URL.
pub fn authority(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_string(),
    }
}

/// The hosts of `registry` (validated: a part of a parsed reference) in the order in which they are asked. The first of
/// `dirs` that has a folder for it decides. Blocks.
///
/// # Errors
/// `Invalid` naming the file that is wrong; `Io` for one that cannot be read.
pub fn hosts_of(dirs: &[PathBuf], registry: &str) -> Result<Vec<Host>> {
    for dir in dirs {
        for name in folder_names(registry) {
            let folder = dir.join(name);
            if folder.is_dir() {
                return read_folder(&folder, registry);
            }
        }
    }
    Ok(vec![default_host(registry)?])
}

/// Names that a registry's folder may have, by preference.
fn folder_names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':').filter(|(host, _)| !host.is_empty()) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_string());
    names.push("_default".to_string());
    names
}

fn read_folder(folder: &Path, registry: &str) -> Result<Vec<Host>> {
    let path = folder.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => file::parse(&path, &text, registry),
        Ok(_) => Ok(vec![Host { tls: Tls::of_folder(folder)?, ..default_host(registry)? }]),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Ok(vec![Host { tls: Tls::of_folder(folder)?, ..default_host(registry)? }])
        }
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// The registry itself, over https.
fn default_host(registry: &str) -> Result<Host> {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let url = format!("https://{host}/v2");
    let base = Url::parse(&url).map_err(|e| Error::invalid(format!("registry {registry:?}"), e.to_string()))?;
    Ok(Host {
        namespace: None,
        base,
        resolve: true,
        pull: true,
        headers: HeaderMap::new(),
        tls: Tls::default(),
        dial_timeout: None,
    })
}

/// A host that is not the registry itself is told which registry it stands for.
fn namespace(base: &Url, registry: &str) -> Option<String> {
    let host = authority(base);
    let itself = host == registry || (registry == "docker.io" && host == "registry-1.docker.io");
    (!itself).then(|| registry.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(hosts: &[Host]) -> Vec<String> {
        hosts.iter().map(|h| h.base.to_string()).collect()
    }

    #[test]
    fn without_a_file_it_is_the_registry_over_https() {
        let hosts = |registry| bases(&hosts_of(&["/nonexistent".into()], registry).expect("hosts"));
        assert_eq!(hosts("docker.io"), ["https://registry-1.docker.io/v2"]);
        assert_eq!(hosts("localhost:5000"), ["https://localhost:5000/v2"]);
        assert_eq!(hosts("[::1]:5000"), ["https://[::1]:5000/v2"]);
    }

    #[test]
    fn the_first_folder_wins_in_all_its_spellings() {
        let dir = tempfile::tempdir().expect("tempdir");
        let dirs = [dir.path().join("a"), dir.path().join("b")];
        let put = |folder: &str, server: &str| {
            let folder = dir.path().join(folder);
            std::fs::create_dir_all(&folder).expect("mkdir");
            std::fs::write(folder.join("hosts.toml"), format!("server = \"{server}\"\n")).expect("write");
        };
        put("b/h:1", "http://b-colon");
        assert_eq!(bases(&hosts_of(&dirs, "h:1").expect("hosts")), ["http://b-colon/v2"]);
        put("b/_default", "http://default");
        assert_eq!(bases(&hosts_of(&dirs, "other").expect("hosts")), ["http://default/v2"]);
        put("b/h_1_", "http://b-underscore");
        assert_eq!(bases(&hosts_of(&dirs, "h:1").expect("hosts")), ["http://b-underscore/v2"]);
        put("a/h:1", "http://a-colon");
        assert_eq!(bases(&hosts_of(&dirs, "h:1").expect("hosts")), ["http://a-colon/v2"]);
    }

    #[test]
    fn a_folder_of_certificates_alone_is_tls_for_the_registry() {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = dir.path().join("r.example");
        std::fs::create_dir(&folder).expect("mkdir");
        std::fs::write(folder.join("ca.crt"), "CA").expect("write");
        std::fs::write(folder.join("client.cert"), "CERT\n").expect("write");
        std::fs::write(folder.join("client.key"), "KEY\n").expect("write");
        let hosts = hosts_of(&[dir.path().into()], "r.example").expect("hosts");
        assert_eq!(bases(&hosts), ["https://r.example/v2"]);
        assert_eq!(hosts[0].tls.ca, [b"CA".to_vec()]);
        assert_eq!(hosts[0].tls.client.as_deref(), Some(&b"CERT\nKEY\n"[..]));
    }

    #[test]
    fn a_wrong_file_is_an_error_and_no_way_round_the_mirror() {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = dir.path().join("docker.io");
        std::fs::create_dir(&folder).expect("mkdir");
        std::fs::write(folder.join("hosts.toml"), "server = [").expect("write");
        let e = hosts_of(&[dir.path().into()], "docker.io").expect_err("no toml").to_string();
        assert!(e.contains("docker.io/hosts.toml"), "{e}");
    }
}
