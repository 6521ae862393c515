//! One table for pods, one for containers: a change to a good configuration, and the field the refusal names.

use super::*;
use crate::spec::tests::fixture::{self, Case};
use cleat_proto::cri::v1::{
    CdiDevice, Device, DnsConfig, ImageSpec, Int64Value, KeyValue, LinuxContainerResources, Mount, NamespaceOption,
    PortMapping,
};

type ChangePod = fn(&mut PodSandboxConfig);
type ChangeContainer = fn(&mut ContainerConfig);

fn port(container: i32, host: i32, ip: &str) -> PortMapping {
    PortMapping { container_port: container, host_port: host, host_ip: ip.into(), ..PortMapping::default() }
}

#[test]
fn good_ones_pass() {
    let mut case = Case::new();
    case.pod.port_mappings = vec![port(80, 8080, ""), port(80, 0, "::1"), port(0, 0, "")];
    case.pod.dns_config = Some(DnsConfig {
        servers: vec!["10.0.0.10".into(), "fe80::1%eth0".into()],
        searches: vec!["svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    });
    fixture::pod_linux(&mut case.pod).cgroup_parent = "/kubepods.slice/kubepods-pod1.slice".into();
    sandbox_config(&case.pod).expect("pod");
    case.config.cdi_devices = vec![CdiDevice { name: "vendor.com/gpu=0".into() }];
    container_config(&case.config, &case.pod).expect("container");
}

#[test]
fn pods_are_refused_by_field() {
    let table: [(ChangePod, &str); 17] = [
        (|p| p.metadata = None, "metadata"),
        (|p| p.metadata.get_or_insert_default().name = String::new(), "metadata.name"),
        (|p| p.metadata.get_or_insert_default().name = "a;K8S_POD_NAME=b".into(), "metadata.name"),
        (|p| p.metadata.get_or_insert_default().name = "x".repeat(513), "metadata.name"),
        (|p| p.metadata.get_or_insert_default().namespace = "../x".into(), "metadata.namespace"),
        (|p| p.metadata.get_or_insert_default().uid = "a\nb".into(), "metadata.uid"),
        (|p| p.hostname = "a b".into(), "hostname"),
        (|p| p.hostname = "a".repeat(65), "hostname"),
        (|p| p.log_directory = "/var/log/../../etc".into(), "log_directory"),
        (|p| p.log_directory = "logs".into(), "log_directory"),
        (
            |p| p.dns_config.get_or_insert_default().options = vec!["a\nnameserver 1.1.1.1".into()],
            "dns_config.options[0]",
        ),
        (|p| p.port_mappings = vec![port(80, 70000, "")], "port_mappings[0].host_port"),
        (|p| p.port_mappings = vec![port(0, 80, "")], "port_mappings[0].container_port"),
        (|p| p.port_mappings = vec![port(80, 80, "localhost")], "port_mappings[0].host_ip"),
        (|p| p.port_mappings = vec![PortMapping { protocol: 9, ..port(80, 80, "") }], "port_mappings[0].protocol"),
        (|p| fixture::pod_linux(p).cgroup_parent = "/a/../b".into(), "linux.cgroup_parent"),
        (
            |p| fixture::pod_security(p).run_as_group = Some(Int64Value { value: 1 }),
            "linux.security_context.run_as_group",
        ),
    ];
    for (change, field) in table {
        let mut pod = fixture::pod();
        change(&mut pod);
        let e = sandbox_config(&pod).expect_err(field).to_string();
        assert!(e.starts_with(&format!("invalid {field}: ")), "{field}: {e}");
    }
}

#[test]
fn pods_on_unknown_namespaces_or_the_hosts_sysctls() {
    let mut pod = fixture::pod();
    fixture::pod_security(&mut pod).namespace_options = Some(NamespaceOption { pid: 3, ..NamespaceOption::default() });
    assert!(sandbox_config(&pod).expect_err("TARGET").to_string().contains("namespace_options.pid"));
    let mut pod = fixture::pod();
    fixture::pod_linux(&mut pod).sysctls = [("kernel.core_pattern".to_owned(), "x".to_owned())].into();
    assert!(sandbox_config(&pod).expect_err("sysctl").to_string().contains("kernel.core_pattern"));
}

#[test]
fn containers_are_refused_by_field() {
    let table: [(ChangeContainer, &str); 19] = [
        (|c| c.metadata = None, "metadata"),
        (|c| c.metadata.get_or_insert_default().name = "..".into(), "metadata.name"),
        (|c| c.image = Some(ImageSpec::default()), "image.image"),
        (|c| c.command = vec!["a".into(), "b\0".into()], "command[1]"),
        (|c| c.args = vec!["\0".into()], "args[0]"),
        (|c| c.envs = vec![KeyValue { key: "A".into(), value: vec![0xff] }], "envs[0]"),
        (|c| c.working_dir = "x".into(), "working_dir"),
        (|c| c.log_path = "../0.log".into(), "log_path"),
        (|c| c.log_path = "/var/0.log".into(), "log_path"),
        (|c| c.log_path = "a/b\n".into(), "log_path"),
        (|c| c.mounts = vec![Mount::default()], "mounts[0].container_path"),
        (|c| c.devices = vec![Device::default()], "devices[0].host_path"),
        (|c| c.cdi_devices = vec![CdiDevice { name: "gpu".into() }], "CDI_devices[0].name"),
        (|c| c.stop_signal = 99, "stop_signal"),
        (|c| fixture::security(c).run_as_user = Some(Int64Value { value: -1 }), "linux.security_context.run_as_user"),
        (|c| fixture::security(c).masked_paths = vec!["proc".into()], "linux.security_context.masked_paths[0]"),
        (
            |c| fixture::security(c).capabilities.get_or_insert_default().drop_capabilities = vec!["FLY".into()],
            "linux.security_context.capabilities.drop_capabilities",
        ),
        (
            |c| fixture::security(c).seccomp.get_or_insert_default().profile_type = 5,
            "linux.security_context.seccomp.profile_type",
        ),
        (
            |c| {
                let limits = LinuxContainerResources { oom_score_adj: 5000, ..Default::default() };
                c.linux.get_or_insert_default().resources = Some(limits);
            },
            "linux.resources.oom_score_adj",
        ),
    ];
    for (change, field) in table {
        let mut case = Case::new();
        change(&mut case.config);
        let e = container_config(&case.config, &case.pod).expect_err(field).to_string();
        assert!(e.starts_with(&format!("invalid {field}: ")), "{field}: {e}");
    }
}

#[test]
fn privilege_is_the_pods_to_grant() {
    let mut case = Case::new();
    fixture::security(&mut case.config).privileged = true;
    container_config(&case.config, &case.pod).expect("granted");
    fixture::pod_security(&mut case.pod).privileged = false;
    let e = container_config(&case.config, &case.pod).expect_err("not granted").to_string();
    assert!(e.contains("linux.security_context.privileged"), "{e}");
}

#[test]
fn logs_stay_in_their_directory() {
    let case = Case::new();
    let path = log_path(&case.pod, &case.config).expect("path").expect("some");
    assert_eq!(path, Path::new("/var/log/pods/default_pod_uid-1/main/0.log"));
    let without = ContainerConfig::default();
    assert_eq!(log_path(&case.pod, &without).expect("path"), None);
    assert_eq!(log_path(&PodSandboxConfig::default(), &case.config).expect("path"), None);
}
