//! The wildcard patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*`, `?` and escapes, no brackets.
//!
//! Neither `*` nor `?` matches a line end (observed).

/// The most steps the substitutions of one word may take together; values and patterns of some kilobytes stay far below.
const MAX_STEPS: usize = 50_000_000;

/// The steps taken so far for one word.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    taken: usize,
    most: usize,
}

impl Default for Steps {
    fn default() -> Self {
        Self::up_to(MAX_STEPS)
    }
}

impl Steps {
    /// No more than so many, and no more than one word may take.
    pub fn up_to(most: usize) -> Self {
        Self {
            taken: 0,
            most: most.min(MAX_STEPS),
        }
    }

    /// How many were taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    fn take(&mut self, count: usize) -> Result<(), PatternError> {
        self.taken = self.taken.saturating_add(count);
        if self.taken > self.most {
            return Err(PatternError::TooSlow);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    Any,
    Star,
}

/// A parsed pattern.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<Token>);

/// Why a pattern can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A backslash before anything but `*`, `?`, `\`, `/` and `}`.
    #[error("invalid escape '\\{0}'")]
    Escape(String),
    /// `MAX_STEPS`.
    #[error("too much work for one substitution")]
    TooSlow,
}

impl Pattern {
    /// Read a pattern.
    ///
    /// # Errors
    /// [`PatternError::Escape`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '/' | '}')) => Token::Literal(c),
                    other => {
                        return Err(PatternError::Escape(
                            other.map(String::from).unwrap_or_default(),
                        ));
                    }
                },
                c => Token::Literal(c),
            };
            tokens.push(token);
        }
        Ok(Self(tokens))
    }

    /// `value` without the shortest or longest prefix that matches.
    ///
    /// # Errors
    /// [`PatternError::TooSlow`].
    pub fn trim_prefix(
        &self,
        value: &str,
        longest: bool,
        steps: &mut Steps,
    ) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().collect();
        let end = match_end(&self.0, &chars, longest, steps)?.unwrap_or(0);
        Ok(chars.iter().skip(end).collect())
    }

    /// `value` without the shortest or longest suffix that matches.
    ///
    /// # Errors
    /// [`PatternError::TooSlow`].
    pub fn trim_suffix(
        &self,
        value: &str,
        longest: bool,
        steps: &mut Steps,
    ) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().rev().collect();
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        let end = match_end(&tokens, &chars, longest, steps)?.unwrap_or(0);
        Ok(chars.iter().skip(end).rev().collect())
    }

    /// Replace the first match or all of them, the longest at each place; `with` is literal.
    ///
    /// # Errors
    /// [`PatternError::TooSlow`].
    pub fn replace(
        &self,
        value: &str,
        with: &str,
        all: bool,
        steps: &mut Steps,
    ) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::with_capacity(value.len());
        let mut at = 0;
        let mut last_end = None;
        while at <= chars.len() {
            let rest = chars.get(at..).unwrap_or_default();
            let Some(len) = match_end(&self.0, rest, true, steps)? else {
                // a pattern that starts with `*` and fails here fails on the whole rest of the line
                let skip = if self.0.first() == Some(&Token::Star) {
                    rest.iter()
                        .position(|c| *c == '\n')
                        .map_or(rest.len(), |n| n + 1)
                } else {
                    1
                };
                out.extend(rest.iter().take(skip));
                at += skip.max(1);
                continue;
            };
            // an empty match right after another match is not a match of its own
            if len > 0 || last_end != Some(at) {
                // a long replacement of many short matches is work too, and memory
                steps.take(with.len())?;
                out.push_str(with);
                if !all {
                    out.extend(rest.iter().skip(len));
                    return Ok(out);
                }
            }
            if len == 0 {
                out.extend(rest.first());
                at += 1;
            } else {
                at += len;
                last_end = Some(at);
            }
        }
        Ok(out)
    }
}

