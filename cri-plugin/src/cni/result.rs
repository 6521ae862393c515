//! What a plugin prints after ADD, as hostile input: sizes are bounded by `exec`, depth by the JSON parser, addresses here.
//!
//! The result itself is kept as it was printed, so that fields of newer versions reach the next plugin and `crictl`.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::version::Version;
use crate::{Error, Result};

/// A result of 0.3.0 and later, as far as addresses go.
#[derive(Deserialize)]
struct Current {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    /// The pod's namespace; absent for the host's end.
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    interface: Option<i64>,
}

/// A result of 0.1.0 and 0.2.0.
#[derive(Deserialize)]
struct Old {
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
}

/// The printed result, with the version that was spoken if it names none.
pub(super) fn parse(stdout: &[u8], spoken: Version) -> Result<Value> {
    let corrupt = |why: String| Err(Error::corrupt("CNI result", why));
    let mut value: Value = match serde_json::from_slice(stdout) {
        Ok(value) => value,
        Err(e) => return corrupt(format!("not JSON: {e}: {}", super::exec::clip(stdout))),
    };
    let Some(map) = value.as_object_mut() else {
        return corrupt(format!("not an object: {}", super::exec::clip(stdout)));
    };
    if map.get("cniVersion").is_none_or(|version| version.is_null() || version == "") {
        map.insert("cniVersion".into(), spoken.as_str().into());
    }
    version_of(&value).map(|_| value)
}

/// The addresses that a result gives to the pod's interface `ifname`, in its order. Never empty.
///
/// An address that names no interface is the pod's; one on the host's end or on another interface is not.
///
/// # Errors
/// `Corrupt`: the value is no result, an address is none that a pod can have, or there is no address at all.
pub fn addresses(result: &Value, ifname: &str) -> Result<Vec<IpAddr>> {
    let ips =
        if version_of(result)?.has_old_results() { old_addresses(result)? } else { current_addresses(result, ifname)? };
    if ips.is_empty() {
        return Err(Error::corrupt("CNI result", format!("no address for {ifname}")));
    }
    Ok(ips)
}

fn version_of(result: &Value) -> Result<Version> {
    let version = result.get("cniVersion").and_then(Value::as_str).and_then(Version::parse);
    version.ok_or_else(|| Error::corrupt("CNI result", format!("cniVersion {:?} is unknown", result.get("cniVersion"))))
}

fn old_addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let old = Old::deserialize(result).map_err(|e| Error::corrupt("CNI result", e))?;
    old.ip4.iter().chain(&old.ip6).map(|ip| address(&ip.ip)).collect()
}

fn current_addresses(result: &Value, ifname: &str) -> Result<Vec<IpAddr>> {
    let current = Current::deserialize(result).map_err(|e| Error::corrupt("CNI result", e))?;
    let interfaces = current.interfaces.unwrap_or_default();
    let mut ips = Vec::new();
    for ip in current.ips.unwrap_or_default() {
        // An address we do not use must be one all the same.
        let parsed = address(&ip.address)?;
        if is_the_pods(&ip, &interfaces, ifname)? {
            ips.push(parsed);
        }
    }
    Ok(ips)
}

fn is_the_pods(ip: &Ip, interfaces: &[Interface], ifname: &str) -> Result<bool> {
    let Some(index) = ip.interface else { return Ok(true) };
    let interface = usize::try_from(index).ok().and_then(|index| interfaces.get(index)).ok_or_else(|| {
        let why = format!("{} is on interface {index} of {}", ip.address, interfaces.len());
        Error::corrupt("CNI result", why)
    })?;
    Ok(interface.name == ifname && interface.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty()))
}

