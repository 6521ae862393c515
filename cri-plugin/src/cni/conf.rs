//! A network configuration list, judged and prepared once when it is loaded.
//!
//! Errors are plain texts: they end in NetworkReady's message, behind the file's name. Nothing is looked up here: that a
//! plugin is not installed shows when it is called, as with libcni.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::version::Version;

/// A network: its plugins in the order of ADD.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
    version: Version,
    check: Support,
    gc: Support,
    plugins: Vec<Plugin>,
    source: Value,
}

/// Whether a command may be sent to the network's plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Support {
    Offered,
    Absent,
}

/// One plugin of a network.
#[derive(Debug)]
pub(super) struct Plugin {
    /// `type`: the name of its binary, never a path.
    pub(super) kind: String,
    /// Those it declares.
    capabilities: BTreeSet<String>,
    /// A `runtimeConfig` that the file itself holds; what the runtime says wins over it.
    runtime_config: Map<String, Value>,
    /// Its configuration with the network's name and version, as text without the closing brace.
    head: String,
    source: Value,
}

impl Network {
    /// A list, as `*.conflist` holds it.
    pub(super) fn from_list(source: Value) -> Result<Self, String> {
        let list = source.as_object().ok_or("not a JSON object")?;
        let name = name_of(list)?.to_owned();
        let version = version_of(list)?;
        let plugins = match list.get("plugins") {
            Some(Value::Array(plugins)) if !plugins.is_empty() => plugins,
            Some(Value::Array(_)) => return Err("\"plugins\" is empty".into()),
            _ => return Err("\"plugins\" is missing or not a list".into()),
        };
        let plugins = plugins.iter().map(|plugin| Plugin::new(plugin, &name, version)).collect::<Result<_, _>>()?;
        let check = offered(version.has_check(), list, "disableCheck")?;
        let gc = offered(version.has_gc_and_status(), list, "disableGC")?;
        Ok(Self { name, version, check, gc, plugins, source })
    }

