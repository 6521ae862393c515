//! `io.containerd.cgroups.v2.Metrics`, from the files of the one hierarchy.

use std::{fs, path::Path};

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use protobuf::{Message as _, MessageField};

use super::{
    Cgroups, Stats,
    files::{device, flat, number},
};
use crate::error::{Error, Result};

/// Reads all of them; what a controller that is off would count is 0.
pub fn read(cgroups: &Cgroups) -> Result<Stats> {
    let none = || Error::Unsupported("the container has no cgroup".into());
    let dir = cgroups.dir("").ok_or_else(none)?;
    let mut metrics = Metrics::new();
    metrics.pids = MessageField::some(pids(dir));
    metrics.cpu = MessageField::some(cpu(dir));
    metrics.memory = MessageField::some(memory(dir));
    metrics.memory_events = MessageField::some(events(dir));
    metrics.io = MessageField::some(io(dir));
    let value = metrics.write_to_bytes();
    let value = value.map_err(|e| Error::Corrupt { what: "metrics".into(), problem: e.to_string() })?;
    Ok(Stats { type_url: "io.containerd.cgroups.v2.Metrics", value })
}

fn pids(dir: &Path) -> PidsStat {
    let limit = number(&dir.join("pids.max"));
    let mut pids = PidsStat::new();
    pids.current = number(&dir.join("pids.current"));
    // 0 is how this message says that there is none.
    pids.limit = if limit == u64::MAX { 0 } else { limit };
    pids
}

fn cpu(dir: &Path) -> CPUStat {
    let counts = flat(&dir.join("cpu.stat"));
    let get = |key| counts.get(key).copied().unwrap_or_default();
    let mut cpu = CPUStat::new();
    cpu.usage_usec = get("usage_usec");
    cpu.user_usec = get("user_usec");
    cpu.system_usec = get("system_usec");
    cpu.nr_periods = get("nr_periods");
    cpu.nr_throttled = get("nr_throttled");
    cpu.throttled_usec = get("throttled_usec");
    cpu.nr_bursts = get("nr_bursts");
    cpu.burst_usec = get("burst_usec");
    cpu
}

fn memory(dir: &Path) -> MemoryStat {
    let counts = flat(&dir.join("memory.stat"));
    let get = |key: &str| counts.get(key).copied().unwrap_or_default();
    let mut stat = MemoryStat::new();
    macro_rules! copy {
        ($($field:ident)*) => { $(stat.$field = get(stringify!($field));)* };
    }
    copy! {
        anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon
        inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_nodereclaim
        pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc
    }
    // Since Linux 5.9 these two are counted for files and anonymous memory apart.
    let both = |stem: &str| get(stem) + get(&format!("{stem}_anon")) + get(&format!("{stem}_file"));
    stat.workingset_refault = both("workingset_refault");
    stat.workingset_activate = both("workingset_activate");
    stat.usage = number(&dir.join("memory.current"));
    stat.usage_limit = number(&dir.join("memory.max"));
    stat.max_usage = number(&dir.join("memory.peak"));
    stat.swap_usage = number(&dir.join("memory.swap.current"));
    stat.swap_limit = number(&dir.join("memory.swap.max"));
    stat.swap_max_usage = number(&dir.join("memory.swap.peak"));
    stat
}

fn events(dir: &Path) -> MemoryEvents {
    let counts = flat(&dir.join("memory.events"));
    let get = |key| counts.get(key).copied().unwrap_or_default();
    let mut events = MemoryEvents::new();
    events.low = get("low");
    events.high = get("high");
    events.max = get("max");
    events.oom = get("oom");
    events.oom_kill = get("oom_kill");
    events.oom_group_kill = get("oom_group_kill");
    events
}

fn io(dir: &Path) -> IOStat {
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    let mut stat = IOStat::new();
    stat.usage = text.lines().filter_map(io_line).collect();
    stat
}

fn io_line(line: &str) -> Option<IOEntry> {
    let mut words = line.split_whitespace();
    let mut entry = IOEntry::new();
    (entry.major, entry.minor) = device(words.next()?)?;
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let Ok(value) = value.parse() else { continue };
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            // Discards have no place in the message.
            _ => {}
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Mode;

    #[test]
    fn the_files_become_metrics() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("pids.current", "3\n"),
            ("pids.max", "100\n"),
            ("cpu.stat", "usage_usec 50\nuser_usec 30\nsystem_usec 20\nnr_throttled 1\n"),
            ("memory.stat", "anon 10\nfile 20\nworkingset_refault_anon 1\nworkingset_refault_file 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            ("io.stat", "254:0 rbytes=512 wbytes=1024 rios=1 wios=2 dbytes=0 dios=0\n"),
        ];
        for (name, text) in files {
            fs::write(root.path().join(name), text).unwrap();
        }
        let stats = read(&Cgroups::parse("0::/\n", Mode::V2, root.path())).unwrap();
        assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = Metrics::parse_from_bytes(&stats.value).unwrap();
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 100));
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.nr_throttled), (50, 1));
        let memory = &metrics.memory;
        assert_eq!((memory.anon, memory.usage, memory.usage_limit), (10, 4096, u64::MAX));
        assert_eq!(memory.workingset_refault, 3);
        assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (1, 2));
        let io = &metrics.io.usage[0];
        assert_eq!((io.major, io.rbytes, io.wios), (254, 512, 2));
    }
}