/// `10.1.2.3/24`: kubelet probes the address from the host, so it must not be one that means the host itself.
fn address(text: &str) -> Result<IpAddr> {
    let corrupt = |why: &str| Error::corrupt("CNI result", format!("address {text:?} {why}"));
    let (ip, prefix) = text.split_once('/').ok_or_else(|| corrupt("has no prefix length"))?;
    let ip: IpAddr = ip.parse().map_err(|_| corrupt("is no IP address"))?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    if !prefix.parse::<u8>().is_ok_and(|prefix| prefix <= max) {
        return Err(corrupt("has no prefix length"));
    }
    let plain = ip.to_canonical();
    if plain.is_unspecified() || plain.is_loopback() || plain.is_multicast() {
        return Err(corrupt("cannot be a pod's"));
    }
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn ips(result: Value) -> Option<Vec<String>> {
        addresses(&result, "eth0").ok().map(|ips| ips.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_of_every_format() {
        let table = [
            (
                json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}, "ip6": {"ip": "fd00::2/64"}}),
                vec!["10.0.0.2", "fd00::2"],
            ),
            (json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.0.0.2/24"}]}), vec!["10.0.0.2"]),
            (
                json!({"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}],
                    "ips": [{"address": "fd00::2/64", "interface": 1}, {"address": "10.0.0.2/24", "interface": 1},
                            {"address": "10.9.0.2/24", "interface": 2}, {"address": "10.0.0.1/24", "interface": 0}]}),
                vec!["fd00::2", "10.0.0.2"],
            ),
            (json!({"cniVersion": "1.1.0", "interfaces": null, "ips": [{"address": "10.0.0.2/32"}]}), vec!["10.0.0.2"]),
        ];
        for (result, expected) in table {
            assert_eq!(ips(result.clone()).expect("addresses"), expected, "{result}");
        }
    }

    #[test]
    fn what_a_pod_cannot_have_is_corrupt() {
        for bad in [
            "10.0.0.2",
            "10.0.0.2/33",
            "fd00::1/129",
            "127.0.0.1/8",
            "::ffff:127.0.0.1/128",
            "0.0.0.0/0",
            "224.0.0.1/4",
            "host/24",
            "10.0.0.2/-1",
            "/",
            "",
        ] {
            assert_eq!(ips(json!({"cniVersion": "1.0.0", "ips": [{"address": bad}]})), None, "{bad:?}");
        }
        for bad in [
            json!({"cniVersion": "1.0.0"}),
            json!({"cniVersion": "1.0.0", "ips": []}),
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "interface": 0}]}),
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "interface": -1}], "interfaces": []}),
            json!({"cniVersion": "7.0.0", "ips": [{"address": "10.0.0.2/24"}]}),
            json!({"cniVersion": "0.2.0", "ips": [{"address": "10.0.0.2/24"}]}),
            json!({"ips": "10.0.0.2/24", "cniVersion": "1.0.0"}),
        ] {
            assert_eq!(ips(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn a_result_is_kept_whole_and_gets_the_spoken_version() {
        let value = parse(br#"{"ips": [], "new": {"a": 1}}"#, Version::V0_4_0).expect("result");
        assert_eq!(value, json!({"ips": [], "new": {"a": 1}, "cniVersion": "0.4.0"}));
        let value = parse(br#"{"cniVersion": "0.3.1"}"#, Version::V1_0_0).expect("result");
        assert_eq!(value["cniVersion"], "0.3.1");
        let deep = format!("{{\"a\":{}", "[".repeat(500_000));
        for bad in ["", "null", "[]", "hello", r#"{"cniVersion": 3}"#, &deep] {
            assert!(parse(bad.as_bytes(), Version::V1_0_0).is_err());
        }
    }

    /// JSON in the shape of a result, with anything in each place.
    fn shaped() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[0-9a-f:./]{0,24}".prop_map(Value::from),
            prop::sample::select(vec!["eth0", "1.0.0", "0.2.0", "10.0.0.2/24", "fd00::2/64"]).prop_map(Value::from),
        ];
        let keys = vec!["cniVersion", "ips", "interfaces", "address", "interface", "name", "sandbox", "ip4", "ip"];
        leaf.prop_recursive(4, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(prop::sample::select(keys.clone()), inner, 0..6)
                    .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&bytes, Version::V1_0_0);
        }

        #[test]
        fn what_is_accepted_is_a_pods_address(value in shaped(), spoken in prop::sample::select(Version::ALL.to_vec())) {
            let text = value.to_string();
            if let Ok(result) = parse(text.as_bytes(), spoken)
                && let Ok(ips) = addresses(&result, "eth0")
            {
                prop_assert!(!ips.is_empty());
                prop_assert!(ips.iter().all(|ip| !ip.is_loopback() && !ip.is_unspecified()));
                // Stored and read again, it says the same.
                prop_assert_eq!(addresses(&parse(result.to_string().as_bytes(), spoken).expect("again"), "eth0").expect("again"), ips);
            }
        }
    }
}
