//! "did you mean": the nearest known word within two edits.

/// A distance from which on no suggestion is made.
const TOO_FAR: usize = 3;

/// The option nearest to `word` (the first of equals), `None` when `word` is an option or nothing is near.
pub fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    let mut best_distance = TOO_FAR;
    let letters: Vec<char> = word.chars().collect();
    for option in options {
        if option == word {
            return None;
        }
        // So many edits are needed at least. Files may have thousands of variables.
        let count = option.chars().count();
        if count.abs_diff(letters.len()) >= best_distance {
            continue;
        }
        let distance = levenshtein(&letters, option, count);
        if distance < best_distance {
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

/// How many letters of `b`, which has `count`, must be put in, taken out or changed to make it of `a`.
fn levenshtein(a: &[char], b: &str, count: usize) -> usize {
    // What both begin with needs no edit: mistakes are short, and names of one file are alike.
    let same = b.chars().zip(a).take_while(|(b, a)| b == *a).count();
    let a = a.get(same..).unwrap_or_default();
    let (Some(_), true) = (a.first(), count > same) else {
        return a.len().max(count - same);
    };
    let b = b.chars().skip(same);
    let mut row: Vec<usize> = (0..=count - same).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cb, cell) in b.clone().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            let cost = usize::from(*ca != cb);
            left = (left + 1).min(above + 1).min(diagonal + cost);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(TOO_FAR)
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
        ] {
            let letters: Vec<char> = a.chars().collect();
            assert_eq!(
                levenshtein(&letters, b, b.chars().count()),
                edits,
                "{a} {b}"
            );
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
