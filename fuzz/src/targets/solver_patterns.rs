//! Include and exclude patterns, and wildcards: the first line is a path, each other a pattern. A walk
//! that passes on what directories gave decides as a look at the whole path does.

use gateway_solver::fs::glob::{self, Glob};
use gateway_solver::fs::gopath;
use gateway_solver::fs::pattern::{MatchInfo, PatternMatcher};

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let mut lines = bytes.split(|b| *b == b'\n');
    let path = lines.next().unwrap_or_default();
    let patterns: Vec<&[u8]> = lines.collect();
    for pattern in &patterns {
        if let Ok(glob) = Glob::new(pattern) {
            let _ = glob.matches(path);
        }
        let (literal, rest) = glob::split_wildcard(pattern);
        assert!(glob::has_wildcard(&rest) || rest.is_empty());
        gopath::clean(&literal);
    }
    let clean = gopath::clean(path);
    assert_eq!(gopath::clean(&clean), clean);

    let texts: Vec<_> = patterns
        .iter()
        .map(|p| String::from_utf8_lossy(p))
        .collect();
    let Ok(matcher) = PatternMatcher::new(&texts) else {
        return;
    };
    let path = gopath::absolute(&clean);
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    if path.is_empty() {
        return;
    }
    let whole = matcher.matches(path);
    if matcher.has_exclusions() {
        return;
    }
    let mut info = MatchInfo::default();
    let mut walked = Ok(false);
    for end in 0..=path.len() {
        if end < path.len() && path[end] != b'/' {
            continue;
        }
        match matcher.matches_below(&path[..end], &info) {
            Ok((matched, next)) => {
                info = next;
                walked = Ok(matched);
            }
            Err(error) => {
                walked = Err(error);
                break;
            }
        }
    }
    if let (Ok(whole), Ok(walked)) = (whole, walked) {
        assert_eq!(whole, walked);
    }
}
