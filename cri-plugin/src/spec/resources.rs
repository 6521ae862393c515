//! Limits: CRI's resources as the OCI spec has them, for a new container and for a running one.
//!
//! Zero and the empty string mean "not specified" throughout (CRI api.proto, `LinuxContainerResources`).

use std::collections::HashMap;

use cleat_proto::cri::v1::{ContainerConfig, HugepageLimit, LinuxContainerResources};
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::Host;
use crate::{Error, Result, config};

const FIELD: &str = "linux.resources";

/// The container's limits; device rules are not among them.
///
/// # Errors
/// `Invalid` and `Unsupported`, see [`update`].
pub fn of(config: &ContainerConfig, host: &Host) -> Result<LinuxResources> {
    match config.linux.as_ref().and_then(|l| l.resources.as_ref()) {
        Some(resources) => update(resources, host),
        None => Ok(empty()),
    }
}

/// Limits for UpdateContainerResources: what is not specified is left as it is.
///
/// A memory limit without a swap limit forbids swap, where the host can limit it. Huge page limits are left out where
/// the host has no `hugetlb` controller: kubelet sends one per page size, always.
///
/// # Errors
/// `Invalid` with the field for what no cgroup takes, `Unsupported` for `unified` on a host whose limits are cgroup v1.
pub fn update(resources: &LinuxContainerResources, host: &Host) -> Result<LinuxResources> {
    check(resources)?;
    let mut out = empty();
    out.set_cpu(cpu(resources))
        .set_memory(memory(resources, host)?)
        .set_hugepage_limits(hugepages(&resources.hugepage_limits, host)?)
        .set_unified(unified(resources, host)?);
    Ok(out)
}

/// `LinuxResources::default()` is empty, but its builder-made kin is not promised to stay so.
pub(super) fn empty() -> LinuxResources {
    let mut out = LinuxResources::default();
    out.set_devices(None);
    out
}

/// What can be said without a host.
pub(super) fn check(resources: &LinuxContainerResources) -> Result<()> {
    let r = resources;
    let whole = [("cpu_period", r.cpu_period), ("cpu_shares", r.cpu_shares)];
    for (name, value) in whole {
        if value < 0 {
            return Err(Error::invalid(format!("{FIELD}.{name}"), format!("{value} is negative")));
        }
    }
    let or_unlimited = [
        ("cpu_quota", r.cpu_quota),
        ("memory_limit_in_bytes", r.memory_limit_in_bytes),
        ("memory_swap_limit_in_bytes", r.memory_swap_limit_in_bytes),
    ];
    for (name, value) in or_unlimited {
        if value < -1 {
            return Err(Error::invalid(format!("{FIELD}.{name}"), format!("{value} is neither -1 nor a limit")));
        }
    }
    for (name, value) in [("cpuset_cpus", &r.cpuset_cpus), ("cpuset_mems", &r.cpuset_mems)] {
        cpu_list(value).map_err(|why| Error::invalid(format!("{FIELD}.{name}"), why))?;
    }
    for (i, limit) in r.hugepage_limits.iter().enumerate() {
        page_size(&limit.page_size).ok_or_else(|| {
            Error::invalid(
                format!("{FIELD}.hugepage_limits[{i}].page_size"),
                format!("{:?} is no size such as 2MB or 1GB", limit.page_size),
            )
        })?;
    }
    r.unified.iter().try_for_each(|(key, value)| check_unified(key, value))?;
    check_score(r.oom_score_adj)
}

fn check_score(score: i64) -> Result<()> {
    if (-1000..=1000).contains(&score) {
        return Ok(());
    }
    Err(Error::invalid(format!("{FIELD}.oom_score_adj"), format!("{score} is not between -1000 and 1000")))
}

/// `0-3,7`: digits, commas and dashes in that grammar (cpuset(7), "List format"), strides included.
fn cpu_list(text: &str) -> Result<(), String> {
    let number = |n: &str| !n.is_empty() && n.len() <= 6 && n.bytes().all(|b| b.is_ascii_digit());
    let item = |item: &str| {
        let (range, stride) = item.split_once(':').map_or((item, None), |(r, s)| (r, Some(s)));
        let whole = range.split_once('-').map_or_else(|| number(range), |(a, b)| number(a) && number(b));
        whole && stride.is_none_or(|s| s.split('/').all(number))
    };
    let valid = text.is_empty() || text.split(',').all(item);
    if valid { Ok(()) } else { Err(format!("{text:?} is no list such as 0-3,7")) }
}

/// "2MB" is 2097152.
fn page_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "B" => 0,
        "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    let number: u64 = digits.parse().ok().filter(|n| *n > 0 && !digits.starts_with('+'))?;
    number.checked_mul(1 << shift)
}

