//! Mounts as the kernel sees them. They need root; each test has folders of its own and checks that nothing stays.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use super::*;

/// A folder whose mounts must be gone when it is dropped.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {name}: not root");
            return None;
        }
        Some(Scratch(tempfile::tempdir().unwrap()))
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.0.path().to_str().unwrap();
        table.lines().filter(|l| l.split(' ').nth(4).is_some_and(|p| p.starts_with(here))).map(Into::into).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = self.mounts();
        for line in &left {
            let _ = umount2(line.split(' ').nth(4).unwrap(), MntFlags::MNT_DETACH);
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "mounts left: {left:?}");
        }
    }
}

fn bind_of(source: &Path, options: &[&str]) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        target: None,
        options: options.iter().map(|o| (*o).into()).collect(),
    }
}

fn overlay_of(options: Vec<String>) -> Mount {
    Mount { kind: "overlay".into(), source: "overlay".into(), target: None, options }
}

#[test]
fn a_read_only_bind_is_read_only() {
    let Some(s) = Scratch::new("a_read_only_bind_is_read_only") else { return };
    let (source, target) = (s.dir("source"), s.dir("target"));
    fs::write(source.join("file"), "x").unwrap();
    mount_all(&[bind_of(&source, &["rbind", "ro"])], &target).unwrap();
    assert_eq!(fs::read(target.join("file")).unwrap(), b"x");
    let error = fs::write(target.join("file"), "y").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    unmount_all(&target).unwrap();
    assert!(!target.join("file").exists());
}

#[test]
fn unmount_takes_every_stacked_mount_and_may_be_repeated() {
    let Some(s) = Scratch::new("unmount_takes_every_stacked_mount") else { return };
    let (source, target) = (s.dir("source"), s.dir("target"));
    for _ in 0..3 {
        mount_all(&[bind_of(&source, &["bind"])], &target).unwrap();
    }
    assert_eq!(s.mounts().len(), 3);
    unmount_all(&target).unwrap();
    unmount_all(&target).unwrap();
    unmount_all(&s.0.path().join("absent")).unwrap();
    assert_eq!(s.mounts(), Vec::<String>::new());
}

#[test]
fn a_busy_mount_is_detached() {
    let Some(s) = Scratch::new("a_busy_mount_is_detached") else { return };
    let (source, target) = (s.dir("source"), s.dir("target"));
    fs::write(source.join("file"), "x").unwrap();
    mount_all(&[bind_of(&source, &["bind"])], &target).unwrap();
    let held = fs::File::open(target.join("file")).unwrap();
    unmount_all(&target).unwrap();
    assert_eq!(s.mounts(), Vec::<String>::new());
    drop(held);
}

#[test]
fn a_symbolic_link_is_not_followed_when_unmounting() {
    let Some(s) = Scratch::new("a_symbolic_link_is_not_followed") else { return };
    let (source, target) = (s.dir("source"), s.dir("target"));
    mount_all(&[bind_of(&source, &["bind"])], &target).unwrap();
    let link = s.0.path().join("link");
    symlink(&target, &link).unwrap();
    unmount_all(&link).unwrap();
    assert_eq!(s.mounts().len(), 1);
    unmount_all(&target).unwrap();
}

#[test]
fn what_was_mounted_is_undone_when_a_later_mount_fails() {
    let Some(s) = Scratch::new("what_was_mounted_is_undone") else { return };
    let (source, target) = (s.dir("source"), s.dir("target"));
    let absent = s.0.path().join("absent");
    let error = mount_all(&[bind_of(&source, &["bind"]), bind_of(&absent, &["bind"])], &target).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert_eq!(s.mounts(), Vec::<String>::new());
}

