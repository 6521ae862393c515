//! Two whole specs, as a reader of `config.json` sees them: an ordinary container and a privileged one.
//!
//! After a change that is meant, run with `CLEAT_GOLDEN=write` and read the difference.

use serde_json::Value;

use super::fixture::{self, Case};
use crate::spec::devices::{Kind, Node};
use crate::spec::{container, host::CgroupMode};
use cleat_proto::cri::v1::{KeyValue, LinuxContainerResources, Mount, SecurityProfile};

/// Capabilities are a set: their order means nothing, and differs from run to run.
fn sort_capabilities(spec: &mut Value) {
    let sets = spec.pointer_mut("/process/capabilities").and_then(Value::as_object_mut).expect("capabilities");
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
}

fn compare(case: &Case, name: &str, golden: &str) {
    let spec = container(&case.input()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut got = serde_json::to_value(spec).expect("json");
    sort_capabilities(&mut got);
    if std::env::var_os("CLEAT_GOLDEN").is_some_and(|v| v == "write") {
        let path = format!("{}/src/spec/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, format!("{got:#}\n")).expect("write");
        return;
    }
    let wanted: Value = serde_json::from_str(golden).expect("golden file");
    assert!(got == wanted, "{name} is now:\n{got:#}");
}

#[test]
fn an_ordinary_container() {
    let mut case = Case::new();
    case.config.envs = vec![KeyValue { key: "GREETING".into(), value: b"hello".to_vec() }];
    case.config.mounts = vec![Mount {
        container_path: "/data".into(),
        host_path: "/srv/data".into(),
        readonly: true,
        ..Mount::default()
    }];
    case.config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        cpu_shares: 102,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 968,
        ..Default::default()
    });
    let security = fixture::security(&mut case.config);
    security.seccomp = Some(SecurityProfile::default());
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    security.masked_paths = vec!["/proc/kcore".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
    compare(&case, "ordinary", include_str!("golden/ordinary.json"));
}

#[test]
fn a_privileged_container() {
    let mut case = Case::new();
    case.host.cgroup = CgroupMode::V2;
    case.host.cgroup_options = vec!["nsdelegate".into()];
    case.config.tty = true;
    let security = fixture::security(&mut case.config);
    security.privileged = true;
    security.seccomp = Some(SecurityProfile::default());
    case.probed.devices = vec![Node {
        path: "/dev/kmsg".into(),
        kind: Kind::Char,
        major: 1,
        minor: 11,
        mode: 0o20644,
        uid: 0,
        gid: 0,
        access: None,
    }];
    compare(&case, "privileged", include_str!("golden/privileged.json"));
}
