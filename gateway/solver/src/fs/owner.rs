//! Who will own what an action makes: ids as given, or names looked up in the passwd and
//! group files of a file system.

use std::os::fd::AsFd;

use gateway_llb::pb;
use gateway_llb::pb::user_opt::User;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{FsError, lossy};
use super::meta::Meta;
use super::root::{Owner, Root};

/// Largest passwd or group file that is read; the reference's limit.
const MAX_USER_FILE: u64 = 10 << 20;

/// Works out an owner. A user given by number has the group of the same number, one given by
/// name the group of its passwd line, until a group is given too. An unknown name, and a
/// file system without the file, mean 0. (Observed: none of this is an error in BuildKit.)
pub fn resolve(
    owner: Option<&pb::ChownOpt>,
    users: Option<&Root>,
    groups: Option<&Root>,
) -> Result<Option<Owner>, FsError> {
    let Some(owner) = owner else {
        return Ok(None);
    };
    let mut out = Owner { uid: 0, gid: 0 };
    match owner.user.as_ref().and_then(|user| user.user.as_ref()) {
        Some(User::ById(id)) => out = Owner { uid: *id, gid: *id },
        Some(User::ByName(named)) => {
            let root = users.ok_or_else(|| missing("user"))?;
            if let Some(line) = find(root, b"/etc/passwd", &named.name)? {
                out = Owner {
                    uid: number(&line, 2),
                    gid: number(&line, 3),
                };
            }
        }
        None => {}
    }
    match owner.group.as_ref().and_then(|group| group.user.as_ref()) {
        Some(User::ById(id)) => out.gid = *id,
        Some(User::ByName(named)) => {
            let root = groups.ok_or_else(|| missing("group"))?;
            if let Some(line) = find(root, b"/etc/group", &named.name)? {
                out.gid = number(&line, 2);
            }
        }
        None => {}
    }
    Ok(Some(out))
}

fn missing(what: &str) -> FsError {
    FsError::Invalid(format!("invalid missing {what} mount"))
}

/// The line of a name in a colon-separated file.
fn find(root: &Root, path: &[u8], name: &str) -> Result<Option<Vec<u8>>, FsError> {
    let text = match read(root, path) {
        Ok(text) => text,
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(text
        .split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| line.split(|b| *b == b':').next() == Some(name.as_bytes()))
        .map(<[u8]>::to_vec))
}

fn read(root: &Root, path: &[u8]) -> Result<Vec<u8>, FsError> {
    let resolved = root.resolve(path)?;
    let failed = |errno| FsError::path("open", path, errno);
    let fd = root
        .open_resolved(&resolved, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
        .map_err(failed)?;
    if !Meta::of_fd(fd.as_fd()).map_err(failed)?.is_file() {
        return Err(FsError::NotRegular(lossy(path)));
    }
    let mut text = Vec::new();
    let limited = std::io::Read::take(std::fs::File::from(fd), MAX_USER_FILE + 1);
    std::io::Read::read_to_end(&mut { limited }, &mut text)
        .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    if text.len() as u64 > MAX_USER_FILE {
        let text = format!("\"{}\" exceeds {MAX_USER_FILE} bytes", lossy(path));
        return Err(FsError::Invalid(text));
    }
    Ok(text)
}

/// A numeric field; what is no id counts as 0.
fn number(line: &[u8], field: usize) -> u32 {
    line.split(|b| *b == b':')
        .nth(field)
        .and_then(|field| std::str::from_utf8(field).ok())
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_name(name: &str) -> Option<pb::UserOpt> {
        Some(pb::UserOpt {
            user: Some(User::ByName(pb::NamedUserOpt {
                name: name.into(),
                input: 0,
            })),
        })
    }

    fn by_id(id: u32) -> Option<pb::UserOpt> {
        Some(pb::UserOpt {
            user: Some(User::ById(id)),
        })
    }

    #[test]
    fn names_are_looked_up_and_numbers_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("etc")).expect("made");
        let passwd = "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).expect("written");
        std::fs::write(dir.path().join("etc/group"), "staff:x:50:\n").expect("written");
        let root = Root::open(dir.path()).expect("opens");
        let ids = |user, group| {
            let owner = pb::ChownOpt { user, group };
            let owner = resolve(Some(&owner), Some(&root), Some(&root)).expect("resolves");
            owner.map(|o| (o.uid, o.gid))
        };
        assert_eq!(ids(by_name("app"), None), Some((1000, 1001)));
        assert_eq!(ids(by_name("app"), by_name("staff")), Some((1000, 50)));
        assert_eq!(ids(by_id(5), None), Some((5, 5)));
        assert_eq!(ids(by_id(5), by_id(6)), Some((5, 6)));
        assert_eq!(ids(by_name("nobody"), by_name("none")), Some((0, 0)));
        assert_eq!(resolve(None, None, None).expect("nothing asked"), None);
    }

    #[test]
    fn a_file_system_without_users_gives_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opens");
        let owner = pb::ChownOpt {
            user: by_name("app"),
            group: None,
        };
        let got = resolve(Some(&owner), Some(&root), None).expect("resolves");
        assert_eq!(got, Some(Owner { uid: 0, gid: 0 }));
        let error = resolve(Some(&owner), None, None).expect_err("no file system");
        assert_eq!(error.to_string(), "invalid missing user mount");
    }
}
