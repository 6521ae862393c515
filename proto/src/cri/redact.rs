//! `Debug` for messages that carry secrets, which prost would print whole.

use std::fmt;

use super::v1::AuthConfig;

/// Shows who and where; of a secret only whether there is one.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &Secret(&self.password))
            .field("auth", &Secret(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &Secret(&self.identity_token))
            .field("registry_token", &Secret(&self.registry_token))
            .finish()
    }
}

/// Prints as `-` if empty and as `[redacted]` if not, so that not even a length gets out.
struct Secret<'a>(&'a str);

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "-" } else { "[redacted]" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::v1::{AuthConfig, PullImageRequest};

    fn request() -> PullImageRequest {
        let auth = AuthConfig {
            username: "alice".into(),
            password: "SECRET-1".into(),
            auth: "SECRET-2".into(),
            server_address: "registry.example".into(),
            identity_token: "SECRET-3".into(),
            registry_token: "SECRET-4".into(),
        };
        PullImageRequest { auth: Some(auth), ..Default::default() }
    }

    #[test]
    fn no_secret_is_printed_even_from_inside_a_request() {
        for text in [format!("{:?}", request()), format!("{:#?}", request())] {
            assert!(!text.contains("SECRET"), "{text}");
            assert_eq!(text.matches("[redacted]").count(), 4, "{text}");
            assert!(text.contains("alice") && text.contains("registry.example"), "{text}");
        }
    }

    #[test]
    fn an_absent_secret_is_told_from_a_present_one() {
        let text = format!("{:?}", AuthConfig { password: "SECRET".into(), ..Default::default() });
        assert!(text.contains("password: [redacted], auth: -,"), "{text}");
    }

    #[cfg(feature = "json")]
    #[test]
    fn no_secret_is_written_as_json() {
        let json = serde_json::to_value(request()).unwrap();
        assert_eq!(json, serde_json::json!({"auth": {"username": "alice", "server_address": "registry.example"}}));
    }
}
