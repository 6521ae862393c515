//! The default filter, made from the table for a machine and a container's capabilities.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};

use crate::Result;
use crate::spec::built;

use super::table::{ALWAYS, MACHINES, WITH};

/// Every CLONE_NEW* flag that `clone` takes (sched.h).
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// linux/socket.h: sockets to the hypervisor, which no namespace separates.
const AF_VSOCK: u64 = 40;
/// linux/personality.h: Linux, Linux32, each with UNAME26, and "which one am I".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The filter of a container with these capabilities on `machine`, as Rust names machines.
///
/// # Errors
/// None that the table could cause.
pub fn default(capabilities: &Capabilities, machine: &str) -> Result<LinuxSeccomp> {
    let known = MACHINES.iter().find(|m| m.name == machine);
    let gated = WITH.iter().filter(|(capability, _)| capabilities.contains(capability)).map(|(_, calls)| *calls);
    let subjects = ALWAYS.into_iter().chain(known.map(|m| m.calls)).chain(gated);
    let mut names: Vec<&str> = subjects.flat_map(str::split_whitespace).collect();
    names.sort_unstable();
    names.dedup();

    let mut rules = vec![allow(&names, None), allow(&["socket"], Some(built(arg(Op::ScmpCmpNe, AF_VSOCK).build())?))];
    for personality in PERSONALITIES {
        rules.push(allow(&["personality"], Some(built(arg(Op::ScmpCmpEq, personality).build())?)));
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.extend(plain_clone(machine)?);
    }
    let mut out = LinuxSeccomp::default();
    out.set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(known.map_or(vec![Arch::ScmpArchNative], |m| m.architectures.to_vec())))
        .set_syscalls(Some(rules));
    Ok(out)
}

/// `clone` without new namespaces. `clone3` hides its flags behind a pointer, so it is "not there": the C library then
/// falls back to `clone`.
fn plain_clone(machine: &str) -> Result<[LinuxSyscall; 2]> {
    // s390's clone takes the stack first and the flags second.
    let flags = usize::from(machine == "s390x");
    let masked = built(arg(Op::ScmpCmpMaskedEq, NEW_NAMESPACES).index(flags).value_two(0u64).build())?;
    let mut clone3 = rule(&["clone3"], LinuxSeccompAction::ScmpActErrno);
    clone3.set_errno_ret(Some(ENOSYS));
    Ok([allow(&["clone"], Some(masked)), clone3])
}

fn allow(names: &[&str], arg: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut out = rule(names, LinuxSeccompAction::ScmpActAllow);
    out.set_args(arg.map(|a| vec![a]));
    out
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut out = LinuxSyscall::default();
    out.set_names(names.iter().map(|n| (*n).to_owned()).collect()).set_action(action);
    out
}

/// A condition on the first argument.
fn arg(op: Op, value: u64) -> LinuxSeccompArgBuilder {
    LinuxSeccompArgBuilder::default().index(0usize).op(op).value(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(capabilities: &[Capability], machine: &str, call: &str) -> bool {
        let filter = default(&capabilities.iter().copied().collect(), machine).expect("filter");
        let rules = filter.syscalls().as_ref().expect("rules");
        let free = |r: &&LinuxSyscall| r.action() == LinuxSeccompAction::ScmpActAllow && r.args().is_none();
        rules.iter().filter(free).any(|r| r.names().iter().any(|n| n == call))
    }

    #[test]
    fn capabilities_open_calls() {
        for (capability, call) in [
            (Capability::SysAdmin, "mount"),
            (Capability::SysAdmin, "clone3"),
            (Capability::SysTime, "settimeofday"),
            (Capability::Syslog, "syslog"),
            (Capability::SysChroot, "chroot"),
        ] {
            assert!(!allowed(&[], "x86_64", call), "{call}");
            assert!(allowed(&[capability], "x86_64", call), "{call}");
        }
    }

    #[test]
    fn machines_have_their_own() {
        for (machine, call, wanted) in [
            ("x86_64", "arch_prctl", true),
            ("aarch64", "arch_prctl", false),
            ("aarch64", "set_tls", true),
            ("s390x", "s390_runtime_instr", true),
            ("loongarch64", "read", true),
        ] {
            assert_eq!(allowed(&[], machine, call), wanted, "{machine} {call}");
        }
        let filter = default(&Capabilities::new(), "loongarch64").expect("filter");
        assert_eq!(filter.architectures().as_deref(), Some(&[Arch::ScmpArchNative][..]));
    }

    #[test]
    fn new_namespaces_need_sys_admin() {
        let clone = |machine: &str| {
            let filter = default(&Capabilities::new(), machine).expect("filter");
            let rules = filter.syscalls().clone().expect("rules");
            let rule = rules.into_iter().find(|r| r.names() == &["clone"]).expect("clone");
            rule.args().as_ref().expect("args")[0]
        };
        assert_eq!((clone("x86_64").index(), clone("s390x").index()), (0, 1));
        assert_eq!((clone("x86_64").value(), clone("x86_64").value_two()), (2_114_060_288, Some(0)));
    }
}
