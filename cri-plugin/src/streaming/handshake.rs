//! What protocol a client is spoken to in: pure, from its headers. Clients list what they can, best first; the first that
//! we can wins.

use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::websocket::channel::Codec;

/// Where SPDY's clients list their protocols.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Where they are told ours if none fits.
pub const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The version of the remote command protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The first, with errors as text.
    V1,
    /// The same, its faults mended.
    V2,
    /// Terminals can be resized.
    V3,
    /// Errors are a Status in JSON, with the exit code.
    V4,
    /// WebSocket channels can end.
    V5,
}

/// What carries an exec or an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// Streams by their headers.
    Spdy(Version),
    /// Channels by their numbers.
    WebSocket(Version, Codec),
}

/// What carries forwarded ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Pairs of streams.
    Spdy,
    /// The same, within a WebSocket.
    Tunnel,
    /// Pairs of channels.
    WebSocket(Codec),
}

/// What was agreed on: how to go on, and the protocol to name in the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreed<T> {
    /// How to go on.
    pub carrier: T,
    /// Empty where the client named none.
    pub protocol: &'static str,
    /// For a WebSocket, the client's key.
    pub key: Option<String>,
}

/// Why there is no session.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// Its text.
    pub why: String,
    /// What would be accepted, for SPDY.
    pub accepted: Vec<&'static str>,
}

const REMOTE_SPDY: [(&str, Remote); 4] = [
    ("v4.channel.k8s.io", Remote::Spdy(Version::V4)),
    ("v3.channel.k8s.io", Remote::Spdy(Version::V3)),
    ("v2.channel.k8s.io", Remote::Spdy(Version::V2)),
    ("channel.k8s.io", Remote::Spdy(Version::V1)),
];

const REMOTE_WEBSOCKET: [(&str, Remote); 6] = [
    ("v5.channel.k8s.io", Remote::WebSocket(Version::V5, Codec::BinaryWithClose)),
    ("v4.channel.k8s.io", Remote::WebSocket(Version::V4, Codec::Binary)),
    ("v4.base64.channel.k8s.io", Remote::WebSocket(Version::V4, Codec::Base64)),
    ("channel.k8s.io", Remote::WebSocket(Version::V1, Codec::Binary)),
    ("base64.channel.k8s.io", Remote::WebSocket(Version::V1, Codec::Base64)),
    ("", Remote::WebSocket(Version::V1, Codec::Binary)),
];

const FORWARD_SPDY: [(&str, Forward); 1] = [("portforward.k8s.io", Forward::Spdy)];

const FORWARD_WEBSOCKET: [(&str, Forward); 4] = [
    ("SPDY/3.1+portforward.k8s.io", Forward::Tunnel),
    ("v4.channel.k8s.io", Forward::WebSocket(Codec::Binary)),
    ("v4.base64.channel.k8s.io", Forward::WebSocket(Codec::Base64)),
    ("", Forward::WebSocket(Codec::Binary)),
];

/// For an exec or an attach.
pub fn remote(headers: &HeaderMap) -> Result<Agreed<Remote>, Refusal> {
    agree(headers, &REMOTE_SPDY, &REMOTE_WEBSOCKET)
}

/// For forwarded ports.
pub fn forward(headers: &HeaderMap) -> Result<Agreed<Forward>, Refusal> {
    agree(headers, &FORWARD_SPDY, &FORWARD_WEBSOCKET)
}

