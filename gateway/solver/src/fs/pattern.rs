//! Include and exclude patterns: the language of ignore files, of COPY's `--exclude` and
//! `--parents`, and of a local source's filters.
//!
//! Rules are evaluated in order and the last that matches wins; a rule that matches a
//! directory holds for everything below it. A walk passes each directory's [`MatchInfo`] on
//! to its children instead of looking at all parents again. (With `!` rules the two can
//! differ: a walk does not remember a rule that was not asked. The reference has the same.)

use super::expression::{self, Form};
use super::glob::Glob;
use super::gopath;
use super::syntax::{MAX_LIST_BYTES, MAX_PATTERNS, PatternError, check_path, check_pattern};

/// Characters that make more of a pattern than a plain path.
const SPECIAL: [char; 6] = ['*', '[', ']', '?', '^', '\\'];

/// One rule.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    form: Form,
}

impl Pattern {
    /// The cleaned text, without a `!`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the rule takes matches back (`!`).
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    /// The text without a final `/**` and `/*`.
    fn stem(&self) -> &str {
        let text = self.text.strip_suffix("/**").unwrap_or(&self.text);
        text.strip_suffix("/*").unwrap_or(text)
    }

    /// Whether this rule could match something below `directory`, given a plain stem.
    fn reaches_below(&self, directory: &[u8]) -> bool {
        let stem = self.stem().as_bytes();
        stem.starts_with(directory) && stem.get(directory.len()).is_none_or(|b| *b == b'/')
    }

    /// Whether the rule matches a path or, if asked, one of its parents.
    fn matches(&self, path: &[u8], or_parents: bool) -> Result<bool, PatternError> {
        let text = self.text.as_bytes();
        Ok(match &self.form {
            Form::Exact => match path.strip_prefix(text) {
                Some([]) => true,
                Some([b'/', ..]) => or_parents,
                _ => false,
            },
            // What starts a parent starts the path.
            Form::Prefix => path.starts_with(text.strip_suffix(b"**").unwrap_or(text)),
            Form::Suffix => {
                let suffix = text.strip_prefix(b"**").unwrap_or(text);
                let hit =
                    |path: &[u8]| path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path);
                hit(path) || (or_parents && parents(path).any(hit))
            }
            Form::Expression(expression) => expression.matches(path, or_parents),
            Form::Broken => return Err(PatternError::Syntax),
        })
    }
}

/// Which rules matched a directory; for matching what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchInfo {
    matched: Vec<bool>,
}

/// An ordered list of rules.
#[derive(Debug, Clone)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
    exclusions: bool,
    plain_inclusions: bool,
    plain_exclusions: bool,
}

impl PatternMatcher {
    /// Reads a list. Blank patterns are skipped.
    ///
    /// # Errors
    /// A pattern that cannot be read; more or longer patterns than are read.
    pub fn new<S: AsRef<str>>(list: &[S]) -> Result<Self, PatternError> {
        let bytes = list.iter().map(|pattern| pattern.as_ref().len()).sum();
        if bytes > MAX_LIST_BYTES {
            return Err(PatternError::ListTooLong(bytes));
        }
        if list.len() > MAX_PATTERNS {
            return Err(PatternError::TooManyPatterns(list.len()));
        }
        let mut patterns = Vec::with_capacity(list.len());
        for pattern in list {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            check_pattern(pattern.as_bytes())?;
            let text = String::from_utf8(gopath::clean(pattern.as_bytes()))
                .map_err(|_| PatternError::Syntax)?;
            let (text, exclusion) = match text.strip_prefix('!') {
                Some("") => return Err(PatternError::LoneExclusion),
                Some(rest) => (rest.to_owned(), true),
                None => (text, false),
            };
            Glob::new(text.as_bytes())?;
            let form = expression::compile(&text);
            patterns.push(Pattern {
                text,
                exclusion,
                form,
            });
        }
        let plain = |exclusion| {
            patterns
                .iter()
                .filter(|p| p.exclusion == exclusion)
                .all(|p| !p.stem().contains(SPECIAL))
        };
        let (plain_inclusions, plain_exclusions) = (plain(false), plain(true));
        Ok(Self {
            exclusions: patterns.iter().any(|p| p.exclusion),
            plain_inclusions,
            plain_exclusions,
            patterns,
        })
    }

    /// Whether any rule is an exclusion (`!`).
    pub fn has_exclusions(&self) -> bool {
        self.exclusions
    }

    /// The rules in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether a path, or one of its parents, is matched in the end.
    pub fn matches(&self, path: &[u8]) -> Result<bool, PatternError> {
        Ok(self.matches_below(path, &MatchInfo::default())?.0)
    }

