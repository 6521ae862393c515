//! Whether the host's mounts can travel as a client asks: from a private mount nothing does, silently.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{ContainerConfig, MountPropagation};

use super::{Volumes, host_sources};
use crate::spec::known;
use crate::{Error, Result};

/// A line of mountinfo (proc_pid_mountinfo(5)).
struct Line {
    point: PathBuf,
    shared: bool,
    slave: bool,
}

/// Checks each mount of the client that is not private against the host's mounts: BIDIRECTIONAL needs a shared one,
/// HOST_TO_CONTAINER a shared or slave one.
///
/// `mountinfo` is `/proc/self/mountinfo` as the container's runtime will see it.
///
/// # Errors
/// `Invalid` with the field, naming the mount that is private.
pub fn check_propagation(config: &ContainerConfig, volumes: &Volumes<'_>, mountinfo: &[u8]) -> Result<()> {
    for (i, written) in host_sources(config) {
        let field = format!("mounts[{i}].propagation");
        let asked: MountPropagation = known(&field, config.mounts[i].propagation)?;
        if asked == MountPropagation::PropagationPrivate {
            continue;
        }
        let source = volumes.resolved.and_then(|r| r.get(&i)).map_or(written, PathBuf::as_path);
        let wrong = |why: String| Err(Error::invalid(&field, format!("{}: {why}", source.display())));
        match (asked, mount_of(source, mountinfo)) {
            (_, None) => return wrong("no mount holds it".into()),
            (MountPropagation::PropagationBidirectional, Some(line)) if !line.shared => {
                return wrong(format!("the mount at {} is not shared", line.point.display()));
            }
            (_, Some(line)) if !line.shared && !line.slave => {
                return wrong(format!("the mount at {} is neither shared nor a slave", line.point.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The mount that holds `path`: of the deepest mount points above it the one mounted last.
fn mount_of(path: &Path, mountinfo: &[u8]) -> Option<Line> {
    let lines = mountinfo.split(|b| *b == b'\n').filter_map(line);
    lines.filter(|l| path.starts_with(&l.point)).max_by_key(|l| l.point.components().count())
}

/// `36 35 98:0 /root /point options [shared:N] [master:N] ... - type source options`.
fn line(text: &[u8]) -> Option<Line> {
    let fields: Vec<&[u8]> = text.split(|b| *b == b' ').collect();
    let optional = fields.get(6..)?.iter().take_while(|f| **f != b"-");
    let (mut shared, mut slave) = (false, false);
    for field in optional {
        shared |= field.starts_with(b"shared:");
        slave |= field.starts_with(b"master:");
    }
    Some(Line { point: unescape(fields[4]), shared, slave })
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    if !text.contains(&b'\\') {
        return OsStr::from_bytes(text).into();
    }
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cleat_proto::cri::v1::Mount as Asked;
    use proptest::prelude::*;

    const MOUNTS: &str = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                          2 1 8:2 / /shared rw shared:7 - ext4 /dev/b rw\n\
                          3 1 8:3 / /slave\\040one rw master:7 - ext4 /dev/c rw\n\
                          4 2 8:4 / /shared/private rw - tmpfs none rw\n\
                          5 1 8:5 / /over rw shared:9 - tmpfs none rw\n\
                          6 5 8:6 / /over rw - tmpfs none rw\n";

    #[test]
    fn only_what_travels_passes() {
        let (to_container, both) = (1, 2);
        for (host, propagation, wanted) in [
            ("/data", 0, None),
            ("/shared/x", both, None),
            ("/shared/x", to_container, None),
            ("/slave one/x", to_container, None),
            ("/slave one/x", both, Some("/slave one is not shared")),
            ("/data", to_container, Some("mount at / is neither")),
            ("/sharedx", both, Some("mount at / is not shared")),
            ("/shared/private", both, Some("/shared/private is not shared")),
            ("/over/x", both, Some("/over is not shared")),
        ] {
            let mount = Asked { host_path: host.into(), propagation, ..Asked::default() };
            let config = ContainerConfig { mounts: vec![mount], ..ContainerConfig::default() };
            let got = check_propagation(&config, &Volumes::default(), MOUNTS.as_bytes());
            match (got, wanted) {
                (Ok(()), None) => {}
                (Err(e), Some(words)) => {
                    let text = e.to_string();
                    assert!(text.contains("mounts[0].propagation") && text.contains(words), "{text}");
                }
                (got, wanted) => panic!("{host} {propagation}: {got:?}, wanted {wanted:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text: Vec<u8>) {
            mount_of(Path::new("/a/b"), &text);
            unescape(&text);
        }
    }
}
