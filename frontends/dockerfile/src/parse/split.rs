//! One logical line to keyword, flags and arguments, with the different splitting rules that instructions have.

use super::quote::go_quote;

/// White space that separates the keyword and the words of a list.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// The keyword and what follows the blanks after it.
pub(super) fn keyword(line: &str) -> (&str, &str) {
    let line = line.trim();
    match line.find(is_blank) {
        Some(end) => {
            let (word, rest) = line.split_at(end);
            (word, rest.trim_start_matches(is_blank))
        }
        None => (line, ""),
    }
}

/// The leading `--flag` words, quotes and escapes resolved, and the trimmed rest.
///
/// `--` alone ends the flags. An unclosed quote takes the whole rest (as in the reference).
pub(super) fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut word = String::new();
        let mut quoted = false;
        let mut quote = None;
        let mut chars = rest.chars();
        let mut ended = false;
        while let Some(c) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    ended = true;
                    break;
                }
                None if c == '\'' || c == '"' => {
                    quote = Some(c);
                    quoted = true;
                }
                Some(q) if q == c => quote = None,
                // an escape character that ends the line is dropped
                _ if c == escape => word.extend(chars.next()),
                _ => word.push(c),
            }
        }
        rest = chars.as_str();
        if word == "--" {
            break;
        }
        if quoted || !word.is_empty() {
            flags.push(word);
        }
        if !ended {
            return (flags, "");
        }
        rest = rest.trim_start();
    }
    (flags, rest.trim())
}

/// Words with their quotes and escapes kept: ARG, ENV, LABEL.
pub(super) fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ => {}
        }
        // nothing can be escaped between single quotes
        if c == escape && quote != Some('\'') {
            // an escape character that ends the line is dropped
            let Some(next) = chars.next() else { break };
            word.push(c);
            word.push(next);
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Words split at white space, without any quoting.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(is_blank)
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A key, its value, and whether they were written without `=`.
pub(super) type Pair = (String, String, bool);

/// The pairs of ENV and LABEL, whose name is for the message.
pub(super) fn pairs(text: &str, escape: char, instruction: &str) -> Result<Vec<Pair>, String> {
    let words = words(text, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let Some(end) = text.find(is_blank) else {
            return Err(format!("{instruction} must have two arguments"));
        };
        let (key, value) = text.split_at(end);
        let value = value.trim_start_matches(is_blank);
        return Ok(vec![(key.to_owned(), value.to_owned(), true)]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned(), false)),
        None => Err(format!(
            "Syntax error - can't find = in {}. Must be of the form: name=value",
            go_quote(word)
        )),
    };
    words.iter().map(pair).collect()
}

/// The elements of a JSON array; `None` when the text isn't one (then it is shell form).
pub(super) fn json(text: &str) -> Result<Option<Vec<String>>, String> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let array = serde_json::from_str::<Vec<serde_json::Value>>(text)
        .or_else(|_| serde_json::from_str(&without_lone_surrogates(text)));
    let Ok(array) = array else {
        return Ok(None);
    };
    let string = |value| match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    };
    let strings: Option<Vec<String>> = array.into_iter().map(string).collect();
    match strings {
        Some(strings) => Ok(Some(strings)),
        None => {
            Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned())
        }
    }
}

/// JSON with the replacement character for every half of a surrogate pair that stands alone: the
/// reference reads them so, our reader refuses them.
fn without_lone_surrogates(text: &str) -> String {
    let unit = |at: &str| -> Option<u16> {
        let digits = at.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (taken, kept) = match unit(escape) {
            Some(0xd800..=0xdbff) => match escape.get(6..).and_then(unit) {
                Some(0xdc00..=0xdfff) => (12, true),
                _ => (6, false),
            },
            Some(0xdc00..=0xdfff) => (6, false),
            Some(_) => (6, true),
            None => (1 + escape.chars().nth(1).map_or(0, char::len_utf8), true),
        };
        let (escape, after) = escape.split_at(taken);
        out.push_str(if kept { escape } else { "\\ufffd" });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_surrogate_pairs_are_replaced_and_whole_ones_kept() {
        for (text, want) in [
            (r#"["\ud800"]"#, "\u{fffd}"),
            (r#"["\ud83d\ude00"]"#, "\u{1f600}"),
            (r#"["\ude00\ud83dx"]"#, "\u{fffd}\u{fffd}x"),
            (
                r#"["\\ud800\ud800\ud83d\ude00"]"#,
                "\\ud800\u{fffd}\u{1f600}",
            ),
        ] {
            assert_eq!(json(text), Ok(Some(vec![want.to_owned()])), "{text}");
        }
        assert_eq!(json(r#"["\u12"]"#), Ok(None));
        assert_eq!(json("[\"\\"), Ok(None));
    }

    #[test]
    fn flags_end_at_the_first_other_word() {
        assert_eq!(
            flags("--a=1 --b -- --c d", '\\'),
            (vec!["--a=1".to_owned(), "--b".to_owned()], "--c d")
        );
        assert_eq!(flags("echo --a", '\\'), (vec![], "echo --a"));
        assert_eq!(
            flags(r#"--x="a b"  c "#, '\\'),
            (vec!["--x=a b".to_owned()], "c")
        );
        assert_eq!(
            flags(r"--x=a\ b c", '\\'),
            (vec!["--x=a b".to_owned()], "c")
        );
        assert_eq!(
            flags("--x=\u{e9} c", '\\'),
            (vec!["--x=\u{e9}".to_owned()], "c")
        );
        assert_eq!(
            flags("--x='a b c", '\\'),
            (vec!["--x=a b c".to_owned()], "")
        );
        assert_eq!(flags("-- a", '\\'), (vec![], "a"));
    }

    #[test]
    fn words_keep_quotes_and_escapes() {
        assert_eq!(
            words(r#"a=1 b="x y" c=x\ y d='\' e"#, '\\'),
            ["a=1", r#"b="x y""#, r"c=x\ y", r"d='\'", "e"]
        );
        assert_eq!(words("a=`\"", '`'), ["a=`\""]);
        assert_eq!(words(r#""" x\"#, '\\'), [r#""""#, "x"]);
    }

    #[test]
    fn pairs_have_two_forms() {
        assert_eq!(
            pairs("a b  c", '\\', "ENV").unwrap(),
            [("a".to_owned(), "b  c".to_owned(), true)]
        );
        assert_eq!(
            pairs("a=b=c d=", '\\', "ENV").unwrap(),
            [
                ("a".to_owned(), "b=c".to_owned(), false),
                ("d".to_owned(), String::new(), false)
            ]
        );
        assert_eq!(
            pairs("a=b c", '\\', "ENV").unwrap_err(),
            "Syntax error - can't find = in \"c\". Must be of the form: name=value"
        );
        assert_eq!(
            pairs("A", '\\', "ENV").unwrap_err(),
            "ENV must have two arguments"
        );
    }

    #[test]
    fn json_that_is_none_is_no_error_unless_it_holds_other_than_strings() {
        assert_eq!(
            json(r#" ["a", "b"] "#).unwrap().unwrap(),
            ["a".to_owned(), "b".to_owned()]
        );
        assert_eq!(json("[]").unwrap().unwrap(), Vec::<String>::new());
        assert_eq!(json("['a']").unwrap(), None);
        assert_eq!(json(r#"["a"] b"#).unwrap(), None);
        assert_eq!(json(r#"["a""#).unwrap(), None);
        assert!(json("[1]").is_err());
    }
}
