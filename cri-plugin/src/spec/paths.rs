//! Masked and read-only paths in `/proc` and `/sys`.
//!
//! The client's lists are taken as they are, empty ones too: kubelet sends empty lists for `procMount: Unmasked`. Only
//! a client that sends no security context at all gets the defaults.

use cleat_proto::cri::v1::ContainerConfig;

use super::{privileged, security};

/// Kubernetes' default masks (kubelet's `defaultMaskedPaths`) and those docker has added since.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Kubernetes' default read-only paths.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masks of whoever says nothing.
pub fn default_masked() -> Vec<String> {
    MASKED.map(String::from).into()
}

/// The read-only paths of whoever says nothing.
pub fn default_read_only() -> Vec<String> {
    READ_ONLY.map(String::from).into()
}

/// Paths the container cannot see into.
pub fn masked(config: &ContainerConfig) -> Vec<String> {
    match security(config) {
        _ if privileged(config) => Vec::new(),
        Some(security) => security.masked_paths.clone(),
        None => default_masked(),
    }
}

/// Paths the container cannot write to.
pub fn read_only(config: &ContainerConfig) -> Vec<String> {
    match security(config) {
        _ if privileged(config) => Vec::new(),
        Some(security) => security.readonly_paths.clone(),
        None => default_read_only(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture;

    #[test]
    fn given_lists_are_taken_and_only_nothing_means_the_default() {
        let nothing = ContainerConfig::default();
        assert!(masked(&nothing).contains(&"/proc/kcore".to_owned()));
        assert!(read_only(&nothing).contains(&"/proc/sys".to_owned()));
        let unmasked = fixture::with_security(|_| {});
        assert!(masked(&unmasked).is_empty() && read_only(&unmasked).is_empty());
        let given = fixture::with_security(|s| {
            s.masked_paths = vec!["/proc/a".into()];
            s.readonly_paths = vec!["/proc/b".into()];
        });
        assert_eq!((masked(&given), read_only(&given)), (vec!["/proc/a".into()], vec!["/proc/b".into()]));
    }

    #[test]
    fn privileged_sees_everything() {
        let config = fixture::with_security(|s| {
            s.privileged = true;
            s.masked_paths = vec!["/proc/a".into()];
        });
        assert!(masked(&config).is_empty() && read_only(&config).is_empty());
    }
}
