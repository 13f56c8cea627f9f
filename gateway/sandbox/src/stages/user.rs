//! Who the payload is: an image's `user[:group]` looked up in the root's own
//! files.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::{At, SetupError, Stage};
use crate::walk;

/// A passwd or group file is small; a larger one is there to do harm.
const FILE_LIMIT: u64 = 10 << 20;

/// Ids, groups and home directory of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups; the primary one is always among them.
    pub groups: Vec<u32>,
    /// `/` when the user has no entry.
    pub home: String,
}

/// Looks `spec` up inside `root`.
pub(super) fn find(root: BorrowedFd<'_>, spec: &str) -> Result<User, SetupError> {
    let read = |path: &str| {
        let content = walk::read_file(root, Path::new(path), FILE_LIMIT)
            .at(Stage::User, || format!("reading {path}"))?;
        Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
    };
    let passwd = read("/etc/passwd")?;
    // Two numbers need no group file, and it is not looked at.
    let group = if numeric_pair(spec).is_some() {
        String::new()
    } else {
        read("/etc/group")?
    };
    parse(spec, &passwd, &group).map_err(|detail| SetupError::new(Stage::User, 0, detail))
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next();
        let home = fields.next().unwrap_or_default();
        Some(Passwd {
            name,
            uid,
            gid,
            home,
        })
    })
}

/// Name, id and members of each group.
fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// An id as a number or `root`, which needs no lookup.
fn direct_id(text: &str) -> Option<u32> {
    if text == "root" {
        Some(0)
    } else {
        text.parse().ok()
    }
}

fn numeric_pair(spec: &str) -> Option<(u32, u32)> {
    let (user, group) = spec.split_once(':')?;
    Some((direct_id(user)?, direct_id(group)?))
}

fn parse(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let home_of = |uid: u32| {
        passwd_entries(passwd)
            .find(|entry| entry.uid == uid)
            .map(|entry| entry.home)
            .filter(|home| !home.is_empty())
            .unwrap_or("/")
            .to_owned()
    };
    if spec.is_empty() {
        return Ok(user(0, 0, Vec::new(), home_of(0)));
    }
    if let Some((uid, gid)) = numeric_pair(spec) {
        return Ok(user(uid, gid, Vec::new(), home_of(uid)));
    }
    let (user_text, group_text) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let number: Option<u32> = user_text.parse().ok();
    // A name that looks like a number is one, unless a user is called so.
    let entry =
        passwd_entries(passwd).find(|entry| entry.name == user_text || Some(entry.uid) == number);
    let (name, uid, gid) = match (&entry, number) {
        (Some(entry), _) => (Some(entry.name), entry.uid, entry.gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) if user_text.is_empty() => (None, 0, 0),
        (None, None) => {
            return Err(format!(
                "unable to find user {user_text}: no matching entries in passwd file"
            ));
        }
    };
    if let Some(text) = group_text {
        let found = group_entries(group)
            .find(|(name, gid, _)| *name == text || text.parse() == Ok(*gid))
            .map(|(_, gid, _)| gid);
        let Some(gid) = found.or_else(|| text.parse().ok()) else {
            return Err(format!(
                "unable to find group {text}: no matching entries in group file"
            ));
        };
        return Ok(user(uid, gid, Vec::new(), home_of(uid)));
    }
    let extra = group_entries(group)
        .filter(|(_, _, members)| name.is_some_and(|n| members.split(',').any(|m| m == n)))
        .map(|(_, gid, _)| gid)
        .collect();
    Ok(user(uid, gid, extra, home_of(uid)))
}

fn user(uid: u32, gid: u32, extra: Vec<u32>, home: String) -> User {
    let mut groups = vec![gid];
    for id in extra {
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    User {
        uid,
        gid,
        groups,
        home,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                          broken line\n\
                          user:x:1000:1001::/home/user:/bin/sh\n\
                          homeless:x:7:7:::/bin/sh\n";
    const GROUP: &str = "root:x:0:\nuser:x:1001:\nextra:x:2000:other,user\n";

    fn ids(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let user = parse(spec, PASSWD, GROUP).expect(spec);
        (user.uid, user.gid, user.groups, user.home)
    }

    #[test]
    fn an_empty_user_is_root() {
        assert_eq!(ids(""), (0, 0, vec![0], "/root".into()));
    }

    #[test]
    fn a_name_brings_its_group_and_its_supplementary_groups() {
        let expected = (1000, 1001, vec![1001, 2000], "/home/user".to_owned());
        assert_eq!(ids("user"), expected);
        assert_eq!(ids("1000"), expected);
    }

    #[test]
    fn a_given_group_replaces_all_groups() {
        assert_eq!(
            ids("user:extra"),
            (1000, 2000, vec![2000], "/home/user".into())
        );
        assert_eq!(ids("user:77"), (1000, 77, vec![77], "/home/user".into()));
    }

    #[test]
    fn two_numbers_need_no_entries() {
        assert_eq!(ids("4242:4343"), (4242, 4343, vec![4343], "/".into()));
        assert_eq!(ids("root:root"), (0, 0, vec![0], "/root".into()));
    }

    #[test]
    fn an_unknown_number_has_group_0_and_home_slash() {
        assert_eq!(ids("4242"), (4242, 0, vec![0], "/".into()));
        assert_eq!(ids("homeless").3, "/");
    }

    #[test]
    fn an_unknown_name_is_an_error_that_says_where_it_was_looked_for() {
        let error = parse("nobody", PASSWD, GROUP).expect_err("unknown user");
        assert!(
            error.contains("nobody") && error.contains("passwd"),
            "{error}"
        );
        let error = parse("user:nogroup", PASSWD, GROUP).expect_err("unknown group");
        assert!(
            error.contains("nogroup") && error.contains("group file"),
            "{error}"
        );
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_files_say_root_stays_root_and_nothing_panics(
            spec in "[a-z0-9:]{0,12}",
            passwd in "([a-z0-9:\n]|root){0,80}",
            group in "([a-z0-9:,\n]|root){0,80}",
        ) {
            let _ = parse(&spec, &passwd, &group);
            for root in ["", "root:root", "0:0"] {
                let user = parse(root, &passwd, &group).expect("root needs no entry");
                proptest::prop_assert_eq!((user.uid, user.gid, user.groups), (0, 0, vec![0]));
            }
        }
    }
}
