//! Lexical path arithmetic on bytes, as Go's `path/filepath` does it on Linux: LLB paths,
//! patterns and link targets mean what Go makes of them. Nothing here touches the disk.

/// The shortest equal path: no `.`, no inner `..`, no double slash. Empty becomes `.`.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(&last) if last != b".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let body = parts.join(&b'/');
    match (rooted, body.is_empty()) {
        (true, _) => [b"/".as_slice(), &body].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => body,
    }
}

/// `base/path`, cleaned. `path` never replaces `base`, even when it is absolute.
pub fn join(base: &[u8], path: &[u8]) -> Vec<u8> {
    if base.is_empty() {
        return if path.is_empty() {
            Vec::new()
        } else {
            clean(path)
        };
    }
    if path.is_empty() {
        return clean(base);
    }
    clean(&[base, b"/", path].concat())
}

/// `path` as an absolute path inside a root: `..` cannot climb above `/`.
pub fn absolute(path: &[u8]) -> Vec<u8> {
    join(b"/", path)
}

/// Everything up to and with the last slash, and the rest.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    path.split_at(at)
}

/// The last element; `.` of an empty path, `/` of the root.
pub fn base(path: &[u8]) -> &[u8] {
    if path.is_empty() {
        return b".";
    }
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |i| i + 1);
    if end == 0 {
        return b"/";
    }
    split(&path[..end]).1
}

/// All but the last element, cleaned.
pub fn dir(path: &[u8]) -> Vec<u8> {
    clean(split(path).0)
}

/// The elements of an absolute clean path; none of `/`.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty())
}

/// `path` made absolute, with a final `/` or `/.` kept: copies give these a meaning.
pub fn clean_keeping_tail(path: &[u8]) -> Vec<u8> {
    let mut out = absolute(path);
    if path.ends_with(b"/.") {
        if out != b"/" {
            out.push(b'/');
        }
        out.push(b'.');
    } else if path.ends_with(b"/") && out != b"/" {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cleaned(path: &str) -> String {
        String::from_utf8(clean(path.as_bytes())).expect("text stays text")
    }

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, want) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("a/./b/../c", "a/c"),
            ("../a/..", ".."),
            ("/../a", "/a"),
            ("a/..", "."),
            ("../../x", "../../x"),
        ] {
            assert_eq!(cleaned(path), want, "{path}");
        }
    }

    #[test]
    fn tails_that_copies_look_at_are_kept() {
        for (path, want) in [
            ("a", "/a"),
            ("a/", "/a/"),
            ("a/.", "/a/."),
            ("/", "/"),
            ("/.", "/."),
            ("../a/", "/a/"),
        ] {
            let got = clean_keeping_tail(path.as_bytes());
            assert_eq!(String::from_utf8_lossy(&got), want, "{path}");
        }
    }

    #[test]
    fn base_and_dir_split_a_path() {
        assert_eq!(base(b"/a/b/"), b"b");
        assert_eq!(base(b"/"), b"/");
        assert_eq!(base(b""), b".");
        assert_eq!(dir(b"/a/b"), b"/a");
        assert_eq!(dir(b"a"), b".");
        assert_eq!(dir(b"/a"), b"/");
    }

    proptest! {
        #[test]
        fn cleaning_twice_changes_nothing(path in "[a./]{0,20}") {
            let once = clean(path.as_bytes());
            prop_assert_eq!(clean(&once), once);
        }

        #[test]
        fn an_absolute_path_never_climbs_out(path in "[a./]{0,20}") {
            let got = absolute(path.as_bytes());
            prop_assert!(got.starts_with(b"/"));
            prop_assert!(components(&got).all(|c| c != b".." && c != b"."));
        }
    }
}
