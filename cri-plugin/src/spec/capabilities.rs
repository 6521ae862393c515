//! Capabilities: the default set, what the container adds and drops, and what this host can give at all.
//!
//! The inheritable set holds what is ambient and nothing else: an inheritable set equal to the bounding one let programs
//! with file capabilities gain more than the container was given (CVE-2022-24769).

use cleat_proto::cri::v1::ContainerConfig;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::{Host, privileged, security};
use crate::{Error, Result};

use Capability as C;

/// Every capability Linux has, at the index that is its number (linux/capability.h).
const ALL: [Capability; 41] = [
    C::Chown,
    C::DacOverride,
    C::DacReadSearch,
    C::Fowner,
    C::Fsetid,
    C::Kill,
    C::Setgid,
    C::Setuid,
    C::Setpcap,
    C::LinuxImmutable,
    C::NetBindService,
    C::NetBroadcast,
    C::NetAdmin,
    C::NetRaw,
    C::IpcLock,
    C::IpcOwner,
    C::SysModule,
    C::SysRawio,
    C::SysChroot,
    C::SysPtrace,
    C::SysPacct,
    C::SysAdmin,
    C::SysBoot,
    C::SysNice,
    C::SysResource,
    C::SysTime,
    C::SysTtyConfig,
    C::Mknod,
    C::Lease,
    C::AuditWrite,
    C::AuditControl,
    C::Setfcap,
    C::MacOverride,
    C::MacAdmin,
    C::Syslog,
    C::WakeAlarm,
    C::BlockSuspend,
    C::AuditRead,
    C::Perfmon,
    C::Bpf,
    C::CheckpointRestore,
];

/// What a container has that asks for nothing: containerd's and docker's set.
const DEFAULT: [Capability; 14] = [
    C::Chown,
    C::DacOverride,
    C::Fsetid,
    C::Fowner,
    C::Mknod,
    C::NetRaw,
    C::Setgid,
    C::Setuid,
    C::Setfcap,
    C::Setpcap,
    C::NetBindService,
    C::SysChroot,
    C::Kill,
    C::AuditWrite,
];

/// A container's capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sets {
    /// Bounding, permitted and effective.
    pub bounding: Capabilities,
    /// Ambient and inheritable; within `bounding`.
    pub ambient: Capabilities,
}

impl Sets {
    /// As the OCI spec has them.
    pub fn oci(&self) -> LinuxCapabilities {
        let mut out = LinuxCapabilities::default();
        out.set_bounding(Some(self.bounding.clone()))
            .set_permitted(Some(self.bounding.clone()))
            .set_effective(Some(self.bounding.clone()))
            .set_inheritable(Some(self.ambient.clone()))
            .set_ambient(Some(self.ambient.clone()));
        out
    }
}

/// One entry of a list: `ALL`, or one capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    All,
    One(Capability),
}

/// The container's capabilities (CRI api.proto, `Capability`).
///
/// `ALL` in `drop` starts from nothing, `ALL` in `add` from everything the host has, and of both the smaller wins, as in
/// containerd; single names come after, drops last. Defaults the host lacks are left out, for the peers' images run on hosts that lack one; what was asked for by
/// name is not.
///
/// # Errors
/// `Invalid` for a name that is no capability, `Unsupported` for one that the host's bounding set lacks.
pub fn sets(config: &ContainerConfig, host: &Host) -> Result<Sets> {
    let everything = of_bits(host.bounding);
    if privileged(config) {
        return Ok(Sets { bounding: everything, ambient: Capabilities::new() });
    }
    let asked = security(config).and_then(|s| s.capabilities.clone()).unwrap_or_default();
    let add = entries("add_capabilities", &asked.add_capabilities)?;
    let drop = entries("drop_capabilities", &asked.drop_capabilities)?;
    let add_ambient = entries("add_ambient_capabilities", &asked.add_ambient_capabilities)?;

    let mut bounding = if drop.contains(&Entry::All) {
        Capabilities::new()
    } else if add.contains(&Entry::All) {
        everything.clone()
    } else {
        DEFAULT.into_iter().filter(|c| everything.contains(c)).collect()
    };
    bounding.extend(named("add_capabilities", &add, &everything)?);
    let mut ambient = if add_ambient.contains(&Entry::All) { everything.clone() } else { Capabilities::new() };
    ambient.extend(named("add_ambient_capabilities", &add_ambient, &everything)?);
    bounding.extend(&ambient);
    for entry in drop {
        if let Entry::One(capability) = entry {
            bounding.remove(&capability);
            ambient.remove(&capability);
        }
    }
    Ok(Sets { bounding, ambient })
}

/// Checks the three lists' spelling, for which no host is needed.
pub(super) fn check(asked: &cleat_proto::cri::v1::Capability) -> Result<()> {
    entries("add_capabilities", &asked.add_capabilities)?;
    entries("drop_capabilities", &asked.drop_capabilities)?;
    entries("add_ambient_capabilities", &asked.add_ambient_capabilities)?;
    Ok(())
}

fn field(list: &str) -> String {
    format!("linux.security_context.capabilities.{list}")
}

fn entries(list: &str, names: &[String]) -> Result<Vec<Entry>> {
    names.iter().map(|n| parse(n).map_err(|why| Error::invalid(field(list), why))).collect()
}