    /// Whether a path is matched, given what its directory gave. An empty `parent` means
    /// that nothing is known: then all parents are looked at.
    pub fn matches_below(
        &self,
        path: &[u8],
        parent: &MatchInfo,
    ) -> Result<(bool, MatchInfo), PatternError> {
        check_path(path)?;
        let known = !parent.matched.is_empty();
        if known && parent.matched.len() != self.patterns.len() {
            return Err(PatternError::ForeignParent);
        }
        let mut info = MatchInfo {
            matched: vec![false; self.patterns.len()],
        };
        let mut matched = false;
        for (i, pattern) in self.patterns.iter().enumerate() {
            let mut hit = known && parent.matched[i];
            if !hit {
                // A rule that could not change the outcome is not asked.
                if pattern.exclusion != matched {
                    continue;
                }
                hit = pattern.matches(path, !known)?;
            }
            info.matched[i] = hit;
            if hit {
                matched = !pattern.exclusion;
            }
        }
        Ok((matched, info))
    }

    /// For an include list: whether something below a directory that does not match itself
    /// could still match.
    pub fn may_include_below(&self, directory: &[u8]) -> bool {
        !self.plain_inclusions
            || self
                .patterns
                .iter()
                .any(|p| !p.exclusion && p.reaches_below(directory))
    }

    /// For an exclude list: whether something below an excluded directory could be taken
    /// back by a `!` rule.
    pub fn may_except_below(&self, directory: &[u8]) -> bool {
        self.exclusions
            && (!self.plain_exclusions
                || self
                    .patterns
                    .iter()
                    .any(|p| p.exclusion && p.reaches_below(directory)))
    }
}

/// The parents of a relative path, outermost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .filter(|(_, b)| **b == b'/')
        .map(|(i, _)| &path[..i])
}

