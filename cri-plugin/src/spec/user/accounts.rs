//! `/etc/passwd` and `/etc/group` of an image: hostile bytes, read line by line.
//!
//! A line that is not one is passed over, as the C library does; nothing here fails on content. The size is capped
//! (CVE-2026-47262), and that only regular files are read is the reader's duty.

use crate::{Error, Result};

/// The largest account file that is looked at, in bytes.
pub const MAX_BYTES: usize = 10 << 20;

/// The account files' bytes; empty where the image has none.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

/// What a line of passwd says, as far as a container cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// Its uid.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

impl Accounts {
    /// Takes the two files' contents.
    ///
    /// # Errors
    /// `Invalid` for a file of more than 10 MiB.
    pub fn new(passwd: Vec<u8>, group: Vec<u8>) -> Result<Self> {
        for (name, bytes) in [("/etc/passwd", &passwd), ("/etc/group", &group)] {
            if bytes.len() > MAX_BYTES {
                return Err(Error::invalid(
                    format!("the image's {name}"),
                    format!("it has {} bytes, more than {MAX_BYTES}", bytes.len()),
                ));
            }
        }
        Ok(Self { passwd, group })
    }

    /// The first user of that uid.
    pub fn user_by_id(&self, uid: u32) -> Option<User> {
        self.users().find(|u| u.uid == uid)
    }

    /// The first user of that name.
    pub fn user_by_name(&self, name: &str) -> Option<User> {
        self.users().find(|u| u.name == name)
    }

    /// The gid of the first group of that name.
    pub fn group_by_name(&self, name: &str) -> Option<u32> {
        self.groups().find(|(fields, _)| fields[0] == name.as_bytes()).map(|(_, gid)| gid)
    }

    /// The groups that list `user` as a member, in the file's order.
    pub fn groups_of(&self, user: &str) -> Vec<u32> {
        let lists = |members: &[u8]| members.split(|&b| b == b',').any(|m| m.trim_ascii() == user.as_bytes());
        self.groups().filter(|(fields, _)| lists(fields[3])).map(|(_, gid)| gid).collect()
    }

    /// passwd(5): name:password:uid:gid:comment:home:shell.
    fn users(&self) -> impl Iterator<Item = User> {
        rows::<7>(&self.passwd, 4).filter_map(|fields| {
            let name = std::str::from_utf8(fields[0]).ok().filter(|n| !n.is_empty())?.to_owned();
            Some(User { name, uid: number(fields[2])?, gid: number(fields[3])? })
        })
    }

    /// group(5): name:password:gid:members.
    fn groups(&self) -> impl Iterator<Item = ([&[u8]; 4], u32)> {
        rows::<4>(&self.group, 3).filter_map(|fields| Some((fields, number(fields[2])?)))
    }
}

/// Lines of `N` fields, missing ones empty, those with fewer than `least` passed over.
fn rows<const N: usize>(bytes: &[u8], least: usize) -> impl Iterator<Item = [&[u8]; N]> {
    bytes.split(|&b| b == b'\n').filter_map(move |line| {
        let line = line.trim_ascii();
        let mut fields = [&b""[..]; N];
        let mut count = 0;
        for (slot, field) in fields.iter_mut().zip(line.splitn(N, |&b| b == b':')) {
            *slot = field;
            count += 1;
        }
        (count >= least && !line.starts_with(b"#") && !line.starts_with(b"+") && !line.starts_with(b"-"))
            .then_some(fields)
    })
}

fn number(field: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(field).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|id| *id <= super::MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let passwd = "\n# root:x:1:1::/:\n+nis:x:2:2::/:\n:x:3:3::/:\nshort:x:4\nminus:x:-5:5::/:\n\
                      big:x:4294967295:0::/:\nneg:x:5:9999999999::/:\n  ok:x:6:7\n";
        let accounts = Accounts::new(passwd.into(), "ok:x:9:a, b ,c\r\nbad:x:y:b\n::8:b\n".into()).expect("small");
        assert_eq!(accounts.users().collect::<Vec<_>>(), [User { name: "ok".into(), uid: 6, gid: 7 }]);
        assert_eq!(accounts.groups_of("b"), [9, 8]);
        assert_eq!(accounts.groups_of("c"), [9]);
        assert_eq!((accounts.group_by_name("ok"), accounts.group_by_name("bad")), (Some(9), None));
    }

    #[test]
    fn a_file_above_the_cap_is_refused() {
        let e = Accounts::new(Vec::new(), vec![b'x'; MAX_BYTES + 1]).expect_err("too big").to_string();
        assert!(e.contains("/etc/group"), "{e}");
        assert!(Accounts::new(vec![b':'; MAX_BYTES], Vec::new()).expect("just small enough").user_by_id(0).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(passwd: Vec<u8>, group: Vec<u8>, name in "[a-z:]{0,4}", uid: u32) {
            let accounts = Accounts::new(passwd, group).expect("small");
            if let Some(user) = accounts.user_by_id(uid) {
                prop_assert_eq!(user.uid, uid);
            }
            accounts.user_by_name(&name);
            accounts.group_by_name(&name);
            accounts.groups_of(&name);
        }

        #[test]
        fn what_is_written_is_found(rows in prop::collection::vec(("[a-z]{1,6}", 0u32..9, 0u32..9), 1..8)) {
            let passwd: String = rows.iter().map(|(n, u, g)| format!("{n}:x:{u}:{g}::/:/bin/sh\n")).collect();
            let accounts = Accounts::new(passwd.into_bytes(), Vec::new()).expect("small");
            for (name, ..) in &rows {
                let first = rows.iter().find(|(n, ..)| n == name).expect("it is there");
                let user = accounts.user_by_name(name).expect("found");
                prop_assert_eq!((user.uid, user.gid), (first.1, first.2));
            }
        }
    }
}