    /// A lone plugin, as `*.conf` and `*.json` hold it, as a list of one.
    pub(super) fn from_plugin(source: Value) -> Result<Self, String> {
        let plugin = source.as_object().ok_or("not a JSON object")?;
        if !plugin.contains_key("type") {
            return Err("\"type\" is missing (a list of plugins belongs in a *.conflist)".into());
        }
        let mut list = Map::new();
        for key in ["name", "cniVersion"] {
            if let Some(value) = plugin.get(key) {
                list.insert(key.into(), value.clone());
            }
        }
        list.insert("plugins".into(), json!([source]));
        Self::from_list(Value::Object(list))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// In the order of ADD.
    pub(super) fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// The list itself, for `from_list` at another time.
    pub(super) fn source(&self) -> &Value {
        &self.source
    }

    /// Whether CHECK may be sent.
    pub(super) fn checks(&self) -> bool {
        self.check == Support::Offered
    }

    /// Whether GC may be sent.
    pub(super) fn collects(&self) -> bool {
        self.gc == Support::Offered
    }

    /// Whether STATUS may be sent.
    pub(super) fn reports(&self) -> bool {
        self.version.has_gc_and_status()
    }

    /// As containerd's `crictl info` shows it.
    pub(super) fn describe(&self) -> Value {
        let plugins: Vec<Value> = self.plugins.iter().map(Plugin::describe).collect();
        json!({
            "Name": self.name,
            "CNIVersion": self.version.as_str(),
            "Plugins": plugins,
            "Source": self.source.to_string(),
        })
    }
}

impl Plugin {
    fn new(source: &Value, network: &str, version: Version) -> Result<Self, String> {
        let mut map = source.as_object().ok_or("a plugin is not a JSON object")?.clone();
        let kind = match map.get("type") {
            Some(Value::String(kind)) if is_file_name(kind) => kind.clone(),
            Some(kind) => return Err(format!("plugin type {kind} is not the name of a binary")),
            None => return Err("a plugin has no \"type\"".into()),
        };
        let capabilities = match map.get("capabilities") {
            Some(Value::Object(all)) => {
                all.iter().filter(|(_, on)| **on == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
            }
            None | Some(Value::Null) => BTreeSet::new(),
            Some(_) => return Err(format!("\"capabilities\" of plugin {kind} is not an object")),
        };
        let runtime_config = match map.remove("runtimeConfig") {
            Some(Value::Object(given)) => given,
            _ => Map::new(),
        };
        // A result belongs to one pod: a file cannot hold it.
        map.remove("prevResult");
        map.insert("name".into(), network.into());
        map.insert("cniVersion".into(), version.as_str().into());
        let mut head = Value::Object(map).to_string();
        head.pop();
        Ok(Self { kind, capabilities, runtime_config, head, source: source.clone() })
    }

    /// What the plugin reads on its standard input (CNI specification, section 4, "Deriving request configuration").
    pub(super) fn request(&self, asked: &Map<String, Value>, more: &[(&str, &Value)]) -> Vec<u8> {
        let mut runtime_config = self.runtime_config.clone();
        let declared = asked.iter().filter(|(name, _)| self.capabilities.contains(*name));
        runtime_config.extend(declared.map(|(name, value)| (name.clone(), value.clone())));
        let mut text = self.head.clone();
        // The head is never empty: it holds name and version.
        let mut add = |key: &str, value: &str| text.extend([",\"", key, "\":", value]);
        if !runtime_config.is_empty() {
            add("runtimeConfig", &Value::Object(runtime_config).to_string());
        }
        for (key, value) in more {
            add(key, &value.to_string());
        }
        text.push('}');
        text.into_bytes()
    }

    fn describe(&self) -> Value {
        let mut network = Map::new();
        network.insert("type".into(), self.kind.as_str().into());
        if let Some(capabilities) = self.source.get("capabilities") {
            network.insert("capabilities".into(), capabilities.clone());
        }
        let ipam = self.source.get("ipam").and_then(|ipam| ipam.get("type"));
        network.insert("ipam".into(), ipam.map_or_else(|| json!({}), |kind| json!({ "type": kind })));
        network.insert("dns".into(), self.source.get("dns").cloned().unwrap_or_else(|| json!({})));
        json!({ "Network": network, "Source": self.source.to_string() })
    }
}

/// `name`, which plugins use as a folder and as a part of rule names: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
fn name_of(list: &Map<String, Value>) -> Result<&str, String> {
    let name = list.get("name").and_then(Value::as_str).ok_or("\"name\" is missing")?;
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(inner) {
        Ok(name)
    } else {
        Err(format!("name {name:?} is not letters, digits, '_', '.' and '-', a letter or digit first"))
    }
}

/// The version to speak: `cniVersion`, or the newest of `cniVersions` that we know (1.1.0).
fn version_of(list: &Map<String, Value>) -> Result<Version, String> {
    let wanted = match list.get("cniVersion") {
        None => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(other) => return Err(format!("cniVersion {other} is not a string")),
    };
    let offered = match list.get("cniVersions") {
        None => Vec::new(),
        Some(Value::Array(all)) => {
            let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("cniVersions holds more than strings");
            all.iter().map(text).collect::<Result<Vec<_>, _>>()?
        }
        Some(_) => return Err("cniVersions is not a list".into()),
    };
    let known = offered.iter().map(String::as_str).chain(wanted).filter_map(Version::parse).max();
    match known {
        Some(version) => Ok(version),
        None if wanted.is_none() && offered.is_empty() => Ok(Version::V0_1_0),
        None => {
            let [oldest, .., newest] = Version::ALL;
            Err(format!("cniVersion {} is not one of {oldest} to {newest}", wanted.unwrap_or("in cniVersions")))
        }
    }
}

/// `disableCheck` and `disableGC` are booleans, or strings of them (libcni takes both).
fn offered(by_version: bool, list: &Map<String, Value>, disable: &str) -> Result<Support, String> {
    let disabled = match list.get(disable) {
        None => false,
        Some(Value::Bool(disabled)) => *disabled,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => false,
        Some(other) => return Err(format!("{disable} {other} is neither true nor false")),
    };
    Ok(if by_version && !disabled { Support::Offered } else { Support::Absent })
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && !matches!(text, "." | "..") && !text.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(more: Value) -> Value {
        let mut list = json!({"name": "pods", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]});
        list.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        list
    }

