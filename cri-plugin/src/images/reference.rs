//! Image references, by the grammar that Docker made and every registry follows (distribution/reference, "Grammar").
//!
//! Pure. A parsed reference is normalised: `nginx` is `docker.io/library/nginx:latest`, and of a tag with a digest only
//! the digest counts, as in containerd. Whether a text is an id or a reference is not decided here.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use crate::{Error, Result};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Registry and repository together ("repository name must not be more than 255 characters").
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A normalised reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    target: Target,
}

/// What of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Whatever the registry says this name is today.
    Tag(String),
    /// This content and no other.
    Digest(Digest),
}

impl Reference {
    /// `docker.io`, `quay.io`, `localhost:5000`: the name, not yet the host that serves it.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Tag or digest.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `docker.io/library/nginx@sha256:...`, whatever the target was.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}/{}:{tag}", self.registry, self.repository),
            Target::Digest(digest) => write!(f, "{}/{}@{digest}", self.registry, self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(100).collect();
        parse(text).map_err(|why| Error::invalid(format!("image reference {shown:?}"), why))
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    if digest.is_none() && tag.is_none() && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hex digits are an id, not a repository".into());
    }
    let (registry, repository) = split_registry(name);
    check_registry(&registry)?;
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > MAX_NAME_BYTES {
        return Err(format!("registry and repository are longer than {MAX_NAME_BYTES} bytes"));
    }
    tag.map(check_tag).transpose()?;
    let target = match (digest, tag) {
        (Some(digest), _) => Target::Digest(digest),
        (None, tag) => Target::Tag(tag.unwrap_or(DEFAULT_TAG).to_string()),
    };
    Ok(Reference { registry, repository, target })
}

/// A colon after the last slash starts a tag; one before it, a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// The first component is a registry if it looks like a host: a dot, a port, `localhost` or a capital letter in it.
fn split_registry(name: &str) -> (String, String) {
    let host_like = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if host_like(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        return (registry.to_string(), format!("library/{repository}"));
    }
    (registry.to_string(), repository.to_string())
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((address, rest)) => {
            let hex = |b: u8| b.is_ascii_hexdigit() || b == b':';
            if address.is_empty() || !address.bytes().all(hex) {
                return Err(format!("{address:?} is no IPv6 address"));
            }
            ("ipv6", rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
        }
        None => registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port))),
    };
    if port.is_some_and(|p| p.is_empty() || p.parse::<u16>().is_err() || p.starts_with('+')) {
        return Err(format!("the port of {registry:?} is no port"));
    }
    if host.split('.').all(is_host_label) { Ok(()) } else { Err(format!("{host:?} is no host name")) }
}

fn is_host_label(label: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = label.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

fn check_repository(repository: &str) -> Result<(), String> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("the repository {repository:?} must be lowercase"));
    }
    match repository.split('/').find(|component| !is_component(component)) {
        Some(component) => Err(format!("{component:?} is no part of a repository's name")),
        None => Ok(()),
    }
}

/// Runs of a-z0-9, between them one dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let separators = bytes.split(|b| alphanumeric(*b)).filter(|run| !run.is_empty());
    let legal = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-');
    let edges = [bytes.first(), bytes.last()];
    edges.iter().all(|e| e.is_some_and(|b| alphanumeric(*b))) && separators.into_iter().all(legal)
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts = tag.bytes().next().is_some_and(word);
    if starts && tag.len() <= MAX_TAG_BYTES && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-')) {
        return Ok(());
    }
    Err(format!("a tag is 1 to {MAX_TAG_BYTES} letters, digits, '_', '.' and '-', and starts with no '.' or '-'"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_normalised() {
        let at = format!("@sha256:{HEX}");
        for (text, normal) in [
            ("nginx".to_string(), "docker.io/library/nginx:latest".to_string()),
            ("nginx:1.27".into(), "docker.io/library/nginx:1.27".into()),
            ("foo/bar".into(), "docker.io/foo/bar:latest".into()),
            ("docker.io/nginx".into(), "docker.io/library/nginx:latest".into()),
            ("index.docker.io/foo/bar:v1".into(), "docker.io/foo/bar:v1".into()),
            ("localhost/a".into(), "localhost/a:latest".into()),
            ("localhost:5000/a/b:c".into(), "localhost:5000/a/b:c".into()),
            ("127.0.0.1:5000/a".into(), "127.0.0.1:5000/a:latest".into()),
            ("[::1]:5000/a:b".into(), "[::1]:5000/a:b".into()),
            ("[fe80::1]/a".into(), "[fe80::1]/a:latest".into()),
            ("quay.io/a/b/c-d__e.f".into(), "quay.io/a/b/c-d__e.f:latest".into()),
            ("Registry/a".into(), "Registry/a:latest".into()),
            (format!("a/b{at}"), format!("docker.io/a/b{at}")),
            (format!("ghcr.io/a:tag{at}"), format!("ghcr.io/a{at}")),
            ("x---y".into(), "docker.io/library/x---y:latest".into()),
        ] {
            let parsed: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.to_string(), normal, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "no part of a repository"),
            ("Nginx", "lowercase"),
            ("a/Nginx", "lowercase"),
            ("a//b", "no part"),
            ("../etc", "no host name"),
            ("a/../b", "no part"),
            ("a:", "a tag is"),
            ("a:-x", "a tag is"),
            ("a: b", "a tag is"),
            ("a___b", "no part"),
            ("a..b", "no part"),
            ("-a", "no part"),
            ("a_", "no part"),
            ("host:x/a", "port"),
            ("host:99999/a", "port"),
            ("-h.io/a", "no host name"),
            ("[::g]/a", "IPv6"),
            ("[::1]x/a", "port"),
            ("a@sha256:12", "64 lowercase hex"),
            ("a@md5:12", "only sha256"),
            ("a\u{0}b", "no part"),
            ("docker.io/", "no part"),
            (HEX, "an id"),
        ] {
            let e = text.parse::<Reference>().expect_err(text).to_string();
            assert!(e.contains(why), "{text:?}: {e}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let name = format!("q.io/{}", "a".repeat(250));
        assert!(name.parse::<Reference>().is_ok());
        assert!(format!("{name}a").parse::<Reference>().is_err());
        assert!(format!("a:{}", "t".repeat(128)).parse::<Reference>().is_ok());
        assert!(format!("a:{}", "t".repeat(129)).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_and_what_parses_is_stable(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().expect("normalised parses");
                prop_assert_eq!(again, reference);
            }
        }

        #[test]
        fn likely_texts_are_stable_and_hold_no_path_tricks(text in "[a-cA.:/@_\\[\\]-]{0,24}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().expect("normalised parses");
                prop_assert!(!reference.registry().contains(['/', '\0']));
                prop_assert!(!reference.name().split('/').any(|c| c == "." || c == ".." || c.is_empty()));
                prop_assert_eq!(again, reference);
            }
        }
    }
}
