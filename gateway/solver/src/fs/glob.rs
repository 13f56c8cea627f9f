//! Go's `filepath.Match`: the wildcards of COPY sources and of `rm`. `*` and `?` stop at a
//! slash, classes do not.
//!
//! Go never reconsiders an earlier `*` once the piece after it has matched. That is kept:
//! it is observable with classes that match a slash, and it bounds the time.

use super::syntax::{PatternError, check_path, check_pattern, next_char};

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Glob {
    pieces: Vec<Piece>,
}

/// A run of atoms, with or without a `*` in front.
#[derive(Debug, Clone)]
struct Piece {
    star: bool,
    atoms: Vec<Atom>,
}

#[derive(Debug, Clone)]
enum Atom {
    Byte(u8),
    /// `?`: one character that is not a slash.
    One,
    Class {
        negated: bool,
        ranges: Vec<(u32, u32)>,
    },
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Go's `syntax error in pattern`; a pattern that is too long.
    pub fn new(pattern: &[u8]) -> Result<Self, PatternError> {
        check_pattern(pattern)?;
        let mut pieces = Vec::new();
        let mut piece = Piece {
            star: false,
            atoms: Vec::new(),
        };
        let mut rest = pattern;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            match first {
                b'*' => {
                    if piece.star && piece.atoms.is_empty() {
                        continue;
                    }
                    pieces.push(std::mem::replace(
                        &mut piece,
                        Piece {
                            star: true,
                            atoms: Vec::new(),
                        },
                    ));
                }
                b'?' => piece.atoms.push(Atom::One),
                b'[' => {
                    let (class, after) = class(rest)?;
                    piece.atoms.push(class);
                    rest = after;
                }
                b'\\' => {
                    let (&byte, after) = rest.split_first().ok_or(PatternError::Syntax)?;
                    piece.atoms.push(Atom::Byte(byte));
                    rest = after;
                }
                byte => piece.atoms.push(Atom::Byte(byte)),
            }
        }
        pieces.push(piece);
        pieces.retain(|p| p.star || !p.atoms.is_empty());
        Ok(Self { pieces })
    }

    /// Whether the whole of `name` matches. Takes at most as many steps as the lengths of
    /// name and pattern multiplied, which their limits bound.
    ///
    /// # Errors
    /// A name longer than any path.
    pub fn matches(&self, name: &[u8]) -> Result<bool, PatternError> {
        check_path(name)?;
        Ok(self.matches_bounded(name))
    }

    fn matches_bounded(&self, name: &[u8]) -> bool {
        let mut name = name;
        for (i, piece) in self.pieces.iter().enumerate() {
            let last = i + 1 == self.pieces.len();
            if piece.star && piece.atoms.is_empty() {
                // Only the last piece can be a bare star.
                return !name.contains(&b'/');
            }
            match piece.place(name, last) {
                Some(rest) => name = rest,
                None => return false,
            }
        }
        name.is_empty()
    }
}

impl Piece {
    /// Finds the first place where the atoms match and gives what follows them.
    fn place<'a>(&self, name: &'a [u8], last: bool) -> Option<&'a [u8]> {
        let fits = |at: &'a [u8]| {
            self.strip(at)
                .filter(|rest: &&[u8]| !last || rest.is_empty())
        };
        if let Some(rest) = fits(name) {
            return Some(rest);
        }
        if !self.star {
            return None;
        }
        for (i, byte) in name.iter().enumerate() {
            if *byte == b'/' {
                return None;
            }
            if let Some(rest) = fits(&name[i + 1..]) {
                return Some(rest);
            }
        }
        None
    }

    fn strip<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let mut name = name;
        for atom in &self.atoms {
            let (char, len) = next_char(name)?;
            let used = match atom {
                Atom::Byte(byte) => (name[0] == *byte).then_some(1),
                Atom::One => (name[0] != b'/').then_some(len),
                Atom::Class { negated, ranges } => {
                    let inside = ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&char));
                    (inside != *negated).then_some(len)
                }
            }?;
            name = &name[used..];
        }
        Some(name)
    }
}

/// Reads a class after its `[`.
fn class(mut rest: &[u8]) -> Result<(Atom, &[u8]), PatternError> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            return Ok((Atom::Class { negated, ranges }, &rest[1..]));
        }
        let (lo, after) = class_char(rest)?;
        rest = after;
        let mut hi = lo;
        if rest.first() == Some(&b'-') {
            (hi, rest) = class_char(&rest[1..])?;
        }
        ranges.push((lo, hi));
    }
}

