//! The texts of LLB: platforms, Git remotes, paths, ops as JSON. A cleaned path is clean; a platform or an op
//! that reads reads again from what is shown.

use gateway_llb::{GitRemote, json, path, platform};

/// One run with one input.
pub fn run(text: &str) {
    if let Ok(read) = platform::parse(text) {
        let normal = platform::normalize(&read);
        assert_eq!(platform::normalize(&normal), normal);
        let shown = platform::format(&normal);
        let again = platform::parse(&shown).expect("what is shown reads");
        let again = platform::normalize(&again);
        assert_eq!(platform::format(&again), shown);
    }
    let _ = GitRemote::parse(text);
    if let Ok(op) = serde_json::from_str(text)
        .map_err(drop)
        .and_then(|value| json::read_op(&value).map_err(drop))
    {
        assert_eq!(json::read_op(&json::op(&op)).as_ref(), Ok(&op));
    }
    let clean = path::clean(text);
    assert_eq!(path::clean(&clean), clean);
    path::base(text);
    path::dir(text);
    for keep_slash in [false, true] {
        let (parent, child) = text.split_once('\n').unwrap_or(("/", text));
        assert!(path::normalize(parent, child, keep_slash).starts_with('/'));
    }
}
