//! Layers as attackers, old tools and honest builders write them. Each lands beside a folder that must not change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::conformance::layer::{Entry, Layer};
use crate::error::Error;

/// A folder to unpack into, beside one that holds a secret.
struct Jail {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, (u32, u64, Vec<u8>)>,
}

impl Jail {
    fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {name}: not root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for sub in ["root", "outside/sub"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        symlink("secret", dir.path().join("outside/link")).unwrap();
        let before = snapshot(&dir.path().join("outside"));
        Some(Jail { dir, before })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().unwrap().to_owned()
    }

    fn apply(&self, layer: &Layer, mode: Mode) -> Result<Applied> {
        self.apply_within(layer, mode, &Limits::default())
    }

    fn apply_within(&self, layer: &Layer, mode: Mode, limits: &Limits) -> Result<Applied> {
        let result = apply(layer.bytes().as_slice(), &self.root(), mode, limits);
        assert_eq!(snapshot(&self.dir.path().join("outside")), self.before, "something outside the root changed");
        result
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root().join(path)).ok()
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root().join(path)).unwrap()
    }
}

/// Mode, inode and content of everything below `dir`.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let mut out = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        out.insert(path, (stat.mode(), stat.ino(), content));
    }
    out
}

const BOTH: [Mode; 2] = [Mode::Overlay, Mode::Merged];

#[test]
fn links_lead_nowhere_but_inside() {
    for mode in BOTH {
        let Some(j) = Jail::new("links_lead_nowhere_but_inside") else { return };
        let out = j.outside();
        let up = format!("../../../../../../../..{out}");
        let layer = Layer::new()
            .symlink("absolute", &out)
            .file("absolute/sub/new", "1")
            .symlink("relative", &up)
            .file("relative/new", "2")
            .folder("dir", 0o755)
            .symlink("dir/back", "..")
            .file("dir/back/dir/back/new", "3")
            .symlink("magic", "/proc/self/root")
            .file("magic/tmp/new", "4");
        j.apply(&layer, mode).unwrap();
        // Where a chroot into the layer would have put them.
        assert_eq!(j.read(&format!("{}/sub/new", &out[1..])).as_deref(), Some("1"));
        assert_eq!(j.read(&format!("{}/new", &out[1..])).as_deref(), Some("2"));
        assert_eq!(j.read("new").as_deref(), Some("3"));
        assert_eq!(j.read("proc/self/root/tmp/new").as_deref(), Some("4"));
        assert!(!Path::new("/tmp/new").exists());
    }
}

#[test]
fn dots_lead_nowhere_but_inside() {
    let Some(j) = Jail::new("dots_lead_nowhere_but_inside") else { return };
    let layer = Layer::new()
        .file("../outside/secret", "1")
        .file("/../../outside/sub/x", "2")
        .file("a/../../b", "3")
        .folder("../../outside", 0o777)
        .hard_link("stolen", "../outside/sub/x");
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!(j.read("outside/secret").as_deref(), Some("1"));
    assert_eq!(j.read("stolen").as_deref(), Some("2"));
    assert_eq!(j.read("b").as_deref(), Some("3"));
}

#[test]
fn a_link_is_replaced_never_written_through() {
    for kind in [b'0', b'5', b'2', b'3', b'6'] {
        let Some(j) = Jail::new("a_link_is_replaced") else { return };
        let out = j.outside();
        let entry = Entry { link: b"elsewhere".to_vec(), data: Vec::new(), ..Entry::new(kind, "victim") };
        for target in [out.clone(), format!("{out}/secret"), format!("{out}/new")] {
            j.apply(&Layer::new().symlink("victim", &target).entry(&entry), Mode::Overlay).unwrap();
            let stat = j.stat("victim");
            let kind_now = stat.file_type();
            assert_eq!(kind_now.is_symlink(), kind == b'2', "{}", kind as char);
            assert_eq!(kind_now.is_dir(), kind == b'5');
        }
    }
}

#[test]
fn a_folder_over_a_link_does_not_change_the_links_target() {
    let Some(j) = Jail::new("a_folder_over_a_link") else { return };
    // CVE-2026-33056: the mode of a folder set through a link of that name.
    let layer = Layer::new()
        .folder("inside", 0o700)
        .symlink("a", "inside")
        .folder("a", 0o777)
        .file("a/x", "1")
        .symlink("b", &j.outside())
        .folder("b/", 0o777)
        .file("b/secret", "mine");
    j.apply(&layer, Mode::Merged).unwrap();
    assert_eq!(j.stat("inside").mode() & 0o777, 0o700);
    assert!(!j.root().join("inside/x").exists());
    assert_eq!(j.read("b/secret").as_deref(), Some("mine"));
}

