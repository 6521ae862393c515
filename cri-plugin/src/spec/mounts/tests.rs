//! Tables for `list` and for what it asks of the caller.

use super::*;
use crate::error::Word;
use crate::spec::tests::fixture::{self, Case};
use cleat_proto::cri::v1::{IdMapping, Mount as Asked, NamespaceMode, NamespaceOption, UserNamespace};

fn asked(container: &str, host: &str) -> Asked {
    Asked { container_path: container.into(), host_path: host.into(), ..Asked::default() }
}

fn got(case: &Case) -> Vec<Mount> {
    list(&case.input()).unwrap_or_else(|e| panic!("{e}"))
}

fn at<'a>(mounts: &'a [Mount], place: &str) -> Vec<&'a Mount> {
    mounts.iter().filter(|m| m.destination() == Path::new(place)).collect()
}

fn options(mount: &Mount) -> String {
    mount.options().as_ref().expect("options").join(",")
}

#[test]
fn what_every_container_has() {
    let mounts = got(&Case::new());
    let places: Vec<String> = mounts.iter().map(|m| m.destination().display().to_string()).collect();
    assert_eq!(
        places,
        [
            "/proc",
            "/dev",
            "/sys",
            "/dev/pts",
            "/dev/mqueue",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/hostname",
            "/dev/shm",
            "/sys/fs/cgroup"
        ]
    );
    assert!(options(at(&mounts, "/sys")[0]).ends_with(",ro"));
    assert!(options(at(&mounts, "/sys/fs/cgroup")[0]).ends_with(",ro"));
    assert_eq!(options(at(&mounts, "/etc/hosts")[0]), "rbind,rprivate,rw");
}

#[test]
fn privileged_writes_to_sysfs_and_a_read_only_root_to_nothing() {
    let mut case = Case::new();
    fixture::security(&mut case.config).privileged = true;
    fixture::security(&mut case.config).readonly_rootfs = true;
    let mounts = got(&case);
    assert!(options(at(&mounts, "/sys")[0]).ends_with(",rw"));
    assert!(options(at(&mounts, "/sys/fs/cgroup")[0]).ends_with(",rw"));
    assert_eq!(options(at(&mounts, "/etc/hosts")[0]), "rbind,rprivate,ro");
    assert_eq!(options(at(&mounts, "/dev/shm")[0]), "rbind,rprivate,rw");
}

#[test]
fn the_clients_mount_wins_its_place_and_parents_come_first() {
    let mut case = Case::new();
    case.config.mounts = vec![
        asked("/etc/hosts/", "/host/hosts"),
        asked("/data/sub", "/host/sub"),
        asked("/data", "/host/data"),
        asked("/dev/shm", "/host/shm"),
        asked("//sys/./fs/cgroup", "/host/cg"),
        asked("/data", "/host/data2"),
    ];
    let mounts = got(&case);
    for (place, sources) in [
        ("/etc/hosts", vec!["/host/hosts"]),
        ("/dev/shm", vec!["/host/shm"]),
        ("/sys/fs/cgroup", vec!["/host/cg"]),
        ("/data", vec!["/host/data", "/host/data2"]),
    ] {
        let found: Vec<_> = at(&mounts, place).iter().map(|m| m.source().clone().expect("source")).collect();
        assert_eq!(found, sources.iter().map(PathBuf::from).collect::<Vec<_>>(), "{place}");
    }
    let index = |source: &str| mounts.iter().position(|m| m.source().as_deref() == Some(Path::new(source)));
    assert!(index("/host/data") < index("/host/sub"));
}

#[test]
fn a_dev_or_sys_of_the_clients_is_whole() {
    let mut case = Case::new();
    case.config.mounts = vec![asked("/dev", "/dev"), asked("/sys", "/sys")];
    let places: Vec<_> = got(&case).iter().map(|m| m.destination().clone()).collect();
    for gone in ["/dev/pts", "/dev/mqueue", "/sys/fs/cgroup"] {
        assert!(!places.contains(&gone.into()), "{gone}");
    }
    for once in ["/dev", "/sys", "/dev/shm"] {
        assert_eq!(places.iter().filter(|p| *p == Path::new(once)).count(), 1, "{once}");
    }
}