#[cfg(test)]
mod tests {
    use super::super::syntax::{MAX_PATH_BYTES, MAX_PATTERN_BYTES};
    use super::*;
    use proptest::prelude::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        PatternMatcher::new(patterns)
            .expect("valid patterns")
            .matches(path.as_bytes())
            .expect("usable patterns")
    }

    /// Answers of the reference matcher: `+path` matches, `-path` does not.
    #[test]
    fn answers_are_those_of_the_reference_matcher() {
        let table: &[(&[&str], &str)] = &[
            (&["foo"], "+foo -a/foo +foo/x -foobar"),
            (&["*/foo"], "-foo +a/foo -a/b/foo +a/foo/x"),
            (&["**/foo"], "+foo +a/foo +a/b/foo -xfoo"),
            (&["**foo"], "+foo +xfoo +a/xfoo"),
            (&["foo/**"], "-foo +foo/a +foo/a/b"),
            (&["foo/*"], "-foo +foo/a +foo/a/b"),
            (&["a/**/z"], "+a/z +a/b/z +a/b/c/z -az"),
            (&["**/x/**"], "-x +x/y +a/x/y"),
            (&["*"], "+a +a/b +.x"),
            (&["dir", "!dir/keep"], "+dir/x -dir/keep -dir/keep/y"),
            (&["!dir/keep", "dir"], "+dir/keep"),
            (&["*", "!*.go", "x.go"], "-a.go +x.go +d/a.go"),
            (&["[^a]x"], "-ax +bx +/x"),
            (&["[!a]x"], "+ax -bx +!x"),
            (&["a?c"], "+abc -a/c"),
            (&["a.b"], "+a.b -axb"),
            (&["foo/"], "+foo"),
            (&["./foo"], "+foo"),
            (&["/foo"], "-foo"),
            (&["a{b,c}"], "-ab +a{b,c}"),
            (&["a\\*b"], "+a*b -axb"),
            (&["**"], "+a +a/b"),
            (&["a**b"], "+ab +ax/b -axb"),
            (&["a^b"], "+a^b"),
            (&["*.[ch]"], "+x.c -x.o +x.h/y"),
            (&["**/*.pyc"], "+a.pyc +a/b.pyc -a.py"),
            (&["ä?"], "+äö -ä"),
        ];
        for (patterns, answers) in table {
            for answer in answers.split(' ') {
                let (want, path) = answer.split_at(1);
                assert_eq!(matches(patterns, path), want == "+", "{patterns:?} {path}");
            }
        }
    }

    #[test]
    fn malformed_patterns_are_named() {
        for pattern in ["a[", "a\\", "[]x"] {
            let error = PatternMatcher::new(&[pattern]).expect_err(pattern);
            assert_eq!(error.to_string(), "syntax error in pattern");
        }
        let error = PatternMatcher::new(&["!"]).expect_err("lone exclusion");
        assert_eq!(error.to_string(), "illegal exclusion pattern: \"!\"");
    }

    #[test]
    fn excluded_directories_are_entered_only_for_a_possible_exception() {
        let plain = PatternMatcher::new(&["a", "b", "!a/keep/x"]).expect("valid");
        assert!(plain.may_except_below(b"a"));
        assert!(plain.may_except_below(b"a/keep"));
        assert!(!plain.may_except_below(b"b"));
        assert!(!plain.may_except_below(b"a/ke"));
        let wild = PatternMatcher::new(&["a", "!**/keep"]).expect("valid");
        assert!(wild.may_except_below(b"b"));
        let none = PatternMatcher::new(&["a"]).expect("valid");
        assert!(!none.may_except_below(b"a"));
    }

    #[test]
    fn included_files_are_searched_only_where_they_can_be() {
        let plain = PatternMatcher::new(&["a/b/**", "c"]).expect("valid");
        assert!(plain.may_include_below(b"a"));
        assert!(plain.may_include_below(b"a/b"));
        assert!(!plain.may_include_below(b"x"));
        assert!(!plain.may_include_below(b"a/bc"));
    }

    #[test]
    fn a_long_path_and_many_stars_take_no_time() {
        let pattern = "a*".repeat(200) + "b";
        let path = "a".repeat(4000);
        assert!(!matches(&[&pattern], &path));
    }

    /// Patterns of each kind that is slow in a matcher which tries one way after
    /// the other, against paths as long and as deep as they can be.
    #[test]
    fn hostile_lists_end_soon() {
        const LIST: usize = 8 * 1024;
        let deep = "a/".repeat(MAX_PATH_BYTES / 2 - 1) + "b";
        let flat = "a".repeat(MAX_PATH_BYTES);
        let wide = "é".repeat(MAX_PATH_BYTES / 2);
        let started = std::time::Instant::now();
        for (unit, length) in [
            ("**/", 4095),
            ("**/*c", 5),
            ("**/a/", 4095),
            ("*a", 4094),
            ("*?", 4094),
            ("[*", 4094),
            ("é*", 4093),
        ] {
            let mut pattern = unit.repeat(length / unit.len());
            if unit == "[*" {
                pattern.push(']');
            }
            pattern.push_str(if length > 5 { "c" } else { "" });
            pattern.truncate(MAX_PATTERN_BYTES);
            let list = vec![pattern; (LIST / length).min(500)];
            let matcher = PatternMatcher::new(&list).expect("valid");
            for path in [&deep, &flat, &wide] {
                assert_eq!(matcher.matches(path.as_bytes()), Ok(false), "{unit}");
            }
        }
        assert!(started.elapsed().as_secs() < 20);
    }

    #[test]
    fn more_than_the_limits_is_refused_by_name() {
        let error = |list: &[String]| PatternMatcher::new(list).expect_err("over a limit");
        let long = "a".repeat(MAX_PATTERN_BYTES + 1);
        assert_eq!(error(&[long]), PatternError::PatternTooLong(4097));
        let many = vec!["a".to_owned(); MAX_PATTERNS + 1];
        assert_eq!(error(&many), PatternError::TooManyPatterns(10_001));
        let large = vec!["a".repeat(4000); 251];
        assert_eq!(error(&large), PatternError::ListTooLong(1_004_000));
        assert_eq!(
            error(&large).to_string(),
            "list of patterns of 1004000 bytes: at most 1000000 are read"
        );
        let matcher = PatternMatcher::new(&["a"]).expect("valid");
        let path = [b'a'; MAX_PATH_BYTES + 1];
        assert_eq!(matcher.matches(&path), Err(PatternError::PathTooLong(4097)));
    }

    proptest! {
        #[test]
        fn any_pattern_and_path_are_read_without_panic(
            patterns in prop::collection::vec("\\PC{0,12}", 0..4),
            path: Vec<u8>,
        ) {
            if let Ok(matcher) = PatternMatcher::new(&patterns) {
                let _ = matcher.matches(&path);
            }
        }

        #[test]
        fn a_walk_gives_the_answers_of_a_full_look_when_nothing_is_taken_back(
            patterns in prop::collection::vec("[ab*?/]{1,6}", 1..5),
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let Ok(matcher) = PatternMatcher::new(&patterns) else { return Ok(()) };
            let full = matcher.matches(path.as_bytes());
            let mut info = MatchInfo::default();
            let mut last = Ok(false);
            for parent in parents(path.as_bytes()).chain([path.as_bytes()]) {
                match matcher.matches_below(parent, &info) {
                    Ok((hit, next)) => {
                        info = next;
                        last = Ok(hit);
                    }
                    Err(error) => last = Err(error),
                }
            }
            prop_assert_eq!(last, full);
        }

        #[test]
        fn parents_are_matched_as_if_each_were_asked(
            pattern in "[ab*?/é]{1,8}",
            path in "[abé]{1,2}(/[abé]{1,2}){0,3}",
        ) {
            let Ok(matcher) = PatternMatcher::new(&[pattern]) else { return Ok(()) };
            let Some(rule) = matcher.patterns().first() else { return Ok(()) };
            let path = path.as_bytes();
            let each = parents(path).chain([path]).any(|p| rule.matches(p, false) == Ok(true));
            prop_assert_eq!(rule.matches(path, true) == Ok(true), each);
        }

        #[test]
        fn a_star_stays_within_one_element(name in "[a-z]{1,5}", below in "[a-z]{1,5}") {
            let path = format!("{name}/{below}");
            prop_assert!(matches(&["*"], &name));
            prop_assert!(!matches(&["*.x"], &path));
            let star = format!("{name}/*");
            let double = format!("**/{below}");
            prop_assert!(matches(&[star.as_str()], &path));
            prop_assert!(matches(&[double.as_str()], &path));
        }
    }
}