#[test]
fn a_target_inside_is_resolved_inside() {
    let Some(s) = Scratch::new("a_target_inside_is_resolved_inside") else { return };
    let (rootfs, source, target) = (s.dir("rootfs"), s.dir("source"), s.dir("target"));
    let outside = s.dir("outside");
    fs::create_dir_all(rootfs.join(outside.strip_prefix("/").unwrap())).unwrap();
    symlink(&outside, rootfs.join("data")).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    let mut inner = bind_of(&source, &["bind"]);
    inner.target = Some("/data".into());
    mount_all(&[bind_of(&rootfs, &["bind"]), inner], &target).unwrap();
    assert!(!outside.join("file").exists(), "a link in the rootfs led out of it");
    assert!(target.join(outside.strip_prefix("/").unwrap()).join("file").exists());
    unmount_all(&target).unwrap();
}

/// 200 layers with long names: more than a page of options by mount(2), more than 256 bytes by fsconfig(2).
fn many_layers(s: &Scratch) -> String {
    let deep = s.dir(&"n".repeat(100));
    let layers: Vec<String> = (0..200)
        .map(|i| {
            let dir = deep.join(format!("{i}/fs"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("file{i}")), i.to_string()).unwrap();
            fs::write(dir.join("top"), i.to_string()).unwrap();
            dir.to_str().unwrap().to_owned()
        })
        .collect();
    format!("lowerdir={}", layers.join(":"))
}

#[test]
fn two_hundred_layers_mount_and_the_caller_stays_where_it_is() {
    let Some(s) = Scratch::new("two_hundred_layers_mount") else { return };
    let (upper, work, target) = (s.dir("upper"), s.dir("work"), s.dir("target"));
    let before = std::env::current_dir().unwrap();
    let options = vec![format!("upperdir={}", upper.display()), format!("workdir={}", work.display()), many_layers(&s)];
    mount_all(&[overlay_of(options)], &target).unwrap();
    assert_eq!(std::env::current_dir().unwrap(), before);
    assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
    assert_eq!(fs::read_to_string(target.join("file199")).unwrap(), "199");
    unmount_all(&target).unwrap();
}

#[test]
fn a_detached_overlay_reads_every_layer_and_leaves_the_upper_mountable() {
    let Some(s) = Scratch::new("a_detached_overlay_reads_every_layer") else { return };
    let (upper, work, target) = (s.dir("upper"), s.dir("work"), s.dir("target"));
    fs::write(upper.join("mine"), "upper").unwrap();
    let paths = vec![format!("upperdir={}", upper.display()), format!("workdir={}", work.display()), many_layers(&s)];
    let mounts = [overlay_of([vec!["index=off".into(), "volatile".into()], paths].concat())];
    for root in [open_detached(&mounts).unwrap(), detached::for_tests(&mounts)] {
        let read = |path| read_in_root(root.as_fd(), path, 100).unwrap().unwrap();
        assert_eq!(read("mine"), b"upper");
        assert_eq!(read("top"), b"0");
        assert_eq!(read("file199"), b"199");
    }
    assert_eq!(s.mounts(), Vec::<String>::new());
    mount_all(&mounts, &target).unwrap();
    unmount_all(&target).unwrap();
}

#[test]
fn a_detached_bind_is_the_folder() {
    let Some(s) = Scratch::new("a_detached_bind_is_the_folder") else { return };
    let source = s.dir("source");
    fs::write(source.join("file"), "x").unwrap();
    let root = open_detached(&[bind_of(&source, &["rbind", "ro"])]).unwrap();
    assert_eq!(read_in_root(root.as_fd(), "file", 10).unwrap().unwrap(), b"x");
    assert!(open_detached(&[]).is_err());
}