/// Reads one end of a range; a class must go on behind it.
fn class_char(rest: &[u8]) -> Result<(u32, &[u8]), PatternError> {
    let rest = match rest.first() {
        None | Some(b'-' | b']') => return Err(PatternError::Syntax),
        Some(b'\\') => &rest[1..],
        Some(_) => rest,
    };
    let (char, len) = next_char(rest).ok_or(PatternError::Syntax)?;
    if char == char::REPLACEMENT_CHARACTER as u32 && len == 1 {
        return Err(PatternError::Syntax);
    }
    let rest = &rest[len..];
    if rest.is_empty() {
        return Err(PatternError::Syntax);
    }
    Ok((char, rest))
}

/// Whether a path element has an unescaped wildcard.
pub fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Splits a source path before its first element with a wildcard: the literal directory
/// and the pattern below it (empty when there is no wildcard). Both are cleaned.
pub fn split_wildcard(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let path = super::gopath::clean(path);
    let mut literal: Vec<&[u8]> = Vec::new();
    let mut pattern: Vec<&[u8]> = Vec::new();
    for part in super::gopath::components(&path) {
        if pattern.is_empty() && !has_wildcard(part) {
            literal.push(part);
        } else {
            pattern.push(part);
        }
    }
    let root: &[u8] = if path.starts_with(b"/") { b"/" } else { b"" };
    ([root, &literal.join(&b'/')].concat(), pattern.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::super::syntax::{MAX_PATH_BYTES, MAX_PATTERN_BYTES};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn go_s_own_table_holds() {
        // The cases that Go's documentation of Match implies, with its answers.
        for (pattern, name, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let glob = Glob::new(pattern.as_bytes()).expect(pattern);
            assert_eq!(glob.matches(name.as_bytes()), Ok(want), "{pattern} {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\", "[a", "*[",
        ] {
            assert!(Glob::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_star_is_not_reconsidered() {
        let glob = Glob::new(b"*[^x]*b").expect("valid");
        assert_eq!(glob.matches(b"a/b"), Ok(false));
    }

    #[test]
    fn patterns_and_names_longer_than_any_path_are_refused() {
        let long = vec![b'*'; MAX_PATTERN_BYTES + 1];
        let error = Glob::new(&long).expect_err("too long");
        assert_eq!(error, PatternError::PatternTooLong(MAX_PATTERN_BYTES + 1));
        let glob = Glob::new(&long[1..]).expect("just short enough");
        assert_eq!(glob.matches(&[b'a'; MAX_PATH_BYTES]), Ok(true));
        let error = glob
            .matches(&[b'a'; MAX_PATH_BYTES + 1])
            .expect_err("too long");
        assert_eq!(error, PatternError::PathTooLong(MAX_PATH_BYTES + 1));
    }

    #[test]
    fn the_slowest_patterns_and_names_end_soon() {
        let name = [b'a'; MAX_PATH_BYTES];
        let many = b"*a".repeat(MAX_PATTERN_BYTES / 2);
        let late = [b"*".as_slice(), &b"?".repeat(2000), b"b"].concat();
        let started = std::time::Instant::now();
        for (pattern, want) in [(many, true), (late, false)] {
            let glob = Glob::new(&pattern).expect("valid");
            assert_eq!(glob.matches(&name), Ok(want));
        }
        assert!(started.elapsed().as_secs() < 10);
    }

    #[test]
    fn sources_are_split_at_the_first_wildcard_element() {
        let (literal, pattern) = split_wildcard(b"/a/b/*.txt/c");
        assert_eq!(
            (literal.as_slice(), pattern.as_slice()),
            (b"/a/b".as_slice(), b"*.txt/c".as_slice())
        );
        assert_eq!(split_wildcard(b"/a/b/"), (b"/a/b".to_vec(), Vec::new()));
        assert_eq!(split_wildcard(b"/*"), (b"/".to_vec(), b"*".to_vec()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(pattern: Vec<u8>, name: Vec<u8>) {
            if let Ok(glob) = Glob::new(&pattern) {
                let _ = glob.matches(&name);
            }
        }

        #[test]
        fn a_name_matches_itself_escaped(name in "[a-z*?\\[\\]\\\\/.]{0,12}") {
            let escaped: Vec<u8> = name.bytes().flat_map(|b| [b'\\', b]).collect();
            prop_assert!(Glob::new(&escaped).expect("escapes are valid").matches(name.as_bytes()).expect("short"));
        }
    }
}
