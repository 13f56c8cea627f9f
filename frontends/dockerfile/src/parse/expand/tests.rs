//! Expansion, form by form.

use super::*;

fn vars() -> BTreeMap<String, String> {
    let set = [
        ("x", "hello"),
        ("empty", ""),
        ("path", "a/b/c.tar.gz"),
        ("list", "80 81"),
        ("p", "*"),
        ("back", r"a\b*c"),
    ];
    set.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn value(word: &str) -> String {
    Expander::new('\\').expand(word, &vars()).unwrap().value
}

fn error(word: &str) -> String {
    Expander::new('\\')
        .expand(word, &vars())
        .unwrap_err()
        .to_string()
}

#[test]
fn names_end_where_they_should() {
    for (word, expected) in [
        ("$x", "hello"),
        ("${x}", "hello"),
        ("$x-$x", "hello-hello"),
        ("$xy", ""),
        ("a$", "a$"),
        ("$ x", "$ x"),
        ("$/x", "$/x"),
        ("$1x", "x"),
        ("$12x", "x"),
        ("$$x", "x"),
        ("$@", ""),
        ("$nope", ""),
        ("\u{e9}$x\u{e9}", "\u{e9}"),
    ] {
        assert_eq!(value(word), expected, "{word}");
    }
}

#[test]
fn quotes_and_escapes_follow_the_shell() {
    for (word, expected) in [
        ("'$x'", "$x"),
        ("\"$x\"", "hello"),
        ("a\"b c\"'d e'", "ab cd e"),
        (r"\$x", "$x"),
        (r"\a\\", r"a\"),
        (r"a\", "a"),
        ("\"\\a\\\"\\$\\\\\"", "\\a\"$\\"),
        (r"'\a'", r"\a"),
        ("\"'\"", "'"),
        ("a < b << c", "a < b << c"),
    ] {
        assert_eq!(value(word), expected, "{word}");
    }
    let backtick = Expander::new('`');
    assert_eq!(
        backtick.expand(r"`$x\$x", &vars()).unwrap().value,
        r"$x\hello"
    );
}

#[test]
fn defaults_and_alternates_tell_unset_from_empty() {
    for (word, expected) in [
        ("${x:-d}", "hello"),
        ("${empty:-d}", "d"),
        ("${empty-d}", ""),
        ("${nope:-d}", "d"),
        ("${nope-d}", "d"),
        ("${x:+a}", "a"),
        ("${empty:+a}", ""),
        ("${empty+a}", "a"),
        ("${nope:+a}", ""),
        ("${nope+a}", ""),
        ("${nope:-${x}}", "hello"),
        ("${nope:-${nope2:-a b}}", "a b"),
        ("${nope:-'a}b'}", "a}b"),
        ("${nope:-}", ""),
        ("${x:?m}", "hello"),
        ("${empty?m}", ""),
    ] {
        assert_eq!(value(word), expected, "{word}");
    }
}

#[test]
fn patterns_trim_and_replace() {
    for (word, expected) in [
        ("${path#*/}", "b/c.tar.gz"),
        ("${path##*/}", "c.tar.gz"),
        ("${path%.*}", "a/b/c.tar"),
        ("${path%%.*}", "a/b/c"),
        ("${path#x}", "a/b/c.tar.gz"),
        ("${path/a/z}", "z/b/c.tar.gz"),
        ("${path//a/z}", "z/b/c.tzr.gz"),
        (r"${path//\//-}", "a-b-c.tar.gz"),
        ("${path/b*/-}", "a/-"),
        ("${path/./}", "a/b/ctar.gz"),
        ("${path#$p/}", "b/c.tar.gz"),
        (r"${back#a\\b\*}", "c"),
        ("${path//a/$x}", "hello/b/c.thellor.gz"),
        ("${nope#a}", ""),
    ] {
        assert_eq!(value(word), expected, "{word}");
    }
}

#[test]
fn each_mistake_has_its_text() {
    for (word, expected) in [
        ("${x@y}", "unsupported modifier (@) in substitution"),
        ("${x:#y}", "unsupported modifier (:#) in substitution"),
        ("${x:y}", "unsupported modifier (:y) in substitution"),
        ("${x^^}", "unsupported modifier (^) in substitution"),
        ("${}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${{x}", "syntax error: bad substitution"),
        ("${", "syntax error: missing '}'"),
        ("${x", "syntax error: missing '}'"),
        ("${x:", "syntax error: missing '}'"),
        ("${x:-", "syntax error: missing '}'"),
        ("${x:-'}", "syntax error: missing '}'"),
        ("${x/a}", "syntax error: missing '/' in ${}"),
        ("${x/a/b", "syntax error: missing '}'"),
        ("${nope:?oops}", "nope: oops"),
        ("${nope?}", "nope: is not allowed to be unset"),
        ("${nope:?}", "nope: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        (
            r"${x#\q}",
            r"invalid pattern (\q) in substitution: invalid escape '\q'",
        ),
        (
            "'a",
            "unexpected end of statement while looking for matching single-quote",
        ),
    ] {
        assert_eq!(
            error(word),
            format!(
                "failed to process \"{}\": {expected}",
                word.replace('\\', r"\\")
            )
        );
    }
    assert_eq!(
        error("\"abc"),
        "failed to process \"\\\"abc\": unexpected end of statement while looking for matching double-quote"
    );
}

#[test]
fn words_split_after_expansion_unless_quoted() {
    let words = |word: &str| Expander::new('\\').expand(word, &vars()).unwrap().words;
    assert_eq!(words("$list 82"), ["80", "81", "82"]);
    assert_eq!(words("\"$list\" 82"), ["80 81", "82"]);
    assert_eq!(words("$empty"), Vec::<String>::new());
    assert_eq!(words(r"a\ b c"), ["a b", "c"]);
    // As the reference splits: a word inside of braces drops what stands before it.
    assert_eq!(words("a${nope:-b} c"), ["b", "c"]);
    assert_eq!(words("a${x}c ${nope:-b}d"), ["ahelloc", "bd"]);
}

#[test]
fn lookups_are_told_apart() {
    let out = Expander::new('\\')
        .expand("$x ${nope:-$other} '$quiet'", &vars())
        .unwrap();
    assert_eq!(out.matched, BTreeSet::from(["x".to_owned()]));
    assert_eq!(
        out.unmatched,
        BTreeSet::from(["nope".to_owned(), "other".to_owned()])
    );
}

#[test]
fn step_names_keep_quotes_and_unset_variables() {
    let name = |word| {
        Expander::step_name('\\')
            .expand(word, &vars())
            .unwrap()
            .value
    };
    assert_eq!(
        name("echo \"$x\" '$x' $nope ${nope}"),
        "echo \"hello\" '$x' $nope ${nope}"
    );
    assert_eq!(
        name("${nope:-$x} ${nope#a*} ${nope/a/b}"),
        "${nope:-hello} ${nope#a*} ${nope/a/b}"
    );
}

#[test]
fn quotes_are_literal_in_heredoc_bodies() {
    let body = |text| {
        Expander::heredoc_body()
            .expand(text, &vars())
            .unwrap()
            .value
    };
    assert_eq!(body("it's \"$x\" \\$x\n$$\\t"), "it's \"hello\" $x\nt");
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let deep = "${a:-".repeat(100_000);
    assert!(error(&deep).ends_with("nested too deeply"));
    let fine = format!("{}x{}", "${a:-".repeat(90), "}".repeat(90));
    assert_eq!(value(&fine), "x");
}

#[test]
fn the_last_assignment_of_a_list_wins() {
    let list = [("a", "1"), ("a", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(
        Expander::new('\\')
            .expand("$a", list.as_slice())
            .unwrap()
            .value,
        "2"
    );
}

#[test]
fn a_word_that_grows_without_end_is_refused() {
    let vars = [("a".to_owned(), "b".repeat(1 << 20))];
    let expand = |word: &str| Expander::new('\\').expand(word, vars.as_slice());
    assert_eq!(expand(&"$a".repeat(16)).unwrap().value.len(), 16 << 20);
    let error = expand(&"$a".repeat(17)).unwrap_err();
    assert!(error.reason.starts_with("longer than"), "{error}");
}

#[test]
fn all_substitutions_of_a_word_share_their_steps() {
    let vars = [("a".to_owned(), "a".repeat(2_000))];
    let expand = |word: &str| Expander::new('\\').expand(word, vars.as_slice());
    assert!(expand("${a//b*c/}").is_ok());
    assert!(expand("${a//a*b/}").is_ok());
    let error = expand(&"${a//a?*b/}".repeat(5_000)).unwrap_err();
    assert!(error.reason.contains("too much work"), "{}", error.reason);
}
