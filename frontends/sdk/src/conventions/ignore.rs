//! Ignore files: which paths of a context are not sent.

/// The patterns of an ignore file, cleaned.
pub fn patterns(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut out = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let (negated, body) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if line.is_empty() {
            continue;
        }
        let mut body = body.to_owned();
        if !body.is_empty() {
            body = gateway_llb::path::clean(&body);
            if body.len() > 1 {
                body = body.strip_prefix('/').unwrap_or(&body).to_owned();
            }
        }
        out.push(if negated { format!("!{body}") } else { body });
    }
    out
}

/// Tells whether a path is ignored.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    patterns: Vec<(bool, Vec<String>)>,
}

impl Matcher {
    /// From cleaned patterns.
    ///
    /// # Errors
    /// For a `!` with nothing after it.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let mut out = Vec::new();
        for pattern in patterns {
            let (negated, body) = match pattern.strip_prefix('!') {
                Some("") => return Err("illegal exclusion pattern: \"!\"".to_owned()),
                Some(body) => (true, body),
                None => (false, pattern.as_str()),
            };
            if !is_well_formed(body) {
                return Err("syntax error in pattern".to_owned());
            }
            let body = body.trim_matches('/');
            out.push((negated, body.split('/').map(str::to_owned).collect()));
        }
        Ok(Self { patterns: out })
    }

    /// True when some pattern takes paths back in.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|(negated, _)| *negated)
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// True when there is nothing to match.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// True when a pattern ignores every path of the root.
    pub fn ignores_root(&self) -> bool {
        self.patterns.iter().any(|(negated, parts)| {
            !negated && matches!(parts.join("/").as_str(), "*" | "**" | "**/*")
        })
    }

    /// Whether the path or a folder above it is ignored; the last pattern that matches wins.
    pub fn matches(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let mut ignored = false;
        for (negated, pattern) in &self.patterns {
            let hit = (1..=parts.len()).any(|n| {
                parts
                    .get(..n)
                    .is_some_and(|prefix| match_parts(pattern, prefix))
            });
            if hit {
                ignored = !negated;
            }
        }
        ignored
    }
}

/// Classes must be closed and must not begin or end a range with `-`; an escape needs a character.
fn is_well_formed(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let good = match c {
            '\\' => chars.next().is_some(),
            '[' => class_is_closed(&mut chars),
            _ => true,
        };
        if !good {
            return false;
        }
    }
    true
}

/// Reads what follows a `[`, up to its `]`.
fn class_is_closed(chars: &mut std::str::Chars<'_>) -> bool {
    fn bound(chars: &mut std::str::Chars<'_>) -> bool {
        match chars.next() {
            None | Some('-' | ']') => false,
            Some('\\') => chars.next().is_some(),
            Some(_) => true,
        }
    }
    if chars.as_str().starts_with('^') {
        chars.next();
    }
    let mut ranges = 0;
    loop {
        if ranges > 0 && chars.as_str().starts_with(']') {
            chars.next();
            return true;
        }
        if !bound(chars) {
            return false;
        }
        if chars.as_str().starts_with('-') {
            chars.next();
            if !bound(chars) {
                return false;
            }
        }
        ranges += 1;
    }
}

/// Matches folder by folder; `**` stands for any number of them.
fn match_parts(pattern: &[String], path: &[&str]) -> bool {
    // Row by row instead of recursion: many `**` must not cost exponential time.
    let mut reach = vec![false; path.len() + 1];
    if let Some(first) = reach.first_mut() {
        *first = true;
    }
    for part in pattern {
        let mut next = vec![false; path.len() + 1];
        if part == "**" {
            let mut any = false;
            for (slot, from) in next.iter_mut().zip(&reach) {
                any |= from;
                *slot = any;
            }
        } else {
            let targets = next.iter_mut().skip(1);
            for ((slot, from), name) in targets.zip(&reach).zip(path) {
                *slot = *from && match_name(part, name);
            }
        }
        reach = next;
    }
    reach.last().copied().unwrap_or(false)
}

/// `*`, `?`, `[a-z]`, `[^a]` and `\x` within one name.
fn match_name(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            None if n == name.len() => return true,
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            None => None,
            Some(_) => name.get(n).and_then(|c| match_one(&pattern, p, *c)),
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                n += 1;
            }
            (None, Some((at, from))) if from < name.len() => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            _ => return false,
        }
    }
}

/// Where the pattern goes on after it matched one character.
fn match_one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => Some(at + 1),
        '\\' => (*pattern.get(at + 1)? == c).then_some(at + 2),
        '[' => {
            let mut i = at + 1;
            let negated = pattern.get(i) == Some(&'^');
            if negated {
                i += 1;
            }
            let mut hit = false;
            let first = i;
            loop {
                let mut low = *pattern.get(i)?;
                if low == ']' && i > first {
                    break;
                }
                if low == '\\' {
                    i += 1;
                    low = *pattern.get(i)?;
                }
                i += 1;
                let mut high = low;
                if pattern.get(i) == Some(&'-') && pattern.get(i + 1) != Some(&']') {
                    high = *pattern.get(i + 1)?;
                    i += 2;
                }
                hit |= (low..=high).contains(&c);
            }
            (hit != negated).then_some(i + 1)
        }
        literal => (*literal == c).then_some(at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(file: &str, path: &str) -> bool {
        Matcher::new(&patterns(file.as_bytes()))
            .unwrap()
            .matches(path)
    }

    #[test]
    fn lines_become_clean_patterns() {
        let file = b"\xef\xbb\xbf# c\n\n /a/./b/ \n! c\n!\n/\n";
        assert_eq!(patterns(file), ["a/b", "!c", "!", "/"]);
    }

    #[test]
    fn the_last_match_wins_and_folders_cover_what_is_in_them() {
        assert!(ignored("dir", "dir/x/y"));
        assert!(!ignored("*.md", "sub/a.md"));
        assert!(ignored("**/*.md", "a.md") && ignored("**/*.md", "x/y/a.md"));
        assert!(!ignored("*\n!keep", "keep"));
        assert!(ignored("a?[b-d]", "axc") && !ignored("a?[^b-d]", "axc"));
        assert!(ignored("foo/**", "foo/a") && ignored("a\\*", "a*"));
        assert!(!ignored("a\\*", "ab"));
    }

    #[test]
    fn a_lone_exclamation_mark_is_refused() {
        assert!(Matcher::new(&["!".to_owned()]).is_err());
        for bad in ["[a", "x/[a", "[]a]", "[a-]", "[.-]", "a\\", "*/[", "[^]"] {
            let error = Matcher::new(&[bad.to_owned()]).unwrap_err();
            assert_eq!(error, "syntax error in pattern", "{bad}");
        }
        for good in ["[a]", "[^a-z]x", "a]", "\\[a", "[\\]]"] {
            assert!(Matcher::new(&[good.to_owned()]).is_ok(), "{good}");
        }
    }
}
