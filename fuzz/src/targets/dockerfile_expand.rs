//! Expansion of words: the first line is the word, the second the value of `a`. Ends soon, whatever
//! the pattern, and a word without anything special stays as it is.

use gateway_dockerfile::parse::{expand, heredoc, suggest};

/// One run with one input.
pub fn run(text: &str) {
    let (word, value) = text.split_once('\n').unwrap_or((text, "b c"));
    let vars = [
        ("a".to_owned(), value.to_owned()),
        ("empty".to_owned(), String::new()),
    ];
    for rules in [
        expand::Expander::new('\\'),
        expand::Expander::new('`'),
        expand::Expander::heredoc_body(),
        expand::Expander::step_name('\\'),
    ] {
        let result = rules.expand(word, vars.as_slice());
        if let Err(error) = &result {
            error.to_string();
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "/.,_=+@%-".contains(c);
        if word.chars().all(plain) {
            assert_eq!(result.expect("a plain word").value, word);
        }
    }
    let _ = heredoc::parse_word(word);
    suggest::nearest_any_case(word, ["copy", "from", value]);
}