/// Keys become file names in the container's cgroup and values their content; `cgroup.procs` is no limit.
fn check_unified(key: &str, value: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("{FIELD}.unified[{key:?}]"), why));
    let named = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match key.split_once('.') {
        _ if !named => wrong("the key is no name of a cgroup file"),
        Some(("cgroup" | "", _)) | Some((_, "")) | None => wrong("the key names no controller's file"),
        Some(_) if value.contains('\0') => wrong("the value holds a NUL byte"),
        Some(_) => Ok(()),
    }
}

fn cpu(r: &LinuxContainerResources) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive(r.cpu_shares))
        .set_period(positive(r.cpu_period))
        .set_quota((r.cpu_quota != 0).then_some(r.cpu_quota))
        .set_cpus(text(&r.cpuset_cpus))
        .set_mems(text(&r.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|v| *v > 0)
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// `swap` of the OCI spec is memory and swap together, as CRI's swap limit is.
fn memory(r: &LinuxContainerResources, host: &Host) -> Result<Option<LinuxMemory>> {
    let limit = (r.memory_limit_in_bytes != 0).then_some(r.memory_limit_in_bytes);
    let swap = (r.memory_swap_limit_in_bytes != 0).then_some(r.memory_swap_limit_in_bytes);
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap >= 0
        && (limit < 0 || swap < limit)
    {
        return Err(Error::invalid(
            format!("{FIELD}.memory_swap_limit_in_bytes"),
            format!("{swap} is less than the memory limit {limit}, which it includes"),
        ));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap.or(limit).filter(|_| host.swap));
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

fn hugepages(limits: &[HugepageLimit], host: &Host) -> Result<Option<Vec<LinuxHugepageLimit>>> {
    if !host.controllers.contains("hugetlb") {
        return Ok(None);
    }
    let mut out = Vec::new();
    for (i, limit) in limits.iter().enumerate() {
        let known = host.hugepage_sizes.iter().find(|s| page_size(s) == page_size(&limit.page_size));
        match known {
            Some(size) => out.push(hugepage(size, limit.limit)),
            None if limit.limit == 0 => {}
            None => {
                return Err(Error::invalid(
                    format!("{FIELD}.hugepage_limits[{i}].page_size"),
                    format!("this host has no pages of {}, only {:?}", limit.page_size, host.hugepage_sizes),
                ));
            }
        }
    }
    Ok((!out.is_empty()).then_some(out))
}

fn hugepage(size: &str, limit: u64) -> LinuxHugepageLimit {
    let mut out = LinuxHugepageLimit::default();
    out.set_page_size(size.to_owned()).set_limit(i64::try_from(limit).unwrap_or(i64::MAX));
    out
}

fn unified(r: &LinuxContainerResources, host: &Host) -> Result<Option<HashMap<String, String>>> {
    if r.unified.is_empty() {
        return Ok(None);
    }
    if !host.is_v2() {
        return Err(Error::Unsupported { what: format!("{FIELD}.unified on a host with cgroup v1") });
    }
    Ok(Some(r.unified.iter().map(|(k, v)| (k.clone(), v.clone())).collect()))
}

/// `process.oom_score_adj`, clamped to the daemon's own where the configuration says so: without CAP_SYS_RESOURCE a
/// process cannot lower it.
///
/// # Errors
/// `Invalid` outside -1000..=1000.
pub fn oom_score_adj(config: &ContainerConfig, host: &Host, containers: &config::Containers) -> Result<Option<i32>> {
    let Some(resources) = config.linux.as_ref().and_then(|l| l.resources.as_ref()) else { return Ok(None) };
    check_score(resources.oom_score_adj)?;
    Ok(i32::try_from(resources.oom_score_adj).ok().map(|score| clamp(score, host, containers)))
}

/// A score that this daemon may give.
pub(super) fn clamp(score: i32, host: &Host, containers: &config::Containers) -> i32 {
    if containers.restrict_oom_score_adj { score.max(host.oom_score_adj) } else { score }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::host::CgroupMode;
    use crate::spec::tests::fixture;
    use serde_json::json;

    fn shown(r: &LinuxContainerResources, host: &Host) -> serde_json::Value {
        serde_json::to_value(update(r, host).expect("resources")).expect("json")
    }

    #[test]
    fn nothing_asked_nothing_set() {
        assert_eq!(shown(&LinuxContainerResources::default(), &fixture::host()), json!({}));
        assert_eq!(of(&ContainerConfig::default(), &fixture::host()).expect("none"), LinuxResources::default());
    }

    #[test]
    fn limits_are_passed_on() {
        let r = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 102,
            cpuset_cpus: "0-1,3".into(),
            memory_limit_in_bytes: 1 << 20,
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            ..Default::default()
        };
        let wanted = json!({
            "cpu": {"shares": 102, "quota": -1, "period": 100_000, "cpus": "0-1,3"},
            "memory": {"limit": 1 << 20, "swap": 1 << 20},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        });
        assert_eq!(shown(&r, &fixture::host()), wanted);
    }

    #[test]
    fn hosts_without_swap_accounting_or_hugetlb() {
        let mut host = fixture::host();
        host.swap = false;
        host.controllers.remove("hugetlb");
        let r = LinuxContainerResources {
            memory_limit_in_bytes: 5,
            memory_swap_limit_in_bytes: 9,
            hugepage_limits: vec![HugepageLimit { page_size: "1GB".into(), limit: 0 }],
            ..Default::default()
        };
        assert_eq!(shown(&r, &host), json!({"memory": {"limit": 5}}));
        host.swap = true;
        assert_eq!(shown(&r, &host), json!({"memory": {"limit": 5, "swap": 9}}));
    }

    #[test]
    fn unified_is_for_v2() {
        let unified = [("memory.high".to_owned(), "100".to_owned())].into();
        let r = LinuxContainerResources { unified, ..Default::default() };
        let mut host = fixture::host();
        assert!(matches!(update(&r, &host), Err(Error::Unsupported { .. })));
        host.cgroup = CgroupMode::V2;
        assert_eq!(shown(&r, &host), json!({"unified": {"memory.high": "100"}}));
    }

    #[test]
    fn what_no_cgroup_takes_names_its_field() {
        let base = LinuxContainerResources::default;
        let unified = |k: &str, v: &str| LinuxContainerResources { unified: [(k.into(), v.into())].into(), ..base() };
        let page = |size: &str| LinuxContainerResources {
            hugepage_limits: vec![HugepageLimit { page_size: size.into(), limit: 1 }],
            ..base()
        };
        for (bad, field) in [
            (LinuxContainerResources { cpu_period: -1, ..base() }, "cpu_period"),
            (LinuxContainerResources { cpu_shares: -1, ..base() }, "cpu_shares"),
            (LinuxContainerResources { cpu_quota: -2, ..base() }, "cpu_quota"),
            (LinuxContainerResources { memory_limit_in_bytes: -7, ..base() }, "memory_limit_in_bytes"),
            (LinuxContainerResources { cpuset_cpus: "0;1".into(), ..base() }, "cpuset_cpus"),
            (LinuxContainerResources { cpuset_mems: "0-".into(), ..base() }, "cpuset_mems"),
            (LinuxContainerResources { oom_score_adj: 1001, ..base() }, "oom_score_adj"),
            (
                LinuxContainerResources { memory_limit_in_bytes: 9, memory_swap_limit_in_bytes: 5, ..base() },
                "memory_swap_limit_in_bytes",
            ),
            (unified("cgroup.procs", "1"), "cgroup.procs"),
            (unified("../memory.max", "1"), "unified"),
            (unified("memory", "1"), "unified"),
            (page("2"), "page_size"),
            (page("MB"), "page_size"),
            (page("-2MB"), "page_size"),
            (page("3MB"), "only"),
        ] {
            let e = update(&bad, &fixture::host()).expect_err(field).to_string();
            assert!(e.contains("linux.resources") && e.contains(field), "{e}");
        }
    }

    #[test]
    fn the_score_is_clamped_only_where_configured() {
        let mut containers = config::Containers::default();
        let mut host = fixture::host();
        host.oom_score_adj = -100;
        let config =
            |oom_score_adj| fixture::with_resources(LinuxContainerResources { oom_score_adj, ..Default::default() });
        let score =
            |asked, containers: &config::Containers| oom_score_adj(&config(asked), &host, containers).expect("score");
        assert_eq!(score(-998, &containers), Some(-998));
        containers.restrict_oom_score_adj = true;
        assert_eq!(score(-998, &containers), Some(-100));
        assert_eq!(score(500, &containers), Some(500));
        assert_eq!(oom_score_adj(&ContainerConfig::default(), &host, &containers).expect("none"), None);
    }

    #[test]
    fn cpu_lists() {
        for good in ["", "0", "0-3", "0,2-4,7", "0-31:2/4"] {
            cpu_list(good).expect(good);
        }
        for bad in [",", "0,", "-1", "a", "1-2-3", "0 1", "0\n", "9999999"] {
            cpu_list(bad).expect_err(bad);
        }
    }
}
