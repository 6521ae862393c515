//! JSON of CRI messages as Go's `encoding/json` writes the Go types: field names of the interface, empty fields left
//! out, enums as numbers. Tools that read `crictl inspect` rely on it.
//!
//! Deliberately absent: reading such JSON, and protobuf's own JSON mapping, which differs (camel case, numbers as
//! strings).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

/// Whether a field is left out: zero, false, empty or unset.
pub(super) fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes in base64.
pub(super) fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    STANDARD.encode(bytes).serialize(serializer)
}

/// Bytes as text, with U+FFFD in place of what is no UTF-8.
pub(super) fn text<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    String::from_utf8_lossy(bytes).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use crate::cri::v1;

    #[test]
    fn an_empty_message_is_an_empty_object() {
        assert_eq!(serde_json::to_string(&v1::ContainerConfig::default()).unwrap(), "{}");
    }

    #[test]
    fn fields_have_the_names_and_shapes_of_the_go_types() {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "web".into(), attempt: 0 }),
            envs: vec![
                v1::KeyValue { key: "A".into(), value: b"b".to_vec() },
                v1::KeyValue { key: "RAW".into(), value: b"a\xff".to_vec() },
            ],
            mounts: vec![v1::Mount {
                uid_mappings: vec![v1::IdMapping { host_id: 1, container_id: 0, length: 2 }],
                propagation: v1::MountPropagation::PropagationBidirectional.into(),
                ..Default::default()
            }],
            cdi_devices: vec![v1::CdiDevice { name: "v.com/c=d".into() }],
            labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), String::new())]),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let expected = json!({
            "metadata": {"name": "web"},
            "envs": [{"key": "A", "value": "b"}, {"key": "RAW", "value": "a\u{fffd}"}],
            "mounts": [{"propagation": 2, "uidMappings": [{"host_id": 1, "length": 2}]}],
            "labels": {"a": "", "b": "2"},
            "linux": {},
            "CDI_devices": [{"name": "v.com/c=d"}],
        });
        assert_eq!(serde_json::to_value(&config).unwrap(), expected);
    }

    #[test]
    fn psi_keeps_its_capitals_and_bytes_are_base64() {
        let psi = v1::PsiStats { some: Some(v1::PsiData { total: 7, avg10: 0.5, ..Default::default() }), full: None };
        assert_eq!(serde_json::to_value(psi).unwrap(), json!({"Some": {"Total": 7, "Avg10": 0.5}}));
        let output = v1::ExecSyncResponse { stdout: b"hi\xff".to_vec(), exit_code: 1, ..Default::default() };
        assert_eq!(serde_json::to_value(output).unwrap(), json!({"stdout": "aGn/", "exit_code": 1}));
    }
}