#[test]
fn a_cached_folder_is_forgotten_when_its_path_changes() {
    let Some(j) = Jail::new("a_cached_folder_is_forgotten") else { return };
    let layer = Layer::new()
        .folder("a/b", 0o755)
        .file("a/b/one", "1")
        .symlink("a", "c")
        .folder("c/b", 0o755)
        .file("a/b/two", "2");
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!(j.read("c/b/two").as_deref(), Some("2"));
    assert!(!j.root().join("c/b/one").exists());
}

#[test]
fn hard_links() {
    let Some(j) = Jail::new("hard_links") else { return };
    let out = j.outside();
    let layer = Layer::new()
        .file("file", "1")
        .hard_link("same", "/file")
        .hard_link("file", "file")
        .symlink("link", &format!("{out}/secret"))
        .hard_link("link2", "link")
        .file("link2", "overwritten");
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!((j.stat("file").ino(), j.stat("file").nlink()), (j.stat("same").ino(), 2));
    assert!(j.stat("link").is_symlink());
    assert_eq!(j.read("link2").as_deref(), Some("overwritten"));
    for target in [format!("{out}/secret"), "absent".into(), "/".into(), "dir".into()] {
        let layer = Layer::new().folder("dir", 0o755).hard_link("bad", &target);
        assert!(j.apply(&layer, Mode::Overlay).is_err(), "{target}");
        assert!(!j.root().join("bad").exists(), "{target}");
    }
    // Through a link that leads out, to a file that is there.
    let layer = Layer::new().symlink("exit", &out).hard_link("bad", "exit/secret");
    assert!(j.apply(&layer, Mode::Overlay).is_err());
}

#[test]
fn whiteouts_stay_inside_and_are_never_dots() {
    for mode in BOTH {
        let Some(j) = Jail::new("whiteouts_stay_inside") else { return };
        let out = j.outside();
        let layer = Layer::new()
            .symlink("exit", &out)
            .file("exit/.wh.secret", "")
            .file("exit/.wh..wh..opq", "")
            .file("../outside/.wh.secret", "")
            .symlink("sub", &format!("{out}/sub"))
            .file(".wh.sub", "");
        j.apply(&layer, mode).unwrap();
        for bad in [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.x/y"] {
            assert!(matches!(j.apply(&Layer::new().file(bad, ""), mode), Err(Error::Invalid { .. })), "{bad}");
        }
        assert!(j.root().is_dir());
    }
}

#[test]
fn a_merged_whiteout_deletes_below_but_not_what_the_layer_brought() {
    let Some(j) = Jail::new("a_merged_whiteout_deletes") else { return };
    let below = Layer::new().folder("d/e", 0o755).file("d/e/old", "").file("d/old", "").file("f", "").symlink("l", "d");
    j.apply(&below, Mode::Merged).unwrap();
    let layer =
        Layer::new().file("d/e/new", "2").file("d/.wh..wh..opq", "").file("f", "2").file(".wh.f", "").file(".wh.l", "");
    j.apply(&layer, Mode::Merged).unwrap();
    assert!(!j.root().join("d/old").exists() && !j.root().join("d/e/old").exists());
    assert_eq!((j.read("d/e/new").as_deref(), j.read("f").as_deref()), (Some("2"), Some("2")));
    assert!(fs::symlink_metadata(j.root().join("l")).is_err());
    assert!(j.root().join("d/e").is_dir(), "the link was removed, not what it led to");
}

#[test]
fn bookkeeping_of_old_drivers_is_left_out() {
    let Some(j) = Jail::new("bookkeeping_of_old_drivers") else { return };
    let layer = Layer::new().folder(".wh..wh.plnk", 0o700).file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "");
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!(fs::read_dir(j.root()).unwrap().count(), 0);
}