#[test]
fn more_layers_than_any_kernel_takes_is_an_error_that_says_so() {
    let long: Vec<String> = (0..100).map(|i| format!("/{}/{i}", "x".repeat(200))).collect();
    let split: Vec<String> = long.iter().enumerate().map(|(i, p)| format!("/{i}{p}")).collect();
    let options = vec![format!("lowerdir={}", split.join(":"))];
    let error = mount_all(&[overlay_of(options)], Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(error.contains("bytes"), "{error}");
}

/// Owner and group as seen, and whether the test can go on: an old kernel cannot map.
fn mapped(mounts: &[Mount], target: &Path) -> bool {
    match mount_all(mounts, target) {
        Ok(()) => true,
        Err(Error::Io { op: "map the owners of", source, .. }) => {
            println!("SKIP mapped owners: this kernel or filesystem cannot map: {source}");
            false
        }
        Err(e) => panic!("{e}"),
    }
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

const MAPS: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];

#[test]
fn layers_seem_to_belong_to_the_pods_users() {
    let Some(s) = Scratch::new("layers_seem_to_belong_to_the_pods_users") else { return };
    let (upper, work, target) = (s.dir("upper"), s.dir("work"), s.dir("target"));
    let lower = many_layers(&s);
    let first = lower["lowerdir=".len()..].split(':').next().unwrap().to_owned();
    std::os::unix::fs::chown(Path::new(&first).join("file0"), Some(1000), Some(1000)).unwrap();
    let options = vec![format!("upperdir={}", upper.display()), format!("workdir={}", work.display()), lower];
    let mounts = [overlay_of([MAPS.map(String::from).to_vec(), vec!["index=off".into()], options].concat())];
    for _ in 0..2 {
        if !mapped(&mounts, &target) {
            return;
        }
        assert_eq!(owner(target.join("file0")), (101_000, 201_000));
        assert_eq!(owner(target.join("file199")), (100_000, 200_000));
        assert_eq!(owner(&target), (100_000, 200_000), "the container's root folder is its root user's");
        assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
        // Copied up, a file belongs to the pod's user on the disk too.
        std::os::unix::fs::chown(target.join("top"), Some(100_007), Some(200_007)).unwrap();
        assert_eq!(owner(upper.join("top")), (100_007, 200_007));
        unmount_all(&target).unwrap();
    }
    let root = open_detached(&mounts).unwrap();
    assert_eq!(read_in_root(root.as_fd(), "file199", 10).unwrap().unwrap(), b"199");
}

#[test]
fn a_mapped_bind_can_be_read_only() {
    let Some(s) = Scratch::new("a_mapped_bind_can_be_read_only") else { return };
    let (source, target) = (s.dir("source"), s.dir("target"));
    fs::write(source.join("file"), "x").unwrap();
    if !mapped(&[bind_of(&source, &["rbind", "ro", MAPS[0], MAPS[1]])], &target) {
        return;
    }
    assert_eq!(owner(target.join("file")), (100_000, 200_000));
    assert_eq!(fs::write(target.join("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    unmount_all(&target).unwrap();
    let proc =
        Mount { kind: "proc".into(), source: "proc".into(), target: None, options: MAPS.map(String::from).into() };
    assert!(matches!(mount_all(&[proc], &target), Err(Error::Invalid { .. })));
}

#[test]
fn id_maps_leave_no_process_behind() {
    let Some(s) = Scratch::new("id_maps_leave_no_process_behind") else { return };
    let (source, target) = (s.dir("source"), s.dir("target"));
    std::thread::scope(|scope| {
        for i in 0..4 {
            let target = target.join(i.to_string());
            fs::create_dir(&target).unwrap();
            let mount = bind_of(&source, &["bind", MAPS[0], MAPS[1]]);
            scope.spawn(move || {
                for _ in 0..10 {
                    if mapped(std::slice::from_ref(&mount), &target) {
                        unmount_all(&target).unwrap();
                    }
                }
            });
        }
    });
    // Other tests of this process map owners too; theirs come and go.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !children().is_empty() {
        assert!(std::time::Instant::now() < deadline, "left: {:?}", children());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The processes whose parent this one is.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let stat = |entry: std::io::Result<fs::DirEntry>| fs::read_to_string(entry.unwrap().path().join("stat")).ok();
    let all = fs::read_dir("/proc").unwrap().filter_map(stat);
    // After the name in parentheses: state, parent.
    all.filter(|line| line.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(&own)).collect()
}
