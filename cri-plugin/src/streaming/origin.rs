//! Whether a page in a browser may talk to this server: no. Tokens cannot be guessed, but a page that learnt one must not
//! get a shell by it either.
//!
//! kubelet passes on what its clients send, a dashboard's Origin included, and adds X-Forwarded-For; a browser lets no page set
//! that header on a WebSocket, nor elsewhere without a preflight that is never answered. So it tells a proxy from a page.

use http::header::ORIGIN;
use http::{HeaderMap, Uri};

/// Whether a request with these headers may be served by the server at `own`, an address with its port.
pub fn is_allowed(headers: &HeaderMap, own: &str) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    if headers.contains_key("x-forwarded-for") {
        return true;
    }
    // Compared with our own address, not with Host: that is the attacker's word where names are rebound.
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    origin.and_then(|origin| origin.authority().map(|authority| authority.as_str() == own)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_refused_and_proxies_are_not() {
        let own = "127.0.0.1:4000";
        let table = [
            (None, false, true),
            (Some("http://127.0.0.1:4000"), false, true),
            (Some("http://127.0.0.1:4001"), false, false),
            (Some("https://dashboard.example.com"), false, false),
            (Some("https://dashboard.example.com"), true, true),
            (Some("null"), false, false),
            (Some(""), false, false),
        ];
        for (origin, forwarded, allowed) in table {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().expect("value"));
            }
            if forwarded {
                headers.insert("x-forwarded-for", "10.0.0.1".parse().expect("value"));
            }
            assert_eq!(is_allowed(&headers, own), allowed, "{origin:?}");
        }
    }
}
