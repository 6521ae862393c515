//! `io.containerd.cgroups.v1.Metrics`, from the files of the v1 controllers.

use std::{fs, path::Path};

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, MemoryEntry, MemoryOomControl, MemoryStat, Metrics, PidsStat, Throttle,
};
use protobuf::{Message as _, MessageField};

use super::{
    Cgroups, Stats,
    files::{device, flat, number},
};
use crate::error::{Error, Result};

/// The kernel counts a container's CPU time in these (`USER_HZ`, 100 on every architecture Linux runs containers on).
const NANOS_PER_TICK: u64 = 1_000_000_000 / 100;

/// Reads all of them; controllers the host lacks are left out.
pub fn read(cgroups: &Cgroups) -> Result<Stats> {
    let mut metrics = Metrics::new();
    metrics.pids = cgroups.dir("pids").map(pids).into();
    metrics.cpu = cpu(cgroups).into();
    if let Some(dir) = cgroups.dir("memory") {
        metrics.memory = MessageField::some(memory(dir));
        metrics.memory_oom_control = MessageField::some(oom(dir));
    }
    metrics.blkio = cgroups.dir("blkio").map(blkio).into();
    let value = metrics.write_to_bytes();
    let value = value.map_err(|e| Error::Corrupt { what: "metrics".into(), problem: e.to_string() })?;
    Ok(Stats { type_url: "io.containerd.cgroups.v1.Metrics", value })
}

fn pids(dir: &Path) -> PidsStat {
    let limit = number(&dir.join("pids.max"));
    let mut pids = PidsStat::new();
    pids.current = number(&dir.join("pids.current"));
    // 0 is how this message says that there is none.
    pids.limit = if limit == u64::MAX { 0 } else { limit };
    pids
}

fn cpu(cgroups: &Cgroups) -> Option<CPUStat> {
    let mut stat = CPUStat::new();
    let acct = cgroups.dir("cpuacct")?;
    let ticks = flat(&acct.join("cpuacct.stat"));
    let per_cpu = fs::read_to_string(acct.join("cpuacct.usage_percpu")).unwrap_or_default();
    let mut usage = CPUUsage::new();
    usage.total = number(&acct.join("cpuacct.usage"));
    usage.user = ticks.get("user").copied().unwrap_or_default() * NANOS_PER_TICK;
    usage.kernel = ticks.get("system").copied().unwrap_or_default() * NANOS_PER_TICK;
    usage.per_cpu = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    stat.usage = MessageField::some(usage);
    if let Some(dir) = cgroups.dir("cpu") {
        let counts = flat(&dir.join("cpu.stat"));
        let get = |key| counts.get(key).copied().unwrap_or_default();
        let mut throttle = Throttle::new();
        throttle.periods = get("nr_periods");
        throttle.throttled_periods = get("nr_throttled");
        throttle.throttled_time = get("throttled_time");
        stat.throttling = MessageField::some(throttle);
    }
    Some(stat)
}

fn memory(dir: &Path) -> MemoryStat {
    let counts = flat(&dir.join("memory.stat"));
    let get = |key: &str| counts.get(key).copied().unwrap_or_default();
    let mut stat = MemoryStat::new();
    macro_rules! copy {
        ($($field:ident: $own:literal, $total:ident: $all:literal;)*) => {$(
            stat.$field = get($own);
            stat.$total = get($all);
        )*};
    }
    copy! {
        cache: "cache", total_cache: "total_cache";
        rss: "rss", total_rss: "total_rss";
        rss_huge: "rss_huge", total_rss_huge: "total_rss_huge";
        mapped_file: "mapped_file", total_mapped_file: "total_mapped_file";
        dirty: "dirty", total_dirty: "total_dirty";
        writeback: "writeback", total_writeback: "total_writeback";
        pg_pg_in: "pgpgin", total_pg_pg_in: "total_pgpgin";
        pg_pg_out: "pgpgout", total_pg_pg_out: "total_pgpgout";
        pg_fault: "pgfault", total_pg_fault: "total_pgfault";
        pg_maj_fault: "pgmajfault", total_pg_maj_fault: "total_pgmajfault";
        inactive_anon: "inactive_anon", total_inactive_anon: "total_inactive_anon";
        active_anon: "active_anon", total_active_anon: "total_active_anon";
        inactive_file: "inactive_file", total_inactive_file: "total_inactive_file";
        active_file: "active_file", total_active_file: "total_active_file";
        unevictable: "unevictable", total_unevictable: "total_unevictable";
    }
    stat.hierarchical_memory_limit = get("hierarchical_memory_limit");
    stat.hierarchical_swap_limit = get("hierarchical_memsw_limit");
    stat.usage = entry(dir, "memory");
    stat.swap = entry(dir, "memory.memsw");
    stat.kernel = entry(dir, "memory.kmem");
    stat.kernel_tcp = entry(dir, "memory.kmem.tcp");
    stat
}

