//! What pods leave behind on a node whose daemon still runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The residue, once there is none or five seconds have passed.
pub(crate) fn settled(dir: &Path) -> Vec<String> {
    let start = Instant::now();
    loop {
        let left = now(dir);
        if left.is_empty() || start.elapsed() > Duration::from_secs(5) {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn now(dir: &Path) -> Vec<String> {
    [shims(dir), mounts(dir), addresses(dir), bundles(dir), cgroups(dir), ports(dir)].concat()
}

/// The shims whose working directory or command line lies under `dir`.
fn shims(dir: &Path) -> Vec<String> {
    let wanted = dir.to_string_lossy();
    let processes = entries(Path::new("/proc")).into_iter().filter_map(|process| {
        let program = std::fs::read_link(process.join("exe")).ok()?;
        let command = std::fs::read(process.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let is_shim = program.file_name()?.to_string_lossy().starts_with("containerd-shim-");
        let folder = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        let ours = folder.starts_with(dir) || command.contains(&*wanted);
        (is_shim && ours).then(|| format!("shim {} {command}", process.display()))
    });
    processes.collect()
}

fn mounts(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points =
        table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| Path::new(point).starts_with(dir));
    points.map(|point| format!("mount {point}")).collect()
}

/// host-local keeps one file per address.
fn addresses(dir: &Path) -> Vec<String> {
    let networks = entries(&dir.join("cni/ipam"));
    let files = networks.iter().flat_map(|network| entries(network));
    let is_address = |file: &PathBuf| name(file).starts_with(|c: char| c.is_ascii_digit());
    files.filter(is_address).map(|file| format!("address {}", file.display())).collect()
}

fn bundles(dir: &Path) -> Vec<String> {
    let namespaces = entries(&dir.join("state/io.containerd.runtime.v2.task"));
    namespaces.iter().flat_map(|ns| entries(ns)).map(|bundle| format!("bundle {}", bundle.display())).collect()
}

/// Below `/NAME/shims` and `/NAME/pods`, which stay with the daemon.
fn cgroups(dir: &Path) -> Vec<String> {
    let Some(name) = conflist_name(dir) else { return Vec::new() };
    let hierarchies = [vec![PathBuf::from("/sys/fs/cgroup")], entries(Path::new("/sys/fs/cgroup"))].concat();
    let parents = hierarchies.iter().flat_map(|root| [root.join(&name).join("shims"), root.join(&name).join("pods")]);
    let children = parents.flat_map(|parent| entries(&parent)).filter(|child| child.is_dir());
    children.map(|child| format!("cgroup {}", child.display())).collect()
}

/// The host's ends of the pods' veths.
fn ports(dir: &Path) -> Vec<String> {
    let Some(name) = conflist_name(dir) else { return Vec::new() };
    let bridge = name.replace('-', "");
    let ports = entries(&Path::new("/sys/class/net").join(bridge).join("brif"));
    ports.iter().map(|port| format!("link {}", port.display())).collect()
}

/// The name of the node's cgroups and network, as `hack/up` put it into the conflist's file name.
fn conflist_name(dir: &Path) -> Option<String> {
    let conflist = entries(&dir.join("cni/net.d")).into_iter().next()?;
    Some(name(&conflist).strip_prefix("10-")?.strip_suffix(".conflist")?.to_string())
}

/// The paths in a folder; nothing where there is no such folder.
fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