#[test]
fn options_of_a_volume() {
    let rw = asked("/v", "/h");
    for (mount, wanted, root) in [
        (rw.clone(), "rbind,rprivate,rw", None),
        (Asked { readonly: true, ..rw.clone() }, "rbind,rprivate,ro", None),
        (Asked { propagation: 1, ..rw.clone() }, "rbind,rslave,rw", Some("rslave")),
        (Asked { propagation: 2, ..rw.clone() }, "rbind,rshared,rw", Some("rshared")),
        (Asked { readonly: true, recursive_read_only: true, ..rw.clone() }, "rbind,rprivate,rro", None),
        (
            Asked { mount_options: vec!["noexec".into(), "nodev".into()], ..rw.clone() },
            "rbind,rprivate,rw,noexec,nodev",
            None,
        ),
    ] {
        let mut case = Case::new();
        case.config.mounts = vec![mount];
        assert_eq!(options(at(&got(&case), "/v")[0]), wanted);
        assert_eq!(rootfs_propagation(&case.config).expect("known").as_deref(), root);
    }
}

#[test]
fn what_the_runtime_or_kernel_cannot_do() {
    let mut case = Case::new();
    case.config.mounts = vec![Asked { readonly: true, recursive_read_only: true, ..asked("/v", "/h") }];
    case.host.mount_setattr = false;
    assert!(matches!(list(&case.input()), Err(Error::Cri { word: Word::RROUnsupported, .. })));
    let range = vec![IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
    case.config.mounts = vec![Asked { uid_mappings: range.clone(), gid_mappings: range, ..asked("/v", "/h") }];
    assert!(matches!(list(&case.input()), Err(Error::Unsupported { .. })));
    case.host.mount_setattr = true;
    let mounts = got(&case);
    assert_eq!(at(&mounts, "/v")[0].uid_mappings().as_ref().expect("mapped")[0].host_id(), 65536);
    case.features.idmapped_mounts = false;
    assert!(matches!(list(&case.input()), Err(Error::Unsupported { .. })));
}

#[test]
fn mistakes_name_their_field() {
    let image = || Some(ImageSpec { image: "sha256:1".into(), ..ImageSpec::default() });
    let v = || asked("/v", "/h");
    for (bad, field) in [
        (asked("v", "/h"), "container_path"),
        (asked("/", "/h"), "container_path"),
        (asked("/v/..", "/h"), "container_path"),
        (asked("", "/h"), "container_path"),
        (asked("/v", "h"), "host_path"),
        (asked("/v", ""), "host_path"),
        (Asked { image: image(), ..v() }, "host_path"),
        (Asked { image: Some(ImageSpec::default()), ..asked("/v", "") }, "image.image"),
        (Asked { image: image(), image_sub_path: "../x".into(), ..asked("/v", "") }, "image_sub_path"),
        (Asked { image: image(), image_sub_path: "/x".into(), ..asked("/v", "") }, "image_sub_path"),
        (Asked { image_sub_path: "x".into(), ..v() }, "image_sub_path"),
        (Asked { propagation: 3, ..v() }, "propagation"),
        (Asked { recursive_read_only: true, ..v() }, "recursive_read_only"),
        (Asked { recursive_read_only: true, readonly: true, propagation: 1, ..v() }, "recursive_read_only"),
        (Asked { mount_options: vec!["remount".into()], ..v() }, "mount_options"),
        (Asked { uid_mappings: vec![IdMapping { host_id: 1, container_id: 0, length: 1 }], ..v() }, "gidMappings"),
    ] {
        let mut case = Case::new();
        case.config.mounts = vec![v(), bad];
        let e = list(&case.input()).expect_err(field).to_string();
        assert!(e.contains("mounts[1]") && e.contains(field), "{field}: {e}");
    }
}

#[test]
fn sources_are_surfaced_and_taken_as_resolved() {
    let mut case = Case::new();
    let image = Some(ImageSpec { image: "sha256:1".into(), ..ImageSpec::default() });
    case.config.mounts = vec![
        Asked { selinux_relabel: true, ..asked("/a", "/link") },
        Asked { image, image_sub_path: "sub".into(), ..asked("/b", "") },
    ];
    assert_eq!(host_sources(&case.config).collect::<Vec<_>>(), [(0, Path::new("/link"))]);
    let images: Vec<_> = image_sources(&case.config).map(|(i, spec, sub)| (i, spec.image.as_str(), sub)).collect();
    assert_eq!(images, [(1, "sha256:1", "sub")]);
    assert_eq!(relabels(&case.config).collect::<Vec<_>>(), [0]);
    let e = list(&case.input()).expect_err("not mounted").to_string();
    assert!(e.contains("mounts[1].image") && e.contains("sha256:1"), "{e}");
    case.resolved = [(0, "/real".into()), (1, "/images/1/sub".into())].into();
    let mounts = got(&case);
    assert_eq!(at(&mounts, "/a")[0].source().as_deref(), Some(Path::new("/real")));
    assert_eq!(options(at(&mounts, "/b")[0]), "rbind,rprivate,ro");
}

#[test]
fn volumes_of_the_image() {
    let mut case = Case::new();
    case.image = fixture::image(r#"{"Volumes":{"/b/":{},"/a":{},"rel":{},"/taken":{}}}"#);
    case.config.mounts = vec![asked("/taken", "/h")];
    let found = image_volumes(&case.config, &case.image).expect("volumes");
    assert_eq!(found, ["/a", "/b", "/rel"].map(PathBuf::from));
    case.anonymous =
        found.into_iter().map(|v| (v.clone(), Path::new("/vol").join(v.strip_prefix("/").expect("abs")))).collect();
    assert_eq!(at(&got(&case), "/a")[0].source().as_deref(), Some(Path::new("/vol/a")));
    for bad in ["/", "/..", "/proc/x", "/dev", "/x/../sys"] {
        let image = fixture::image(&serde_json::json!({"Volumes": {bad: {}}}).to_string());
        let e = image_volumes(&case.config, &image).expect_err(bad).to_string();
        assert!(e.contains("Volumes"), "{e}");
    }
}

#[test]
fn user_namespaces_map_what_the_daemon_made() {
    let mut case = Case::new();
    let range = |length| vec![IdMapping { host_id: 65536, container_id: 0, length }];
    let userns = |length| Some(UserNamespace { mode: 0, uids: range(length), gids: range(length) });
    let options_of = |userns_options| NamespaceOption { pid: 1, userns_options, ..NamespaceOption::default() };
    fixture::pod_security(&mut case.pod).namespace_options = Some(options_of(userns(65536)));
    let mounts = got(&case);
    assert!(at(&mounts, "/etc/hosts")[0].uid_mappings().is_some());
    assert!(at(&mounts, "/dev/shm")[0].uid_mappings().is_none());
    assert!(options(at(&mounts, "/dev/pts")[0]).contains("gid=5"));
    let small = NamespaceOption { network: NamespaceMode::Node as i32, ..options_of(userns(3)) };
    fixture::pod_security(&mut case.pod).namespace_options = Some(small);
    let mounts = got(&case);
    assert!(!options(at(&mounts, "/dev/pts")[0]).contains("gid=5"));
    assert_eq!(at(&mounts, "/sys")[0].typ().as_deref(), Some("bind"));
    assert!(options(at(&mounts, "/sys")[0]).ends_with(",rro"));
    case.features.recursive_read_only = false;
    assert!(options(at(&got(&case), "/sys")[0]).ends_with(",ro"));
}
