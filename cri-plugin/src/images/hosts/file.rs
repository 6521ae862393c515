//! The text of one `hosts.toml`. Reads the certificate files it names, nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde::Deserialize;
use toml::Spanned;

use super::{Host, Tls, default_host, namespace};
use crate::{Error, Result};

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    root: Entry,
}

/// The hosts alone: spans, which keep the order of the file, do not pass through `flatten`.
#[derive(Deserialize)]
struct Hosts {
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    capabilities: Vec<String>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    header: BTreeMap<String, OneOrMany>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// `"both.pem"`, `["both.pem", ...]` or `[["cert.pem", "key.pem"], ...]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany>),
}

/// The hosts of a file's text, in its order, the `server` last.
pub(super) fn parse(path: &Path, text: &str, registry: &str) -> Result<Vec<Host>> {
    let wrong = |why: String| Error::invalid(path.display().to_string(), why);
    let file: File = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let hosts: Hosts = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let mut entries: Vec<_> = hosts.host.into_iter().collect();
    entries.sort_by_key(|(url, _)| url.span().start);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut all = Vec::new();
    for (url, entry) in &entries {
        all.push(host(url.get_ref(), entry, folder, registry).map_err(|e| in_file(path, e))?);
    }
    let server = match &file.server {
        Some(server) if !server.is_empty() => host(server, &file.root, folder, registry),
        _ => host(default_host(registry)?.base.as_str(), &file.root, folder, registry),
    };
    all.push(server.map_err(|e| in_file(path, e))?);
    Ok(all)
}

/// An error about a part of the file names the file too.
fn in_file(path: &Path, e: Error) -> Error {
    match e {
        Error::Invalid { what, why } => Error::invalid(path.display().to_string(), format!("{what}: {why}")),
        e => e,
    }
}

fn host(url: &str, entry: &Entry, folder: &Path, registry: &str) -> Result<Host> {
    let base = base_url(url, entry.override_path)?;
    let capability =
        |name: &str| entry.capabilities.is_empty() || entry.capabilities.iter().any(|c| c.eq_ignore_ascii_case(name));
    if let Some(unknown) =
        entry.capabilities.iter().find(|c| !["pull", "resolve", "push"].contains(&c.to_lowercase().as_str()))
    {
        return Err(Error::invalid(url, format!("unknown capability {unknown:?}")));
    }
    Ok(Host {
        namespace: namespace(&base, registry),
        base,
        resolve: capability("resolve"),
        pull: capability("pull"),
        headers: headers(url, &entry.header)?,
        tls: tls(entry, folder)?,
        dial_timeout: entry.dial_timeout.as_deref().map(|d| go_duration(url, d)).transpose()?,
    })
}

/// No scheme is https; no path, and any other without `override_path`, ends in `/v2`.
fn base_url(text: &str, override_path: bool) -> Result<Url> {
    let full = if text.starts_with("http://") || text.starts_with("https://") {
        text.to_string()
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&full).map_err(|e| Error::invalid(text, e.to_string()))?;
    if !url.has_host() || url.query().is_some() || url.fragment().is_some() {
        return Err(Error::invalid(text, "a host is scheme, name, port and path"));
    }
    let path = url.path().trim_end_matches('/').to_string();
    let path = if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&path);
    Ok(url)
}

fn headers(url: &str, header: &BTreeMap<String, OneOrMany>) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, values) in header {
        let wrong = |why: String| Error::invalid(format!("{url} header {name:?}"), why);
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        for value in values.as_slice() {
            let mut value = HeaderValue::from_str(value).map_err(|e| wrong(e.to_string()))?;
            value.set_sensitive(true);
            map.append(key.clone(), value);
        }
    }
    Ok(map)
}

fn tls(entry: &Entry, folder: &Path) -> Result<Tls> {
    let mut tls = Tls { skip_verify: entry.skip_verify, ..Tls::default() };
    for ca in entry.ca.iter().flat_map(OneOrMany::as_slice) {
        tls.add_ca(&folder.join(ca))?;
    }
    match &entry.client {
        None => {}
        Some(Client::One(both)) => tls.add_client(&[folder.join(both)])?,
        Some(Client::Many(many)) => {
            for files in many {
                let files: Vec<_> = files.as_slice().iter().map(|f| folder.join(f)).collect();
                tls.add_client(&files)?;
            }
        }
    }
    Ok(tls)
}

/// `30s`, `1m30s`, `500ms`: Go's durations, without fractions.
fn go_duration(url: &str, text: &str) -> Result<Duration> {
    let wrong = || Error::invalid(url, format!("dial_timeout {text:?} is no duration such as 10s"));
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match &rest[digits..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total = unit.checked_mul(number).and_then(|d| total.checked_add(d)).ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, registry: &str) -> Result<Vec<Host>> {
        parse(Path::new("/certs.d/x/hosts.toml"), text, registry)
    }

    #[test]
    fn hosts_keep_the_order_of_the_file_and_the_server_is_last() {
        let text = r#"
            server = "https://docker.io"
            [host."https://z.example"]
              capabilities = ["pull"]
              dial_timeout = "1m30s"
            [host."http://a.example:5000/prefix"]
              capabilities = ["Pull", "resolve"]
              [host."http://a.example:5000/prefix".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."m.example/v2/proxy"]
              override_path = true
        "#;
        let hosts = parsed(text, "docker.io").expect("parse");
        let bases: Vec<_> = hosts.iter().map(|h| h.base.as_str()).collect();
        let expected = [
            "https://z.example/v2",
            "http://a.example:5000/prefix/v2",
            "https://m.example/v2/proxy",
            "https://docker.io/v2",
        ];
        assert_eq!(bases, expected);
        assert_eq!(hosts.iter().map(|h| h.resolve).collect::<Vec<_>>(), [false, true, true, true]);
        assert_eq!(hosts[0].dial_timeout, Some(Duration::from_secs(90)));
        assert_eq!(hosts[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(hosts[1].headers.get_all("x-two").iter().count(), 2);
    }

    #[test]
    fn no_server_is_the_registry_with_the_roots_settings() {
        let hosts = parsed("skip_verify = true\n[host.\"http://m\"]\n", "docker.io").expect("parse");
        assert_eq!(hosts[1].base.as_str(), "https://registry-1.docker.io/v2");
        assert!(hosts[1].tls.skip_verify && !hosts[0].tls.skip_verify);
        assert_eq!(hosts[1].namespace, None);
        assert!(hosts[1].resolve && hosts[1].pull);
    }

    #[test]
    fn wrong_entries_are_named() {
        for (text, why) in [
            ("[host.\"http://m\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"http://m\"]\ndial_timeout = \"soon\"", "soon"),
            ("[host.\"http://m?x=1\"]", "scheme"),
            ("[host.\"http://m\"]\nca = 1", "ca"),
            ("[host.\"http://m\"]\nca = \"no-such.pem\"", "/certs.d/x/no-such.pem"),
            ("[host.\"http://m\".header]\n\"a b\" = \"1\"", "a b"),
        ] {
            let e = parsed(text, "r").expect_err(text).to_string();
            assert!(e.contains(why), "{text}: {e}");
        }
    }

    #[test]
    fn unknown_keys_are_left_alone() {
        assert_eq!(parsed("[host.\"http://m\"]\nrewrite = 1\n[x]\ny = 2", "r").expect("parse").len(), 2);
    }
}