fn entry(dir: &Path, stem: &str) -> MessageField<MemoryEntry> {
    let get = |what: &str| number(&dir.join(format!("{stem}.{what}")));
    if !dir.join(format!("{stem}.usage_in_bytes")).exists() {
        return MessageField::none();
    }
    let mut entry = MemoryEntry::new();
    entry.usage = get("usage_in_bytes");
    entry.max = get("max_usage_in_bytes");
    entry.limit = get("limit_in_bytes");
    entry.failcnt = get("failcnt");
    MessageField::some(entry)
}

fn oom(dir: &Path) -> MemoryOomControl {
    let counts = flat(&dir.join("memory.oom_control"));
    let get = |key| counts.get(key).copied().unwrap_or_default();
    let mut oom = MemoryOomControl::new();
    oom.oom_kill_disable = get("oom_kill_disable");
    oom.under_oom = get("under_oom");
    oom.oom_kill = get("oom_kill");
    oom
}

fn blkio(dir: &Path) -> BlkIOStat {
    // The throttling policy counts always; a scheduler's own counters only while that scheduler is in use.
    let mut stat = BlkIOStat::new();
    stat.io_service_bytes_recursive = blkio_file(&dir.join("blkio.throttle.io_service_bytes_recursive"));
    stat.io_serviced_recursive = blkio_file(&dir.join("blkio.throttle.io_serviced_recursive"));
    stat
}

fn blkio_file(path: &Path) -> Vec<BlkIOEntry> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        let mut entry = BlkIOEntry::new();
        (entry.major, entry.minor) = (major, minor);
        entry.op = words.next()?.to_string();
        entry.value = words.next()?.parse().ok()?;
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Mode;

    #[test]
    fn the_controllers_files_become_metrics() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("pids/pids.current", "3\n"),
            ("pids/pids.max", "max\n"),
            ("cpuacct/cpuacct.usage", "5000000000\n"),
            ("cpuacct/cpuacct.stat", "user 300\nsystem 200\n"),
            ("cpuacct/cpuacct.usage_percpu", "2 3 \n"),
            ("cpu/cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 77\n"),
            (
                "memory/memory.stat",
                "rss 10\ntotal_rss 20\npgfault 3\ntotal_inactive_file 8\nhierarchical_memory_limit 99\n",
            ),
            ("memory/memory.usage_in_bytes", "4096\n"),
            ("memory/memory.limit_in_bytes", "8192\n"),
            ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("blkio/blkio.throttle.io_service_bytes_recursive", "254:0 Read 512\n254:0 Total 512\nTotal 512\n"),
        ];
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let text = "5:pids:/\n4:memory:/\n3:cpu,cpuacct:/\n2:blkio:/\n";
        let stats = read(&Cgroups::parse(text, Mode::V1, root.path())).unwrap();
        let metrics = Metrics::parse_from_bytes(&stats.value).unwrap();
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        let usage = &metrics.cpu.usage;
        assert_eq!((usage.total, usage.user, usage.kernel), (5_000_000_000, 3_000_000_000, 2_000_000_000));
        assert_eq!(usage.per_cpu, [2, 3]);
        assert_eq!(metrics.cpu.throttling.throttled_time, 77);
        let memory = &metrics.memory;
        assert_eq!((memory.rss, memory.total_rss, memory.pg_fault), (10, 20, 3));
        assert_eq!((memory.usage.usage, memory.usage.limit, memory.hierarchical_memory_limit), (4096, 8192, 99));
        assert!(memory.swap.is_none());
        assert_eq!(metrics.memory_oom_control.oom_kill, 2);
        let blkio = &metrics.blkio.io_service_bytes_recursive;
        assert_eq!((blkio.len(), blkio[0].op.as_str(), blkio[0].value, blkio[0].major), (2, "Read", 512, 254));
    }
}
