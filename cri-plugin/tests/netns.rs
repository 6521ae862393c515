//! Network namespaces against the real kernel: nothing is left over, and no copy of a mount keeps one alive.

#![expect(clippy::expect_used, reason = "a test says what it expected")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cleatd::netns;

/// Whether this process may make namespaces and mounts; says so if not. The guard keeps the tests apart: one of them
/// counts the descriptors of the process that all of them share.
fn allowed(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if !rustix::process::geteuid().is_root() {
        println!("SKIP {test}: not root");
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

fn mounts_below(dir: &Path, mountinfo: &str) -> usize {
    let dir = dir.to_str().expect("utf-8");
    std::fs::read_to_string(mountinfo).expect("mountinfo").lines().filter(|line| line.contains(dir)).count()
}

fn descriptors() -> BTreeSet<String> {
    let name = |fd: std::fs::DirEntry| std::fs::read_link(fd.path()).map(|p| p.display().to_string());
    std::fs::read_dir("/proc/self/fd")
        .expect("fds")
        .flatten()
        .flat_map(name)
        .filter(|n| n.starts_with("net:"))
        .collect()
}

#[test]
fn a_hundred_namespaces_leave_no_mount_and_no_descriptor() {
    let Some(_alone) = allowed("a_hundred_namespaces_leave_no_mount_and_no_descriptor") else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("netns/pod");
    for _ in 0..100 {
        netns::create(&path).expect("create");
        netns::remove(&path).expect("remove");
    }
    assert!(!path.exists());
    assert_eq!(mounts_below(dir.path(), "/proc/self/mountinfo"), 0);
    assert_eq!(descriptors(), BTreeSet::new());
}

#[test]
fn a_namespace_is_new_has_lo_up_and_opens() {
    let Some(_alone) = allowed("a_namespace_is_new_has_lo_up_and_opens") else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pod");
    netns::create(&path).expect("create");
    let ours = std::fs::read_link("/proc/self/ns/net").expect("readlink");
    let fd = netns::open(&path).expect("open");
    let theirs = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    assert_ne!(std::fs::read_link(theirs).expect("readlink"), ours);
    let mut show = Command::new("nsenter");
    show.arg(format!("--net={}", path.display())).args(["cat", "/proc/net/fib_trie"]);
    let out = show.output().expect("nsenter");
    assert!(String::from_utf8_lossy(&out.stdout).contains("127.0.0.1"), "{out:?}");
    netns::remove(&path).expect("remove");
    assert!(!netns::exists(&path) && netns::open(&path).is_err());
}

#[test]
fn a_retry_replaces_what_an_earlier_attempt_left() {
    let Some(_alone) = allowed("a_retry_replaces_what_an_earlier_attempt_left") else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pod");
    std::fs::write(&path, "").expect("stale file");
    netns::create(&path).expect("over a stale file");
    netns::create(&path).expect("over a stale namespace");
    assert_eq!(mounts_below(dir.path(), "/proc/self/mountinfo"), 1);
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).expect("symlink");
    assert!(netns::create(&dir.path().join("link")).is_err(), "never through a symbolic link");
    netns::remove(&path).expect("remove");
}

/// A process in a mount namespace of its own, with every propagation cut.
#[test]
fn a_copied_mount_does_not_keep_a_namespace() {
    let Some(_alone) = allowed("a_copied_mount_does_not_keep_a_namespace") else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pod");
    netns::create(&path).expect("create");
    let mut holder = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    BufReader::new(holder.stdout.take().expect("stdout")).read_line(&mut String::new()).expect("ready");
    let mountinfo = format!("/proc/{}/mountinfo", holder.id());
    assert_eq!(mounts_below(dir.path(), &mountinfo), 1, "the copy is there before");
    netns::remove(&path).expect("remove");
    assert_eq!(mounts_below(dir.path(), &mountinfo), 0, "and gone with the file");
    holder.stdin.take().expect("stdin").write_all(b"\n").expect("release");
    holder.wait().expect("wait");
}
