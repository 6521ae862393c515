//! The spec of a pause container, for shims that hold a pod by one: any but our own.
//!
//! It runs a program that Cleat carries, so it gets nothing: no capability, no device, a read-only root. Its filter is
//! the default one even where the pod names a profile of the node: that was written for the pod's own programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::LinuxSandboxSecurityContext;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxCpu, LinuxResources, LinuxSeccomp, Mount, Process, Root, Spec, User,
};

use super::mounts::{self, Kernel};
use super::seccomp::{self, Choice};
use super::{
    Features, Host, OCI_VERSION, Sandbox, annotations, cgroup, devices, namespaces, paths, resources, sandbox_security,
    security, user,
};
use crate::{Result, config};

/// The user of the pause images everybody knows.
const NOBODY: u32 = 65535;
/// Killed last (kubelet's score for a pod's own process).
const OOM_SCORE_ADJ: i32 = -998;
/// The least share of the CPU there is.
const CPU_SHARES: u64 = 2;

/// Everything that decides what a pause container's spec says.
#[derive(Debug, Clone, Copy)]
pub struct Pause<'a> {
    /// The pod; its network and user namespaces are made.
    pub sandbox: Sandbox<'a>,
    /// What is executed.
    pub args: &'a [String],
    /// What the root filesystem is called.
    pub image_name: &'a str,
    /// The pod's sysctls ([`super::sysctls`]), which the runtime writes.
    pub sysctls: &'a BTreeMap<String, String>,
    /// The pod's cgroup.
    pub cgroup: &'a cgroup::Parent,
    /// This host.
    pub host: &'a Host,
    /// What the handler's OCI runtime can do.
    pub features: Features,
    /// The handler's section of the configuration.
    pub handler: &'a config::Runtime,
    /// The `[containers]` section of the configuration.
    pub containers: &'a config::Containers,
    /// The pod's `/etc/resolv.conf`, which a VM's guest reads.
    pub resolv_conf: Option<&'a Path>,
    /// The pod's `/dev/shm`.
    pub shm: Option<&'a Path>,
}

/// The OCI runtime spec of a pod's pause container.
///
/// # Errors
/// `Invalid` with the field of the pod's configuration; `Unsupported` for what this host cannot do.
pub fn pause(input: &Pause<'_>) -> Result<Spec> {
    let pod = input.sandbox.config;
    let hostname = Some(pod.hostname.clone()).filter(|name| !name.is_empty() && !namespaces::host_network(pod));
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(true));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_hostname(hostname)
        .set_root(Some(root))
        .set_mounts(Some(all_mounts(input)?))
        .set_annotations(Some(annotations::sandbox(input.sandbox, &input.handler.pod_annotations, input.image_name)?))
        .set_linux(Some(linux(input)?))
        .set_process(Some(process(input)?));
    Ok(spec)
}

fn all_mounts(input: &Pause<'_>) -> Result<Vec<Mount>> {
    let kernel = Kernel { pod: input.sandbox.config, host: input.host, features: input.features, privileged: false };
    let mut out = mounts::kernel(&kernel)?;
    // A remount in a user namespace must keep the flags the source came with: they are given outright.
    let options = ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
    for (place, source) in [("/dev/shm", input.shm), ("/etc/resolv.conf", input.resolv_conf)] {
        out.extend(source.map(|s| mounts::bind(place.into(), PathBuf::from(s), mounts::words(&options))));
    }
    out.sort_by_key(|m| m.destination().components().count());
    Ok(out)
}

fn linux(input: &Pause<'_>) -> Result<Linux> {
    let pod = input.sandbox.config;
    let (uids, gids) = namespaces::mappings(pod)?.map_or((None, None), |m| (Some(m.uids), Some(m.gids)));
    let mut out = Linux::default();
    out.set_namespaces(Some(namespaces::of_pause(pod, input.sandbox.namespaces, input.host)?))
        .set_uid_mappings(uids)
        .set_gid_mappings(gids)
        .set_sysctl(Some(input.sysctls.iter().map(|(k, v)| (k.clone(), v.clone())).collect()))
        .set_cgroups_path(Some(cgroup::pause_path(input.cgroup, input.sandbox.id)))
        .set_resources(Some(limits()))
        .set_masked_paths(Some(paths::default_masked()))
        .set_readonly_paths(Some(paths::default_read_only()))
        .set_mount_label(security::pod_selinux(pod, input.host)?.map(|l| l.file))
        .set_seccomp(filter(input)?);
    Ok(out)
}

fn limits() -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(CPU_SHARES));
    let mut out = resources::empty();
    out.set_cpu(Some(cpu)).set_devices(Some(devices::none()));
    out
}

fn filter(input: &Pause<'_>) -> Result<Option<LinuxSeccomp>> {
    let Some(context) = sandbox_security(input.sandbox.config) else { return Ok(None) };
    if context.privileged || !input.host.seccomp || seccomp::of_pod(context)? == Choice::Unconfined {
        return Ok(None);
    }
    seccomp::profile::default(&Capabilities::new(), &input.host.arch).map(Some)
}

fn process(input: &Pause<'_>) -> Result<Process> {
    let labels = security::pod_selinux(input.sandbox.config, input.host)?;
    let mut out = Process::default();
    out.set_terminal(Some(false))
        .set_console_size(None)
        .set_user(identity(input)?)
        .set_args(Some(input.args.to_vec()))
        .set_env(Some(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()]))
        .set_cwd("/".into())
        .set_capabilities(Some(no_capabilities()))
        .set_rlimits(None)
        .set_no_new_privileges(Some(true))
        .set_selinux_label(labels.map(|l| l.process))
        .set_oom_score_adj(Some(resources::clamp(OOM_SCORE_ADJ, input.host, input.containers)));
    Ok(out)
}

