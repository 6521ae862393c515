//! Which of the credentials that came with a call are shown to which host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::images::Auth;
use crate::images::digest::Digest;
use crate::images::hosts::Host;
use crate::{Error, Result};

/// One host's credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// None, or they are for another host.
    Anonymous,
    /// Shown to the host (Basic) or to its token server (Bearer).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// Shown to the token server alone.
    Identity {
        /// The refresh token.
        token: String,
    },
    /// Shown to the host as it is.
    Bearer {
        /// The bearer token.
        token: String,
    },
}

impl std::fmt::Debug for Credentials {
    /// Nothing secret may reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

impl Credentials {
    /// What of `auth` is for `host`. Without a server address it is for every host that the administrator put before the
    /// registry, as in containerd; with one, for that host alone.
    ///
    /// # Errors
    /// `Invalid` if `auth.auth` is not base64 of `user:password`.
    pub fn for_host(auth: Option<&Auth>, host: &Host, registry: &str) -> Result<Self> {
        let Some(auth) = auth else { return Ok(Self::Anonymous) };
        if !auth.server_address.is_empty() && !is_for(&auth.server_address, host, registry) {
            return Ok(Self::Anonymous);
        }
        if !auth.registry_token.is_empty() {
            return Ok(Self::Bearer { token: auth.registry_token.clone() });
        }
        if !auth.identity_token.is_empty() {
            return Ok(Self::Identity { token: auth.identity_token.clone() });
        }
        if !auth.username.is_empty() {
            return Ok(Self::Basic { user: auth.username.clone(), password: auth.password.clone() });
        }
        if auth.auth.is_empty() { Ok(Self::Anonymous) } else { decode(&auth.auth) }
    }

    /// The `Authorization` header of Basic, if these are such credentials.
    pub fn basic_header(&self) -> Option<HeaderValue> {
        match self {
            Self::Basic { user, password } => {
                secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            _ => None,
        }
    }

    /// Tells credentials apart without keeping them.
    pub fn fingerprint(&self) -> Digest {
        let parts: [&str; 3] = match self {
            Self::Anonymous => ["anonymous", "", ""],
            Self::Basic { user, password } => ["basic", user, password],
            Self::Identity { token } => ["identity", token, ""],
            Self::Bearer { token } => ["bearer", token, ""],
        };
        Digest::of(format!("{parts:?}").as_bytes())
    }
}

/// A header that no debug output shows; none if the text cannot be one.
pub fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn decode(auth: &str) -> Result<Credentials> {
    let wrong = || Error::invalid("auth", "it is not base64 of user:password");
    let bytes = STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    // Docker once padded the password with NULs.
    Ok(Credentials::Basic { user: user.to_string(), password: password.trim_end_matches('\0').to_string() })
}

/// Whether a server address (`https://index.docker.io/v1/`, `quay.io`) means this host.
fn is_for(address: &str, host: &Host, registry: &str) -> bool {
    let bare = address.trim_start_matches("https://").trim_start_matches("http://");
    let wanted = one_name(bare.split('/').next().unwrap_or(bare));
    let own = host.namespace.is_none() && wanted == one_name(registry);
    own || wanted == one_name(&host.authority())
}

/// Docker Hub has many names.
fn one_name(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::hosts::hosts_of;

    fn host(registry: &str) -> Host {
        hosts_of(&[], registry).expect("hosts").remove(0)
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.into(), password: password.into() }
    }

    #[test]
    fn all_four_forms_are_understood() {
        let of = |auth: Auth| Credentials::for_host(Some(&auth), &host("q.io"), "q.io").expect("credentials");
        let plain = Auth { username: "u".into(), password: "p".into(), ..Auth::default() };
        assert_eq!(of(plain.clone()), basic("u", "p"));
        assert_eq!(of(Auth { auth: STANDARD.encode("u:p:q\0\0"), ..Auth::default() }), basic("u", "p:q"));
        let identity = Auth { identity_token: "i".into(), ..plain.clone() };
        assert_eq!(of(identity), Credentials::Identity { token: "i".into() });
        let registry = Auth { registry_token: "r".into(), ..plain };
        assert_eq!(of(registry), Credentials::Bearer { token: "r".into() });
        assert_eq!(of(Auth::default()), Credentials::Anonymous);
        let bad = Auth { auth: "!".into(), ..Auth::default() };
        assert!(Credentials::for_host(Some(&bad), &host("q.io"), "q.io").is_err());
    }

    #[test]
    fn a_server_address_limits_them_to_that_host() {
        let of = |address: &str, registry: &str, mirror: Option<&str>| {
            let auth =
                Auth { username: "u".into(), password: "p".into(), server_address: address.into(), ..Auth::default() };
            let mut to = host(mirror.unwrap_or(registry));
            to.namespace = mirror.map(|_| registry.to_string());
            Credentials::for_host(Some(&auth), &to, registry).expect("credentials") != Credentials::Anonymous
        };
        assert!(of("", "q.io", None) && of("", "q.io", Some("mirror")));
        assert!(of("https://index.docker.io/v1/", "docker.io", None));
        assert!(of("q.io", "q.io", None) && of("http://h:5000/v2", "h:5000", None));
        assert!(!of("q.io", "ghcr.io", None));
        assert!(!of("q.io", "q.io", Some("mirror")));
        assert!(of("mirror", "q.io", Some("mirror")));
    }
}