/// How many characters of `text` the pattern matches from its start: the fewest or the most.
fn match_end(
    tokens: &[Token],
    text: &[char],
    longest: bool,
    steps: &mut Steps,
) -> Result<Option<usize>, PatternError> {
    // active[i]: tokens before i are matched by the text read so far
    let mut active = vec![false; tokens.len() + 1];
    let mut next = active.clone();
    activate(&mut active, tokens, 0);
    let mut best = None;
    let mut read = 0;
    loop {
        if active.last() == Some(&true) {
            best = Some(read);
            if !longest {
                return Ok(best);
            }
        }
        let Some(c) = text.get(read) else {
            return Ok(best);
        };
        steps.take(tokens.len() + 1)?;
        next.fill(false);
        let mut alive = false;
        for (i, token) in tokens.iter().enumerate() {
            if active.get(i) != Some(&true) {
                continue;
            }
            let to = match token {
                Token::Literal(l) if l == c => i + 1,
                Token::Any if *c != '\n' => i + 1,
                Token::Star if *c != '\n' => i,
                _ => continue,
            };
            activate(&mut next, tokens, to);
            alive = true;
        }
        if !alive {
            return Ok(best);
        }
        std::mem::swap(&mut active, &mut next);
        read += 1;
    }
}

/// Mark a state, and the one after it when the token there may match nothing.
fn activate(states: &mut [bool], tokens: &[Token], mut at: usize) {
    loop {
        if let Some(state) = states.get_mut(at) {
            *state = true;
        }
        if tokens.get(at) != Some(&Token::Star) {
            return;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_and_the_longest_match_differ() {
        let p = Pattern::parse("*/").unwrap();
        assert_eq!(
            p.trim_prefix("a/b/c", false, &mut Steps::default())
                .unwrap(),
            "b/c"
        );
        assert_eq!(
            p.trim_prefix("a/b/c", true, &mut Steps::default()).unwrap(),
            "c"
        );
        let p = Pattern::parse(".*").unwrap();
        assert_eq!(
            p.trim_suffix("x.tar.gz", false, &mut Steps::default())
                .unwrap(),
            "x.tar"
        );
        assert_eq!(
            p.trim_suffix("x.tar.gz", true, &mut Steps::default())
                .unwrap(),
            "x"
        );
    }

    #[test]
    fn replacing_all_is_greedy_and_literal() {
        let p = Pattern::parse("o*x").unwrap();
        assert_eq!(
            p.replace("foo oxx y", "$1", true, &mut Steps::default())
                .unwrap(),
            "f$1 y"
        );
        let p = Pattern::parse("o").unwrap();
        assert_eq!(
            p.replace("foo", "0", false, &mut Steps::default()).unwrap(),
            "f0o"
        );
        assert_eq!(
            p.replace("foo", "0", true, &mut Steps::default()).unwrap(),
            "f00"
        );
        let star = Pattern::parse("*").unwrap();
        assert_eq!(
            star.replace("abc", "x", true, &mut Steps::default())
                .unwrap(),
            "x"
        );
        let empty = Pattern::parse("").unwrap();
        assert_eq!(
            empty
                .replace("ab", "-", true, &mut Steps::default())
                .unwrap(),
            "-a-b-"
        );
    }

    #[test]
    fn only_five_escapes_exist() {
        assert!(Pattern::parse(r"\*\?\\\/\}").is_ok());
        assert_eq!(
            Pattern::parse(r"\x").unwrap_err(),
            PatternError::Escape("x".to_owned())
        );
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let value = "a".repeat(20_000);
        let p = Pattern::parse(&format!("a*{}b", "?".repeat(200))).unwrap();
        assert_eq!(
            p.replace(&value, "", true, &mut Steps::default()),
            Err(PatternError::TooSlow)
        );
    }

    #[test]
    fn many_matches_of_a_long_replacement_end() {
        let value = "a".repeat(20_000);
        let p = Pattern::parse("a").unwrap();
        let long = "b".repeat(20_000);
        let result = p.replace(&value, &long, true, &mut Steps::default());
        assert_eq!(result, Err(PatternError::TooSlow));
    }
}
