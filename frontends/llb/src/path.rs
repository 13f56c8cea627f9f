//! Lexical paths with forward slashes, by the rules that LLB's paths are written with.

/// The shortest equal path: no `.`, no inner `..`, no double slash; `.` for an empty one.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") | None if !rooted => parts.push(".."),
                None => {}
                Some(_) => {
                    parts.pop();
                }
            },
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Joins the non-empty parts with slashes and cleans the result; empty when all are empty.
pub fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    if parts.is_empty() {
        return String::new();
    }
    clean(&parts.join("/"))
}

/// The last element of a path, `.` for an empty one and `/` for the root.
pub fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

/// All but the last element, cleaned; `.` when there is no slash.
pub fn dir(path: &str) -> String {
    match path.rfind('/') {
        Some(at) => clean(&path[..=at]),
        None => ".".to_owned(),
    }
}

/// Makes a file op's path absolute below `parent`. With `keep_slash`, a trailing `/` or `/.` stays:
/// both change what a copy means.
pub fn normalize(parent: &str, path: &str, keep_slash: bool) -> String {
    let mut out = clean(path);
    if !out.starts_with('/') {
        out = join(&["/", parent, &out]);
    }
    if keep_slash {
        if path.ends_with('/') && !out.ends_with('/') {
            out.push('/');
        } else if path.ends_with("/.") {
            if out != "/" {
                out.push('/');
            }
            out.push('.');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_follows_the_lexical_rules() {
        for (path, want) in [
            ("", "."),
            ("a/./b//c/", "a/b/c"),
            ("/../a", "/a"),
            ("../a/..", ".."),
            ("a/../..", ".."),
            ("/", "/"),
            ("/a/../..", "/"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }

    #[test]
    fn joining_skips_empty_parts() {
        assert_eq!(join(&["/", "", "a"]), "/a");
        assert_eq!(join(&["", ""]), "");
        assert_eq!(join(&["/w", "../x"]), "/x");
    }

    #[test]
    fn base_and_dir_split_a_path() {
        assert_eq!((base("/a/b/"), base(""), base("/")), ("b", ".", "/"));
        assert_eq!((dir("/a/b").as_str(), dir("b").as_str()), ("/a", "."));
    }

    #[test]
    fn a_trailing_slash_or_dot_survives_where_it_has_a_meaning() {
        assert_eq!(normalize("/w", "d/", true), "/w/d/");
        assert_eq!(normalize("/w", "d/", false), "/w/d");
        assert_eq!(normalize("/w", "d/.", true), "/w/d/.");
        assert_eq!(normalize("/", "/.", true), "/.");
    }
}