#[test]
fn owner_mode_attributes_and_times() {
    let Some(j) = Jail::new("owner_mode_attributes_and_times") else { return };
    let capability = b"\x01\0\0\x02\x0a\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let owned = |kind, name: &str, mode| Entry { mode, owner: (1000, 2000), ..Entry::new(kind, name) };
    let layer = Layer::new()
        .entry(&owned(b'5', "d", 0o2755))
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.a\nb", b"x\ny"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("mtime", b"1234567890.123456789"),
        ])
        .entry(&Entry { data: b"program".to_vec(), ..owned(b'0', "d/su", 0o6755) })
        .entry(&owned(b'0', "d/plain", 0o666))
        .entry(&Entry { link: b"su".to_vec(), ..owned(b'2', "d/l", 0o777) })
        .file("d/root", "")
        .entry(&Entry { device: (10, 229), ..owned(b'3', "d/fuse", 0o666) })
        .entry(&owned(b'6', "d/fifo", 0o622));
    j.apply(&layer, Mode::Overlay).unwrap();
    let su = j.stat("d/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), (0o6755, 1000, 2000));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_234_567_890, 123_456_789));
    let d = j.stat("d");
    assert_eq!((d.mode() & 0o7777, d.gid(), d.mtime()), (0o2755, 2000, 1_000_000_000), "a folder's time comes last");
    assert_eq!((j.stat("d/plain").mode() & 0o7777, j.stat("d/plain").gid()), (0o666, 2000), "whatever the umask is");
    let root = j.stat("d/root");
    assert_eq!((root.uid(), root.gid()), (0, 0), "the folder's setgid bit is not the file's business");
    assert_eq!((j.stat("d/l").uid(), j.stat("d/l").mtime()), (1000, 1_000_000_000));
    let fuse = j.stat("d/fuse");
    assert!(fuse.file_type().is_char_device() && fuse.rdev() == rustix::fs::makedev(10, 229));
    assert_eq!((fuse.mode() & 0o7777, fuse.uid()), (0o666, 1000));
    assert_eq!(j.stat("d/fifo").mode() & 0o7777, 0o622);

    let file = fs::File::open(j.root().join("d/su")).unwrap();
    let mut names = vec![0; 1024];
    let n = rustix::fs::flistxattr(&file, &mut names[..]).unwrap();
    let mut names: Vec<&[u8]> = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"security.capability"[..], b"user.a\nb"]);
    let mut value = [0; 64];
    let n = rustix::fs::fgetxattr(&file, "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..n], capability);
}

#[test]
fn a_default_access_list_does_not_reach_the_layers_own_files() {
    let Some(j) = Jail::new("a_default_access_list") else { return };
    // Version 2; owner rwx, user 5 rwx, group r, mask rwx, others none.
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 5), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let layer =
        Layer::new().pax(&[("SCHILY.xattr.system.posix_acl_default", &acl)]).folder("d", 0o755).file("d/file", "");
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!(j.stat("d/file").mode() & 0o777, 0o644);
    let dir = fs::File::open(j.root().join("d")).unwrap();
    let mut value = [0; 128];
    match rustix::fs::fgetxattr(&dir, "system.posix_acl_default", &mut value[..]) {
        Ok(n) => assert_eq!(&value[..n], acl),
        Err(e) => println!("SKIP part of a_default_access_list: this filesystem has none: {e}"),
    }
}

#[test]
fn pax_and_ustar_sizes_that_differ() {
    let Some(j) = Jail::new("pax_and_ustar_sizes_that_differ") else { return };
    // CVE-2025-62518: the header says 0, pax says 1024; what follows is data, though it looks like an archive.
    let inner = Layer::new().file("smuggled", "bad").unended();
    assert_eq!(inner.len(), 1024);
    let layer = Layer::new()
        .pax(&[("size", b"1024")])
        .entry(&Entry { size: Some(0), data: inner.clone(), ..Entry::new(b'0', "archive") })
        .file("after", "1");
    let applied = j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!(applied, Applied { bytes: 1025, entries: 2 });
    assert!(!j.root().join("smuggled").exists());
    assert_eq!(fs::read(j.root().join("archive")).unwrap(), inner);
    assert_eq!(j.read("after").as_deref(), Some("1"));
    // The other way round: pax says 0, so what follows are entries.
    let layer =
        Layer::new().pax(&[("size", b"0")]).entry(&Entry { size: Some(1024), ..Entry::new(b'0', "empty") }).raw(&inner);
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!((j.read("empty").as_deref(), j.read("smuggled").as_deref()), (Some(""), Some("bad")));
}