    #[test]
    fn the_version_is_negotiated() {
        let table = [
            (json!({}), Some("1.0.0")),
            (json!({"cniVersion": ""}), Some("0.1.0")),
            (json!({"cniVersion": "0.3.1", "cniVersions": ["0.4.0", "1.1.0", "9.0.0"]}), Some("1.1.0")),
            (json!({"cniVersion": "9.0.0", "cniVersions": ["0.4.0"]}), Some("0.4.0")),
            (json!({"cniVersion": "9.0.0"}), None),
            (json!({"cniVersion": 1}), None),
            (json!({"cniVersions": [1]}), None),
        ];
        for (more, expected) in table {
            let version = Network::from_list(list(more.clone())).map(|n| n.version().as_str());
            assert_eq!(version.as_deref().ok(), expected.as_ref().copied(), "{more}");
        }
        let none = json!({"name": "pods", "plugins": [{"type": "x"}]});
        assert_eq!(Network::from_list(none).expect("no version").version(), Version::V0_1_0);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let table = [
            json!([]),
            json!({"cniVersion": "1.0.0", "plugins": [{"type": "x"}]}),
            list(json!({"name": "../etc"})),
            list(json!({"name": ""})),
            list(json!({"plugins": []})),
            list(json!({"plugins": {}})),
            list(json!({"plugins": ["bridge"]})),
            list(json!({"plugins": [{}]})),
            list(json!({"plugins": [{"type": "../../bin/sh"}]})),
            list(json!({"plugins": [{"type": ".."}]})),
            list(json!({"plugins": [{"type": 7}]})),
            list(json!({"plugins": [{"type": "x", "capabilities": ["portMappings"]}]})),
            list(json!({"disableCheck": "perhaps"})),
        ];
        for bad in table {
            assert!(Network::from_list(bad.clone()).is_err(), "{bad}");
        }
        assert!(Network::from_plugin(list(json!({}))).expect_err("a list").contains("conflist"));
    }

    #[test]
    fn check_and_gc_follow_version_and_switches() {
        let of = |more: Value| {
            let network = Network::from_list(list(more)).expect("network");
            (network.checks(), network.collects())
        };
        assert_eq!(of(json!({"cniVersion": "0.3.1"})), (false, false));
        assert_eq!(of(json!({})), (true, false));
        assert_eq!(of(json!({"cniVersion": "1.1.0"})), (true, true));
        assert_eq!(of(json!({"cniVersion": "1.1.0", "disableCheck": true, "disableGC": "True"})), (false, false));
    }

    #[test]
    fn a_request_holds_the_declared_capabilities_and_the_result() {
        let plugin = json!({"type": "x", "own": 1, "prevResult": {}, "runtimeConfig": {"kept": 1, "mac": "old"},
            "capabilities": {"mac": true, "ips": false}});
        let network = Network::from_plugin({
            let mut plugin = plugin;
            plugin["name"] = "pods".into();
            plugin["cniVersion"] = "0.4.0".into();
            plugin
        })
        .expect("network");
        let asked = json!({"mac": "m", "ips": ["i"], "dns": {}});
        let previous = json!({"ips": []});
        let request = network.plugins()[0].request(asked.as_object().expect("object"), &[("prevResult", &previous)]);
        let expected = json!({"type": "x", "own": 1, "name": "pods", "cniVersion": "0.4.0", "prevResult": {"ips": []},
            "runtimeConfig": {"kept": 1, "mac": "m"}, "capabilities": {"mac": true, "ips": false}});
        assert_eq!(serde_json::from_slice::<Value>(&request).expect("JSON"), expected);
    }
}
