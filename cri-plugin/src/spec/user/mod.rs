//! Who a container's process is: uid, gid and the exact supplementary groups.
//!
//! The client's `run_as_*` first, the image's USER else. A USER made of digits is a number or an error, never a name
//! (CVE-2024-40635), and the primary group is always among the supplementary ones, so that a group the image denies
//! with a negative permission cannot be shed (CVE-2022-2989, CVE-2022-2990, CVE-2023-25173).

mod accounts;

use cleat_proto::cri::v1::{ContainerConfig, LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use oci_spec::image::ImageConfiguration;

pub use accounts::Accounts;

use super::{known, security};
use crate::{Error, Result};

/// (uid_t) -1 means "unchanged" to the kernel, so it is nobody's id.
const MAX_ID: u32 = u32::MAX - 1;

const FIELD: &str = "linux.security_context";
const IMAGE_USER: &str = "the image's User";

/// Who a container's first process is; what ContainerStatus.user reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's id.
    pub uid: u32,
    /// The primary group's id.
    pub gid: u32,
    /// Supplementary groups, ascending, the primary one among them.
    pub additional_gids: Vec<u32>,
    /// The user's name, where the image's passwd knows one.
    pub username: Option<String>,
}

/// One half of `user:group`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Id(u32),
    Name(String),
}

/// The container's identity (CRI api.proto, `LinuxContainerSecurityContext`; KEP-3619 for the policy).
///
/// A user whom the image's passwd does not know has group 0, as under the peers.
///
/// # Errors
/// `Invalid` for an id out of range, a name the image does not know, a group without a user, both a user id and a name.
pub fn resolve(config: &ContainerConfig, image: &ImageConfiguration, accounts: &Accounts) -> Result<Identity> {
    let none = LinuxContainerSecurityContext::default();
    let security = security(config).unwrap_or(&none);
    check(security)?;
    let (user, group, field) = match asked(security)? {
        Some((user, group)) => (user, group, FIELD),
        None => {
            let (user, group) = of_image(image)?;
            (user, group, IMAGE_USER)
        }
    };
    let entry = match &user {
        Who::Id(uid) => accounts.user_by_id(*uid),
        Who::Name(name) => Some(
            accounts
                .user_by_name(name)
                .ok_or_else(|| Error::invalid(field, format!("no user {name:?} in the image's /etc/passwd")))?,
        ),
    };
    let uid = match (&user, &entry) {
        (Who::Id(uid), _) => *uid,
        (Who::Name(_), Some(entry)) => entry.uid,
        (Who::Name(name), None) => return Err(Error::invalid(field, format!("no user {name:?}"))),
    };
    let gid = match group {
        Some(Who::Id(gid)) => gid,
        Some(Who::Name(name)) => accounts
            .group_by_name(&name)
            .ok_or_else(|| Error::invalid(field, format!("no group {name:?} in the image's /etc/group")))?,
        None => entry.as_ref().map_or(0, |e| e.gid),
    };
    let username = entry.map(|e| e.name);
    let additional_gids = groups(security, username.as_deref().map(|n| accounts.groups_of(n)), gid)?;
    Ok(Identity { uid, gid, additional_gids, username })
}

/// What can be said about the fields without an image.
///
/// # Errors
/// As [`resolve`].
pub fn check(security: &LinuxContainerSecurityContext) -> Result<()> {
    asked(security)?;
    groups(security, None, 0)?;
    Ok(())
}

/// Checks a `uid` or `gid` of the wire.
///
/// # Errors
/// `Invalid` for anything that is no id.
pub fn id(field: impl Into<String>, value: i64) -> Result<u32> {
    match u32::try_from(value) {
        Ok(id) if id <= MAX_ID => Ok(id),
        _ => Err(Error::invalid(field, format!("{value} is not between 0 and {MAX_ID}"))),
    }
}

/// The client's choice: `None` where it leaves the choice to the image.
fn asked(security: &LinuxContainerSecurityContext) -> Result<Option<(Who, Option<Who>)>> {
    let name = security.run_as_username.as_str();
    let user = match (&security.run_as_user, name) {
        (Some(_), name) if !name.is_empty() => {
            return Err(Error::invalid(FIELD, "run_as_user and run_as_username are both set"));
        }
        (Some(uid), _) => Some(Who::Id(id(format!("{FIELD}.run_as_user"), uid.value)?)),
        (None, "") => None,
        (None, name) => Some(Who::Name(name.to_owned())),
    };
    let gid = security.run_as_group.as_ref().map(|g| id(format!("{FIELD}.run_as_group"), g.value)).transpose()?;
    match (user, gid) {
        (None, Some(_)) => {
            Err(Error::invalid(format!("{FIELD}.run_as_group"), "it needs run_as_user or run_as_username beside it"))
        }
        (user, gid) => Ok(user.map(|u| (u, gid.map(Who::Id)))),
    }
}

/// The image's `User`: "", "u", "u:g", either half a name or a number.
fn of_image(image: &ImageConfiguration) -> Result<(Who, Option<Who>)> {
    let text = image.config().as_ref().and_then(|c| c.user().as_deref()).unwrap_or_default();
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = half(user)?.unwrap_or(Who::Id(0));
    let group = group.map(half).transpose()?.flatten();
    Ok((user, group))
}

/// A number in any spelling is a number: `+5`, `-1` and `4294967296` are no names.
fn half(text: &str) -> Result<Option<Who>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if text.is_empty() {
        return Ok(None);
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let value = text.parse::<i64>().map_err(|e| Error::invalid(IMAGE_USER, format!("{text:?}: {e}")))?;
        return id(IMAGE_USER, value).map(|id| Some(Who::Id(id)));
    }
    if text.len() > 256 || text.contains(|c: char| c == ':' || c.is_control()) {
        return Err(Error::invalid(IMAGE_USER, format!("{text:?} is no name")));
    }
    Ok(Some(Who::Name(text.to_owned())))
}

/// The supplementary groups: what was asked for, under Merge also what the image's /etc/group says, and the primary.
fn groups(security: &LinuxContainerSecurityContext, image: Option<Vec<u32>>, gid: u32) -> Result<Vec<u32>> {
    let policy: SupplementalGroupsPolicy =
        known(format!("{FIELD}.supplemental_groups_policy"), security.supplemental_groups_policy)?;
    let mut all = vec![gid];
    for (i, group) in security.supplemental_groups.iter().enumerate() {
        all.push(id(format!("{FIELD}.supplemental_groups[{i}]"), *group)?);
    }
    if policy == SupplementalGroupsPolicy::Merge {
        all.extend(image.unwrap_or_default());
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests;