type Table<T> = [(&'static str, T)];

fn agree<T: Copy>(headers: &HeaderMap, spdy: &Table<T>, websocket: &Table<T>) -> Result<Agreed<T>, Refusal> {
    let upgrades = listed(headers, &UPGRADE);
    let wants = |name: &str| upgrades.iter().any(|upgrade| upgrade.eq_ignore_ascii_case(name));
    if !listed(headers, &CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(bad("the request does not ask for an upgrade (Connection: Upgrade)".into()));
    }
    if wants("websocket") {
        let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).map(str::to_string);
        if key.is_none() || headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(bad("a WebSocket needs Sec-WebSocket-Key, and Sec-WebSocket-Version 13".into()));
        }
        let mut offered = listed(headers, &SEC_WEBSOCKET_PROTOCOL);
        if offered.is_empty() {
            offered.push("");
        }
        return Ok(Agreed { key, ..choose(&offered, websocket)? });
    }
    if !wants("SPDY/3.1") {
        return Err(bad(format!("cannot upgrade to {upgrades:?}: it is websocket or SPDY/3.1 that is spoken here")));
    }
    match listed(headers, &STREAM_PROTOCOL) {
        offered if offered.is_empty() => Err(bad(format!("the header {STREAM_PROTOCOL} is missing"))),
        offered => choose(&offered, spdy),
    }
}

fn choose<T: Copy>(offered: &[&str], table: &Table<T>) -> Result<Agreed<T>, Refusal> {
    let known = |name: &&str| table.iter().find(|(known, _)| known == name);
    if let Some(&(protocol, carrier)) = offered.iter().find_map(known) {
        return Ok(Agreed { carrier, protocol, key: None });
    }
    let accepted: Vec<_> = table.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    let why = format!("the client speaks {offered:?}, the server {accepted:?}");
    Err(Refusal { status: StatusCode::FORBIDDEN, why, accepted })
}

fn bad(why: String) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, why, accepted: Vec::new() }
}

/// The words of a header that may come several times and hold several words each.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("value"))).collect()
    }

    fn spdy(protocols: &'static str) -> HeaderMap {
        headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocols)])
    }

    fn websocket(protocols: &'static str) -> HeaderMap {
        let mut all = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "key"),
        ]);
        if !protocols.is_empty() {
            all.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().expect("value"));
        }
        all
    }

    #[test]
    fn the_clients_first_choice_that_is_known_wins() {
        let table = [
            (spdy("v4.channel.k8s.io, channel.k8s.io"), Remote::Spdy(Version::V4)),
            (spdy("v9.channel.k8s.io,v2.channel.k8s.io"), Remote::Spdy(Version::V2)),
            (websocket("v5.channel.k8s.io"), Remote::WebSocket(Version::V5, Codec::BinaryWithClose)),
            (websocket("base64.channel.k8s.io, v5.channel.k8s.io"), Remote::WebSocket(Version::V1, Codec::Base64)),
            (websocket(""), Remote::WebSocket(Version::V1, Codec::Binary)),
        ];
        for (headers, carrier) in table {
            assert_eq!(remote(&headers).expect("agreed").carrier, carrier);
        }
        assert_eq!(forward(&spdy("portforward.k8s.io")).expect("agreed").carrier, Forward::Spdy);
        let tunnel = forward(&websocket("SPDY/3.1+portforward.k8s.io")).expect("agreed");
        assert_eq!((tunnel.carrier, tunnel.protocol), (Forward::Tunnel, "SPDY/3.1+portforward.k8s.io"));
        let mut twice = spdy("nonsense");
        twice.append(STREAM_PROTOCOL, "v3.channel.k8s.io".parse().expect("value"));
        assert_eq!(remote(&twice).expect("agreed").carrier, Remote::Spdy(Version::V3));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let status = |headers: &HeaderMap| remote(headers).expect_err("refused").status;
        assert_eq!(status(&headers(&[])), StatusCode::BAD_REQUEST);
        assert_eq!(status(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])), StatusCode::BAD_REQUEST);
        assert_eq!(status(&headers(&[("connection", "upgrade"), ("upgrade", "SPDY/3.1")])), StatusCode::BAD_REQUEST);
        assert_eq!(status(&headers(&[("connection", "upgrade"), ("upgrade", "websocket")])), StatusCode::BAD_REQUEST);
        assert_eq!(status(&websocket("v7.channel.k8s.io")), StatusCode::FORBIDDEN);
        let refusal = remote(&spdy("portforward.k8s.io")).expect_err("refused");
        assert_eq!((refusal.status, refusal.accepted.len()), (StatusCode::FORBIDDEN, 4));
    }
}
