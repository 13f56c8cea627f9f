//! "did you mean": the nearest known word within two edits.

use std::str::Chars;

/// A distance from which on no suggestion is made.
const TOO_FAR: usize = 3;

/// The option nearest to `word` (the first of equals), `None` when `word` is an option or nothing is near.
pub fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    let mut best_distance = TOO_FAR;
    for option in options {
        if option == word {
            return None;
        }
        // So many edits are needed at least: one changes a letter, of four bytes at most.
        if option.len().abs_diff(word.len()) > 4 * (best_distance - 1) {
            continue;
        }
        if let Some(distance) = edits(option.chars(), word.chars(), best_distance - 1) {
            best = Some(option);
            best_distance = distance;
        }
    }
    // A variable without a name may be nearest, but is nothing to suggest.
    best.filter(|option| !option.is_empty())
}

/// [`nearest`] without regard to case, of equally near ones the one that begins most alike; the answer in the case of `word` when that is all upper or all lower.
pub fn nearest_any_case<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let own = word.to_lowercase();
    let alike = |option: &str| {
        let same = option.chars().zip(own.chars()).take_while(|(a, b)| a == b);
        same.count()
    };
    let mut lower: Vec<String> = options.into_iter().map(str::to_lowercase).collect();
    lower.sort_by_key(|option| std::cmp::Reverse(alike(option)));
    let found = nearest(&own, lower.iter().map(String::as_str))?;
    if word == word.to_lowercase() {
        Some(found.to_lowercase())
    } else if word == word.to_uppercase() {
        Some(found.to_uppercase())
    } else {
        Some(found.to_owned())
    }
}

/// `message`, with ` (did you mean X?)` when something is near.
pub fn with_hint<'a>(
    message: String,
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> String {
    match nearest(word, options) {
        Some(near) => format!("{message} (did you mean {near}?)"),
        None => message,
    }
}

/// How many letters of one must be put in, taken out or changed to make it of the other; `None` when more than `most`.
///
/// The time is that of reading both, times three to the power of `most`: names of files may have megabytes.
fn edits(mut a: Chars<'_>, mut b: Chars<'_>, most: usize) -> Option<usize> {
    // What both begin with needs no edit.
    loop {
        let (rest_a, rest_b) = (a.clone(), b.clone());
        match (a.next(), b.next()) {
            (None, None) => return Some(0),
            (Some(x), Some(y)) if x == y => {}
            _ => {
                (a, b) = (rest_a, rest_b);
                break;
            }
        }
    }
    let less = most.checked_sub(1)?;
    let (mut next_a, mut next_b) = (a.clone(), b.clone());
    let (in_a, in_b) = (next_a.next().is_some(), next_b.next().is_some());
    let out = in_a.then(|| edits(next_a.clone(), b, less)).flatten();
    let put = in_b.then(|| edits(a, next_b.clone(), less)).flatten();
    let changed = (in_a && in_b)
        .then(|| edits(next_a, next_b, less))
        .flatten();
    let fewest = [out, put, changed].into_iter().flatten().min();
    fewest.map(|edits| edits + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_within_two_edits_only() {
        assert_eq!(nearest("mont", ["mount", "network"]), Some("mount"));
        assert_eq!(nearest("mt", ["mount"]), None);
        assert_eq!(nearest("mount", ["mount", "mounts"]), None);
        assert_eq!(nearest("abc", ["abd", "abe"]), Some("abd"));
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "ab", 2),
            ("ab", "", 2),
            ("ab", "abc", 1),
            ("abc", "ab", 1),
            ("kitten", "sitting", 3),
            ("saturday", "sunday", 3),
            ("größe", "grösse", 2),
            ("abab", "baba", 2),
            ("", "abcd", 4),
            ("abcd", "wxyz", 4),
        ] {
            let found = super::edits(a.chars(), b.chars(), 3);
            assert_eq!(found, Some(edits).filter(|edits| *edits <= 3), "{a} {b}");
        }
    }

    #[test]
    fn the_suggestion_takes_the_case_of_the_word() {
        assert_eq!(nearest_any_case("copi", ["COPY"]).as_deref(), Some("copy"));
        assert_eq!(nearest_any_case("FORM", ["FROM"]).as_deref(), Some("FROM"));
        assert_eq!(nearest_any_case("From", ["FROM"]), None);
        let found = nearest_any_case("RNU", ["ENV", "RUN"]);
        assert_eq!(found.as_deref(), Some("RUN"));
    }
}
