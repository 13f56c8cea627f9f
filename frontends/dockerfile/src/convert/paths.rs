//! Paths of instructions by the rules of the system that an image is for: Windows has drive letters
//! and two separators.

use gateway_llb::path;

/// A path of a stage's file system made absolute below `parent`, with forward slashes.
///
/// # Errors
/// In the words of the reference, for drives and shares that a container does not have.
pub fn normalize(parent: &str, given: &str, os: &str, keep_slash: bool) -> Result<String, String> {
    let given = to_slash(given, os);
    let parent = to_slash(parent, os);
    let parent = if parent.is_empty() { "/" } else { &parent };
    let mut parent = without_drive(parent, os, keep_slash)?;
    if !parent.starts_with('/') {
        parent = path::join(&["/", &parent]);
    }
    let mut out = match given.as_str() {
        "" => parent.clone(),
        given => without_drive(given, os, keep_slash)?,
    };
    if !out.starts_with('/') {
        out = path::join(&[&parent, &out]);
    }
    if keep_slash {
        if given.ends_with('/') && !out.ends_with('/') {
            out.push('/');
        } else if given.ends_with("/.") {
            if out != "/" {
                out.push('/');
            }
            out.push('.');
        }
    }
    Ok(out)
}

/// Whether a path is absolute, drive letter or not.
pub fn is_absolute(given: &str, os: &str) -> bool {
    without_drive(given, os, false).is_ok_and(|path| path.starts_with('/'))
}

/// The path with the separators of the system, as image configs have it.
pub fn for_config(given: &str, os: &str) -> String {
    if is_windows(os) {
        given.replace('/', "\\")
    } else {
        given.to_owned()
    }
}

fn is_windows(os: &str) -> bool {
    os == "windows"
}

fn to_slash(given: &str, os: &str) -> String {
    if is_windows(os) {
        given.replace('\\', "/")
    } else {
        given.to_owned()
    }
}

fn without_drive(given: &str, os: &str, keep_slash: bool) -> Result<String, String> {
    if !is_windows(os) {
        return Ok(given.to_owned());
    }
    let refuse = |text: String| Err(format!("removing drive letter: {text}"));
    if given.len() == 2 && given.ends_with(':') {
        let quoted = crate::parse::quote::go_quote(given);
        return refuse(format!("No relative path specified in {quoted}"));
    }
    let slashed = to_slash(given, os);
    if slashed.starts_with("//") {
        return refuse("UNC paths are not supported".to_owned());
    }
    let rest = match slashed.split_once(':') {
        None => slashed.as_str(),
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => {
            return refuse("The specified path is not on the system drive (C:)".to_owned());
        }
    };
    let mut clean = path::clean(rest);
    if keep_slash && clean.len() > 1 && rest.ends_with('/') {
        clean.push('/');
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_path_stays_as_written_and_an_empty_one_is_the_parent() {
        let linux = |parent, path| normalize(parent, path, "linux", false).unwrap();
        assert_eq!(linux("/srv", "/a//b/"), "/a//b/");
        assert_eq!(linux("/srv", "a/../b/"), "/srv/b");
        assert_eq!(linux("/srv", ""), "/srv");
        assert_eq!(linux("", ""), "/");
        assert_eq!(linux("C:\\app", "C:\\app"), "/C:\\app/C:\\app");
    }

    #[test]
    fn windows_has_one_drive_and_two_separators() {
        let windows = |parent, path| normalize(parent, path, "windows", true);
        assert_eq!(windows("", "C:\\a\\b").unwrap(), "/a/b");
        assert_eq!(windows("C:\\app", "x\\").unwrap(), "/app/x/");
        assert_eq!(windows("C:\\app", "c:x").unwrap(), "/app/x");
        assert!(windows("", "d:\\a").unwrap_err().contains("system drive"));
        assert!(windows("", "C:").unwrap_err().contains("No relative path"));
        assert!(windows("", "\\\\x\\y").unwrap_err().contains("UNC"));
        assert!(is_absolute("C:\\a", "windows") && !is_absolute("C:\\a", "linux"));
        assert_eq!(for_config("/a/b", "windows"), "\\a\\b");
    }
}
