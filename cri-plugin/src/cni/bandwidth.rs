//! A pod's traffic limits: the `kubernetes.io/{ingress,egress}-bandwidth` annotations and the CNI `bandwidth` capability.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// What a burst is where nobody says: the `bandwidth` plugin demands one and takes 32 bits.
const DEFAULT_BURST_BITS: u64 = i32::MAX as u64;

/// Rates in bits per second, bursts in bits. `None`: unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Into the pod.
    pub ingress_bps: Option<u64>,
    /// May be exceeded by so much at once; `None`: 2^31 - 1.
    pub ingress_burst_bits: Option<u64>,
    /// Out of the pod.
    pub egress_bps: Option<u64>,
    /// As of ingress.
    pub egress_burst_bits: Option<u64>,
}

impl Bandwidth {
    /// The limits that a pod's annotations ask for; `None` if they ask for none.
    ///
    /// # Errors
    /// `Invalid` for what is no quantity or lies outside 1k to 1P bits per second (Kubernetes' own bounds).
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let rate = |key: &str| annotations.get(key).map(|text| rate(key, text)).transpose();
        let ingress_bps = rate("kubernetes.io/ingress-bandwidth")?;
        let egress_bps = rate("kubernetes.io/egress-bandwidth")?;
        let asked = ingress_bps.is_some() || egress_bps.is_some();
        Ok(asked.then_some(Self { ingress_bps, egress_bps, ..Self::default() }))
    }

    /// The value of the `bandwidth` capability (CONVENTIONS.md).
    pub(super) fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut limit = |name: &str, rate: Option<u64>, burst: Option<u64>| {
            if let Some(rate) = rate {
                map.insert(format!("{name}Rate"), rate.into());
                map.insert(format!("{name}Burst"), burst.unwrap_or(DEFAULT_BURST_BITS).into());
            }
        };
        limit("ingress", self.ingress_bps, self.ingress_burst_bits);
        limit("egress", self.egress_bps, self.egress_burst_bits);
        Value::Object(map)
    }
}

fn rate(key: &str, text: &str) -> Result<u64> {
    const BOUNDS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
    match quantity(text) {
        Some(rate) if BOUNDS.contains(&rate) => Ok(rate),
        Some(_) => Err(Error::invalid(format!("annotation {key}"), format!("{text:?} is not between 1k and 1P"))),
        None => Err(Error::invalid(format!("annotation {key}"), format!("{text:?} is no quantity, such as 10M"))),
    }
}

/// A Kubernetes quantity (apimachinery `resource.Quantity`), rounded up to a whole number.
fn quantity(text: &str) -> Option<u64> {
    let number = text.trim_start_matches('+');
    let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    let (digits, suffix) = number.split_at(end);
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    let value: f64 = digits.parse().ok()?;
    let scaled = (value * scale(suffix)?).ceil();
    // Up to here a double holds every whole number.
    (scaled <= (1u64 << 53) as f64).then_some(scaled as u64)
}

fn scale(suffix: &str) -> Option<f64> {
    Some(match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-3..=15).contains(&exponent).then(|| 10f64.powi(exponent))?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [
            ("1000", Some(1000)),
            ("10M", Some(10_000_000)),
            ("1.5k", Some(1500)),
            ("1Ki", Some(1024)),
            ("1e6", Some(1_000_000)),
            ("1500m", Some(2)),
            ("", None),
            ("M", None),
            ("10MB", None),
            ("-5", None),
            ("1.2.3", None),
            ("1e400", None),
            ("9999999999999999999999", None),
        ];
        for (text, expected) in table {
            assert_eq!(quantity(text), expected, "{text:?}");
        }
    }

    #[test]
    fn annotations_become_limits_or_an_error_that_names_them() {
        let of = |text: &str| {
            Bandwidth::from_annotations(&BTreeMap::from([("kubernetes.io/egress-bandwidth".into(), text.into())]))
        };
        let limits = of("10M").expect("quantity").expect("limits");
        assert_eq!(limits.to_json(), serde_json::json!({"egressRate": 10_000_000, "egressBurst": 2_147_483_647}));
        assert!(of("1").expect_err("below 1k").to_string().contains("kubernetes.io/egress-bandwidth"));
        assert!(of("fast").is_err());
        assert_eq!(Bandwidth::from_annotations(&BTreeMap::new()).expect("none"), None);
    }
}
