//! Mount options as fstab(5) and containerd write them, sorted into what mount(2) takes: flags, a change of
//! propagation, and the filesystem's own data.
//!
//! Deliberately absent: `remount` (nothing here changes a mount after the fact) and options for user space (`loop`,
//! `X-...`): they are refused, because a filesystem would answer them with EINVAL and no word of why.

use nix::mount::MsFlags;

use super::idmap::IdMap;
use crate::error::{Error, Result};

/// A mount's options, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options<'a> {
    /// `MS_*`, with `MS_BIND` and `MS_REC` when it is a bind.
    pub flags: MsFlags,
    /// Changes of propagation, in order: mount(2) takes each in a call of its own.
    pub propagation: Vec<MsFlags>,
    /// Options of the filesystem itself.
    pub data: Vec<&'a str>,
    /// Whose the files shall seem to be.
    pub ids: Option<IdMap>,
}

impl<'a> Options<'a> {
    /// Sorts `options`; an element may hold several, separated by commas.
    ///
    /// # Errors
    /// `Invalid` for an option that is for user space, or that no mount(2) call could honour.
    pub fn parse(options: &'a [String]) -> Result<Self> {
        let mut out = Options { flags: MsFlags::empty(), propagation: Vec::new(), data: Vec::new(), ids: None };
        let maps = ["uidmap=", "gidmap="].map(|key| options.iter().find_map(|o| o.strip_prefix(key)));
        out.ids = match maps {
            [None, None] => None,
            [Some(uids), Some(gids)] => Some(IdMap::parse(uids, gids)?),
            _ => return Err(Error::invalid("mount options", "uidmap and gidmap go together")),
        };
        for option in options.iter().filter(|o| !o.starts_with("uidmap=") && !o.starts_with("gidmap=")) {
            // A comma can be escaped (overlayfs does so in paths); such an element is data and is kept whole.
            if option.contains('\\') {
                out.data.push(option);
                continue;
            }
            for word in option.split(',').filter(|w| !w.is_empty()) {
                out.take(word)?;
            }
        }
        Ok(out)
    }

    fn take(&mut self, word: &'a str) -> Result<()> {
        match flag(word) {
            Some(Flag::Set(f)) => self.flags |= f,
            Some(Flag::Clear(f)) => self.flags -= f,
            Some(Flag::Propagation(f)) => self.propagation.push(f),
            Some(Flag::Nothing) => {}
            None if unsupported(word) => {
                return Err(Error::invalid(format!("mount option {word:?}"), "it is not for the kernel to handle"));
            }
            None => self.data.push(word),
        }
        Ok(())
    }

    /// The data as one string, as mount(2) wants it.
    pub fn data(&self) -> String {
        self.data.join(",")
    }
}

enum Flag {
    Set(MsFlags),
    Clear(MsFlags),
    Propagation(MsFlags),
    Nothing,
}

/// Options only a program could honour: mount(8)'s own, and remounts.
fn unsupported(word: &str) -> bool {
    let name = word.split('=').next().unwrap_or(word);
    matches!(name, "remount" | "loop" | "offset" | "sizelimit") || name.starts_with("X-") || name.starts_with("x-")
}

fn flag(word: &str) -> Option<Flag> {
    use Flag::{Clear, Nothing, Propagation, Set};
    let rec = MsFlags::MS_REC;
    Some(match word {
        "defaults" => Nothing,
        "bind" => Set(MsFlags::MS_BIND),
        "rbind" => Set(MsFlags::MS_BIND | rec),
        "ro" => Set(MsFlags::MS_RDONLY),
        "rw" => Clear(MsFlags::MS_RDONLY),
        "nosuid" => Set(MsFlags::MS_NOSUID),
        "suid" => Clear(MsFlags::MS_NOSUID),
        "nodev" => Set(MsFlags::MS_NODEV),
        "dev" => Clear(MsFlags::MS_NODEV),
        "noexec" => Set(MsFlags::MS_NOEXEC),
        "exec" => Clear(MsFlags::MS_NOEXEC),
        "sync" => Set(MsFlags::MS_SYNCHRONOUS),
        "async" => Clear(MsFlags::MS_SYNCHRONOUS),
        "dirsync" => Set(MsFlags::MS_DIRSYNC),
        "mand" => Set(MsFlags::MS_MANDLOCK),
        "nomand" => Clear(MsFlags::MS_MANDLOCK),
        "noatime" => Set(MsFlags::MS_NOATIME),
        "atime" => Clear(MsFlags::MS_NOATIME),
        "nodiratime" => Set(MsFlags::MS_NODIRATIME),
        "diratime" => Clear(MsFlags::MS_NODIRATIME),
        "relatime" => Set(MsFlags::MS_RELATIME),
        "norelatime" => Clear(MsFlags::MS_RELATIME),
        "strictatime" => Set(MsFlags::MS_STRICTATIME),
        "nostrictatime" => Clear(MsFlags::MS_STRICTATIME),
        "private" => Propagation(MsFlags::MS_PRIVATE),
        "rprivate" => Propagation(MsFlags::MS_PRIVATE | rec),
        "shared" => Propagation(MsFlags::MS_SHARED),
        "rshared" => Propagation(MsFlags::MS_SHARED | rec),
        "slave" => Propagation(MsFlags::MS_SLAVE),
        "rslave" => Propagation(MsFlags::MS_SLAVE | rec),
        "unbindable" => Propagation(MsFlags::MS_UNBINDABLE),
        "runbindable" => Propagation(MsFlags::MS_UNBINDABLE | rec),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn flags_propagation_and_data_are_told_apart() {
        let words = own(&["rbind", "ro,nosuid", "rslave", "volatile", "lowerdir=/a:/b", "exec", ""]);
        let got = Options::parse(&words).unwrap();
        assert_eq!(got.flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        assert_eq!(got.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert_eq!(got.data(), "volatile,lowerdir=/a:/b");
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        for (words, read_only) in [(["ro", "rw"], false), (["rw", "ro"], true)] {
            let words = own(&words);
            assert_eq!(Options::parse(&words).unwrap().flags.contains(MsFlags::MS_RDONLY), read_only, "{words:?}");
        }
    }

    #[test]
    fn what_is_for_user_space_is_refused_by_name() {
        for word in ["remount", "loop", "X-containerd.mkfs", "x-systemd.automount"] {
            let words = own(&[word]);
            let error = Options::parse(&words).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn id_maps_go_together_and_keep_their_commas() {
        let words = own(&["uidmap=0:1000:10,10:5000:5", "gidmap=0:2000:10", "ro"]);
        let got = Options::parse(&words).unwrap();
        assert_eq!(got.ids, Some(IdMap::parse("0:1000:10,10:5000:5", "0:2000:10").unwrap()));
        assert_eq!(got.data(), "");
        assert!(Options::parse(&own(&["uidmap=0:1000:10"])).is_err());
    }

    #[test]
    fn an_escaped_comma_keeps_its_option_whole() {
        let words = own(&["lowerdir=/a\\,b:/c"]);
        assert_eq!(Options::parse(&words).unwrap().data(), "lowerdir=/a\\,b:/c");
    }
}