#[test]
fn what_is_no_file_has_no_data() {
    let Some(j) = Jail::new("what_is_no_file_has_no_data") else { return };
    let mut layer = Layer::new().file("target", "");
    for (i, kind) in [b'1', b'2', b'3', b'5', b'6'].into_iter().enumerate() {
        let entry = Entry { size: Some(512), link: b"target".to_vec(), ..Entry::new(kind, &format!("e{i}")) };
        layer = layer.pax(&[("size", b"4096")]).entry(&entry);
    }
    j.apply(&layer.file("last", "1"), Mode::Overlay).unwrap();
    assert_eq!(j.read("last").as_deref(), Some("1"));
}

#[test]
fn long_names() {
    let Some(j) = Jail::new("long_names") else { return };
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let gnu = |kind, name: &str| Entry { data: format!("{name}\0").into_bytes(), ..Entry::new(kind, "././@LongLink") };
    let layer = Layer::new()
        .entry(&gnu(b'L', &long))
        .file("cut", "gnu")
        .pax(&[("path", format!("{long}2").as_bytes())])
        .file("cut", "pax")
        .entry(&gnu(b'K', &long))
        .entry(&gnu(b'L', &format!("{long}3")))
        .hard_link("cut", "cut")
        .pax(&[("linkpath", "x".repeat(300).as_bytes())])
        .symlink("link", "cut");
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!((j.read(&long), j.read(&format!("{long}2"))), (Some("gnu".into()), Some("pax".into())));
    assert_eq!(j.read(&format!("{long}3")).as_deref(), Some("gnu"));
    assert_eq!(fs::read_link(j.root().join("link")).unwrap().as_os_str().len(), 300);
    assert!(!j.root().join("cut").exists());
}

#[test]
fn the_last_of_two_entries_wins() {
    for mode in BOTH {
        let Some(j) = Jail::new("the_last_of_two_entries_wins") else { return };
        let layer = Layer::new()
            .file("a", "1")
            .file("a", "22")
            .folder("d", 0o700)
            .file("d/x", "")
            .folder("d", 0o711)
            .folder("e/f", 0o755)
            .file("e", "file")
            .file("g", "1")
            .folder("g", 0o755)
            .file("g/h", "1")
            .symlink("s", "1")
            .symlink("s", "2");
        j.apply(&layer, mode).unwrap();
        assert_eq!((j.read("a").as_deref(), j.read("e").as_deref()), (Some("22"), Some("file")));
        assert_eq!((j.stat("d").mode() & 0o777, j.read("d/x").as_deref()), (0o711, Some("")));
        assert_eq!(j.read("g/h").as_deref(), Some("1"));
        assert_eq!(fs::read_link(j.root().join("s")).unwrap(), PathBuf::from("2"));
    }
}

#[test]
fn limits() {
    let Some(j) = Jail::new("limits") else { return };
    let default = Limits::default();
    let too_large = |layer: &Layer, limits: &Limits| {
        matches!(j.apply_within(layer, Mode::Overlay, limits), Err(Error::TooLarge { .. }))
    };
    let two = Layer::new().file("a", "12345").file("b", "12345");
    assert!(too_large(&two, &Limits { max_bytes: 9, ..default }));
    assert!(too_large(&two, &Limits { max_entries: 1, ..default }));
    j.apply_within(&two, Mode::Overlay, &Limits { max_bytes: 10, max_entries: 2, ..default }).unwrap();
    let long = "n".repeat(50);
    let short = Limits { max_path: 40, ..default };
    assert!(too_large(&Layer::new().file(&long, ""), &short));
    assert!(too_large(&Layer::new().symlink("l", &long), &short));
    let gnu = Entry { data: vec![b'x'; 1 << 16], ..Entry::new(b'L', "long") };
    assert!(too_large(&Layer::new().entry(&gnu).file("a", ""), &default));
    // Neither may be believed, nor reserved in memory.
    let huge = |kind| Entry { size: Some(0o77_777_777_777), ..Entry::new(kind, "huge") };
    for kind in [b'x', b'g', b'L', b'K'] {
        assert!(too_large(&Layer::new().entry(&huge(kind)), &default), "{}", kind as char);
    }
    assert!(too_large(&Layer::new().entry(&huge(b'0')), &Limits { max_bytes: 1 << 20, ..default }));
    assert!(!j.root().join("huge").exists());
}

#[test]
fn devices_can_be_left_out() {
    let Some(j) = Jail::new("devices_can_be_left_out") else { return };
    let layer = Layer::new().entry(&Entry { device: (8, 0), ..Entry::new(b'4', "sda") }).file("after", "");
    j.apply_within(&layer, Mode::Overlay, &Limits { devices: Devices::Skip, ..Limits::default() }).unwrap();
    assert!(!j.root().join("sda").exists() && j.root().join("after").exists());
}