fn no_capabilities() -> LinuxCapabilities {
    let none = || Some(Capabilities::new());
    let mut out = LinuxCapabilities::default();
    out.set_bounding(none()).set_permitted(none()).set_effective(none()).set_inheritable(none()).set_ambient(none());
    out
}

/// The pod's own choice, else nobody, else, in a user namespace that has no such id, its root.
fn identity(input: &Pause<'_>) -> Result<User> {
    let field = |name: &str| format!("linux.security_context.{name}");
    let none = LinuxSandboxSecurityContext::default();
    let context = sandbox_security(input.sandbox.config).unwrap_or(&none);
    let mapped = namespaces::mappings(input.sandbox.config)?;
    let has_nobody = |m: &namespaces::Mappings| [&m.uids, &m.gids].iter().all(|r| namespaces::has(r, NOBODY));
    let default = if mapped.as_ref().is_none_or(has_nobody) { NOBODY } else { 0 };
    let uid = context.run_as_user.as_ref().map(|v| user::id(field("run_as_user"), v.value)).transpose()?;
    let gid = context.run_as_group.as_ref().map(|v| user::id(field("run_as_group"), v.value)).transpose()?;
    let gid = gid.unwrap_or(if uid.is_some() { 0 } else { default });
    let mut groups = vec![gid];
    for (i, group) in context.supplemental_groups.iter().enumerate() {
        groups.push(user::id(field(&format!("supplemental_groups[{i}]")), *group)?);
    }
    groups.sort_unstable();
    groups.dedup();
    let mut out = User::default();
    out.set_uid(uid.unwrap_or(default)).set_gid(gid).set_additional_gids(Some(groups));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture::{self, Case};
    use cleat_proto::cri::v1::{IdMapping, Int64Value, NamespaceMode, NamespaceOption, SecurityProfile, UserNamespace};

    fn run(case: &Case) -> Spec {
        let input = case.input();
        let pause = Pause {
            sandbox: input.sandbox,
            args: &["/pause".to_owned()],
            image_name: "cleat/pause",
            sysctls: &[("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
            cgroup: input.cgroup,
            host: input.host,
            features: input.features,
            handler: input.handler,
            containers: input.containers,
            resolv_conf: input.volumes.resolv_conf,
            shm: input.volumes.shm,
        };
        super::pause(&pause).unwrap_or_else(|e| panic!("{e}"))
    }

    fn kinds(spec: &Spec) -> Vec<String> {
        let all = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref()).expect("namespaces");
        all.iter().map(|n| format!("{}{}", n.typ(), if n.path().is_some() { "!" } else { "" })).collect()
    }

    #[test]
    fn it_makes_what_containers_join_and_may_do_nothing() {
        let mut case = Case::new();
        let context = fixture::pod_security(&mut case.pod);
        context.privileged = false;
        context.seccomp = Some(SecurityProfile { profile_type: 2, localhost_ref: "/p.json".into() });
        let spec = run(&case);
        assert_eq!(kinds(&spec), ["mnt", "net!", "uts", "ipc", "pid"]);
        assert_eq!(spec.hostname().as_deref(), Some("pod"));
        let process = spec.process().as_ref().expect("process");
        assert_eq!((process.user().uid(), process.user().gid(), process.oom_score_adj()), (65535, 65535, Some(-998)));
        let capabilities = process.capabilities().as_ref().expect("capabilities");
        assert_eq!(capabilities.bounding().as_ref().map(Capabilities::len), Some(0));
        let linux = spec.linux().as_ref().expect("linux");
        assert!(linux.seccomp().is_some() && linux.sysctl().as_ref().is_some_and(|s| s.len() == 1));
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new(&format!("/pods/pod1/{}", case.sandbox_id))));
        assert_eq!(spec.root().as_ref().and_then(Root::readonly), Some(true));
    }

    #[test]
    fn the_hosts_namespaces_are_left_out() {
        let mut case = Case::new();
        let node = NamespaceMode::Node as i32;
        let options = NamespaceOption { network: node, pid: node, ipc: node, ..NamespaceOption::default() };
        fixture::pod_security(&mut case.pod).namespace_options = Some(options);
        let spec = run(&case);
        assert_eq!((kinds(&spec), spec.hostname()), (vec!["mnt".to_owned()], &None));
    }

    #[test]
    fn its_user() {
        let mut case = Case::new();
        let context = fixture::pod_security(&mut case.pod);
        context.run_as_user = Some(Int64Value { value: 7 });
        context.supplemental_groups = vec![9];
        let user = |case: &Case| run(case).process().as_ref().expect("process").user().clone();
        let got = user(&case);
        assert_eq!((got.uid(), got.gid(), got.additional_gids().clone()), (7, 0, Some(vec![0, 9])));
        let range = vec![IdMapping { host_id: 1 << 20, container_id: 0, length: 100 }];
        let userns_options = Some(UserNamespace { mode: 0, uids: range.clone(), gids: range });
        let context = fixture::pod_security(&mut case.pod);
        context.run_as_user = None;
        context.namespace_options = Some(NamespaceOption { userns_options, ..NamespaceOption::default() });
        assert_eq!((user(&case).uid(), kinds(&run(&case)).last().map(String::as_str)), (0, Some("user!")));
    }
}
