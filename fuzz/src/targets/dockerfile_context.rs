//! What else a Dockerfile build reads: ignore files, Git references, image references. The first line
//! is a path, the rest an ignore file.

use gateway_frontend::conventions::git_ref::GitRef;
use gateway_frontend::conventions::ignore::{self, Matcher};
use gateway_frontend::conventions::reference::ImageRef;
use gateway_frontend::csv;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let end = bytes.iter().position(|b| *b == b'\n');
    let (first, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    if let Ok(matcher) = Matcher::new(&ignore::patterns(rest)) {
        matcher.matches(&String::from_utf8_lossy(first));
        matcher.ignores_root();
    }
    let Ok(text) = std::str::from_utf8(first) else {
        return;
    };
    let _ = csv::fields(text);
    if let Some(Ok(reference)) = GitRef::parse(text) {
        reference.source();
    }
    if let Ok(reference) = ImageRef::parse(text) {
        reference.familiar();
        let again = ImageRef::parse(&reference.to_string()).expect("the full form reads");
        assert_eq!(again, reference);
    }
}