#[test]
fn truncated_and_damaged_archives() {
    let Some(j) = Jail::new("truncated_and_damaged_archives") else { return };
    let layer = Layer::new().folder("d", 0o755).file("d/file", vec![1; 2000]).bytes();
    let run = |bytes: &[u8]| apply(bytes, &j.root(), Mode::Overlay, &Limits::default());
    for len in [1, 511, 513, 1023, 1025, 1536, 2000, 3000] {
        assert!(matches!(run(&layer[..len]), Err(Error::Invalid { .. })), "cut at {len}");
    }
    run(&layer[..1024 + 2048]).unwrap();
    run(&layer[..1024 + 2048 + 512]).unwrap();
    let mut damaged = layer.clone();
    damaged[600] ^= 0x40;
    assert!(matches!(run(&damaged), Err(Error::Invalid { .. })));
    let hidden = [layer[..1024 + 2048 + 512].to_vec(), Layer::new().file("hidden", "").bytes()].concat();
    assert!(run(&hidden).is_err(), "an entry after one block of zeros");
    run(&[]).unwrap();
}

#[test]
fn what_follows_the_end_is_read_but_not_believed() {
    struct Counting<'a>(&'a [u8], usize);
    impl Read for Counting<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let some = buf.len().min(700);
            let n = self.0.read(&mut buf[..some])?;
            self.1 += n;
            Ok(n)
        }
    }
    let Some(j) = Jail::new("what_follows_the_end_is_read") else { return };
    let bytes = [Layer::new().file("a", "").bytes(), Layer::new().file("b", "").bytes(), vec![7; 5000]].concat();
    let mut reader = Counting(&bytes, 0);
    apply(&mut reader, &j.root(), Mode::Overlay, &Limits::default()).unwrap();
    assert_eq!(reader.1, bytes.len());
    assert!(j.root().join("a").exists() && !j.root().join("b").exists());
}

#[test]
fn what_nobody_can_honour_is_refused() {
    let Some(j) = Jail::new("what_nobody_can_honour") else { return };
    let uid = Layer::new().pax(&[("uid", b"4294967295")]).file("a", "");
    let negative = Layer::new().pax(&[("gid", b"-1")]).file("a", "");
    let sparse = Layer::new().entry(&Entry::new(b'S', "a"));
    let pax_sparse = Layer::new().pax(&[("GNU.sparse.major", b"1")]).file("a", "");
    let unknown = Layer::new().entry(&Entry::new(b'V', "a"));
    let nul = Layer::new().pax(&[("path", b"a\0b")]).file("a", "");
    let root_file = Layer::new().file("./", "");
    let below_file = Layer::new().file("a", "").file("a/b", "");
    let loops = Layer::new().symlink("x", "y").symlink("y", "x").file("x/a", "");
    let long = Layer::new().pax(&[("path", "n".repeat(256).as_bytes())]).file("a", "");
    for (i, layer) in
        [uid, negative, sparse, pax_sparse, unknown, nul, root_file, below_file, loops, long].iter().enumerate()
    {
        for mode in BOTH {
            assert!(j.apply(layer, mode).is_err(), "layer {i}");
        }
    }
}

#[test]
fn a_link_that_leads_nowhere_yet_is_followed_inside() {
    let Some(j) = Jail::new("a_link_that_leads_nowhere_yet") else { return };
    let layer = Layer::new()
        .symlink("var/run", "/run")
        .file("var/run/pid", "1")
        .symlink("deep/a", "../x/./../y//z")
        .file("deep/a/file", "2");
    j.apply(&layer, Mode::Overlay).unwrap();
    assert_eq!(j.read("run/pid").as_deref(), Some("1"));
    assert_eq!(j.read("y/z/file").as_deref(), Some("2"));
}

#[test]
fn a_full_disk_is_a_clean_error() {
    let Some(j) = Jail::new("a_full_disk_is_a_clean_error") else { return };
    let small = Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: None,
        options: vec!["size=1m".into(), "mode=700".into()],
    };
    crate::mount::mount_all(&[small], &j.root()).unwrap();
    let result = j.apply(&Layer::new().file("big", vec![1; 2 << 20]), Mode::Merged);
    crate::mount::unmount_all(&j.root()).unwrap();
    let error = result.unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(error.to_string().contains("root/big"), "{error}");
}