/// The single names of a list, each of which the host must have.
fn named(list: &str, entries: &[Entry], host: &Capabilities) -> Result<Capabilities> {
    let ones = entries.iter().filter_map(|e| match e {
        Entry::One(capability) => Some(*capability),
        Entry::All => None,
    });
    ones.map(|c| match host.contains(&c) {
        true => Ok(c),
        false => Err(Error::Unsupported {
            what: format!("{}: CAP_{c} (the bounding set of the daemon on this host lacks it)", field(list)),
        }),
    })
    .collect()
}

/// `NET_ADMIN`, `cap_net_admin`, `ALL`.
fn parse(name: &str) -> Result<Entry, String> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" {
        return Ok(Entry::All);
    }
    let found = ALL.into_iter().find(|c| c.to_string() == bare);
    found.map(Entry::One).ok_or_else(|| format!("{name:?} is no capability"))
}

fn of_bits(bits: u64) -> Capabilities {
    ALL.into_iter().enumerate().filter(|(number, _)| bits & (1 << number) != 0).map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture;
    use proptest::prelude::*;

    fn asked(add: &str, drop: &str, ambient: &str) -> ContainerConfig {
        let list = |words: &str| words.split_whitespace().map(String::from).collect();
        let capabilities = cleat_proto::cri::v1::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: list(ambient),
        };
        fixture::with_security(|s| s.capabilities = Some(capabilities))
    }

    fn set(words: &str) -> Capabilities {
        words
            .split_whitespace()
            .map(|w| match parse(w).expect("name") {
                Entry::One(c) => c,
                Entry::All => panic!("ALL"),
            })
            .collect()
    }

    #[test]
    fn add_and_drop() {
        let host = fixture::host();
        let default: Capabilities = DEFAULT.into();
        let everything = of_bits(host.bounding);
        let minus = |base: &Capabilities, words: &str| base.difference(&set(words)).copied().collect::<Capabilities>();
        let plus = |base: &Capabilities, words: &str| base.union(&set(words)).copied().collect::<Capabilities>();
        for (add, drop, wanted) in [
            ("", "", default.clone()),
            ("NET_ADMIN", "", plus(&default, "NET_ADMIN")),
            ("cap_net_admin", "Cap_Chown kill", minus(&plus(&default, "NET_ADMIN"), "CHOWN KILL")),
            ("", "ALL", Capabilities::new()),
            ("NET_BIND_SERVICE", "all", set("NET_BIND_SERVICE")),
            ("ALL", "", everything.clone()),
            ("CAP_ALL", "SYS_ADMIN", minus(&everything, "SYS_ADMIN")),
            ("ALL CHOWN", "ALL", set("CHOWN")),
            ("SYS_TIME", "SYS_TIME", default.clone()),
        ] {
            let got = sets(&asked(add, drop, ""), &host).expect("sets");
            assert_eq!(got.bounding, wanted, "add {add:?} drop {drop:?}");
            assert!(got.ambient.is_empty());
            assert_eq!(got.oci().inheritable().as_ref(), Some(&Capabilities::new()));
        }
    }

    #[test]
    fn ambient_is_in_every_set_and_drop_wins() {
        let got = sets(&asked("", "ALL", "NET_ADMIN SYS_TIME"), &fixture::host()).expect("sets");
        assert_eq!((got.bounding, got.ambient), (set("NET_ADMIN SYS_TIME"), set("NET_ADMIN SYS_TIME")));
        let got = sets(&asked("", "SYS_TIME", "NET_ADMIN SYS_TIME"), &fixture::host()).expect("sets");
        assert_eq!(got.ambient, set("NET_ADMIN"));
        assert!(!got.bounding.contains(&C::SysTime));
    }

    #[test]
    fn the_host_is_the_bound() {
        let mut host = fixture::host();
        host.bounding &= !(1 << 24 | 1 << 13);
        let all = sets(&asked("ALL", "", ""), &host).expect("sets").bounding;
        assert!(!all.contains(&C::SysResource) && !all.contains(&C::NetRaw));
        assert!(!sets(&asked("", "", ""), &host).expect("sets").bounding.contains(&C::NetRaw));
        let e = sets(&asked("SYS_RESOURCE", "", ""), &host).expect_err("not on this host");
        assert!(matches!(&e, Error::Unsupported { what } if what.contains("CAP_SYS_RESOURCE")), "{e}");
    }

    #[test]
    fn privileged_is_everything_the_host_has() {
        let config = fixture::with_security(|s| s.privileged = true);
        assert_eq!(sets(&config, &fixture::host()).expect("sets").bounding.len(), 41);
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (number, capability) in
            [(0, C::Chown), (12, C::NetAdmin), (21, C::SysAdmin), (24, C::SysResource), (40, C::CheckpointRestore)]
        {
            assert_eq!(ALL[number], capability);
        }
        assert_eq!(Capabilities::from(ALL).len(), 41);
    }

    proptest! {
        #[test]
        fn only_names_pass(name in "\\PC{0,20}") {
            if let Ok(Entry::One(c)) = parse(&name) {
                let upper = name.to_ascii_uppercase();
                let canonical = c.to_string();
                let prefixed = format!("CAP_{canonical}");
                prop_assert!(upper == canonical || upper == prefixed);
            }
        }

        #[test]
        fn any_case_and_prefix(index in 0usize..41, prefix in any::<bool>(), lower in any::<bool>()) {
            let mut name = ALL[index].to_string();
            if prefix { name = format!("CAP_{name}"); }
            if lower { name = name.to_lowercase(); }
            prop_assert_eq!(parse(&name), Ok(Entry::One(ALL[index])));
        }
    }
}
