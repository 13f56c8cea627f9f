//! What the pattern languages share: errors, limits, and how characters are read from bytes.
//!
//! Patterns come from build files, paths from build contexts. The limits keep the time of one
//! list against one path well below a second, whatever both are made of.

/// Longest path that is compared: the kernel's `PATH_MAX`. No call can name a longer one.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest single pattern: as long as the longest path, which it could name in full.
pub const MAX_PATTERN_BYTES: usize = 4096;
/// Most patterns of one list. Large ignore files that people write have some hundred lines,
/// generated ones some thousand.
pub const MAX_PATTERNS: usize = 10_000;
/// All patterns of one list together: 100 bytes for each of the most there may be. The time
/// of one comparison grows with this number.
pub const MAX_LIST_BYTES: usize = 100 * MAX_PATTERNS;

/// Why a pattern cannot be used. The texts of the first three are those that users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// An unclosed class, a dangling escape.
    #[error("syntax error in pattern")]
    Syntax,
    /// A `!` with nothing behind it.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclusion,
    /// Results of a parent that belong to another matcher.
    #[error("wrong number of values in parentMatched")]
    ForeignParent,
    /// [`MAX_PATTERN_BYTES`].
    #[error("pattern of {0} bytes: at most {MAX_PATTERN_BYTES} are read")]
    PatternTooLong(usize),
    /// [`MAX_PATTERNS`].
    #[error("list of {0} patterns: at most {MAX_PATTERNS} are read")]
    TooManyPatterns(usize),
    /// [`MAX_LIST_BYTES`].
    #[error("list of patterns of {0} bytes: at most {MAX_LIST_BYTES} are read")]
    ListTooLong(usize),
    /// [`MAX_PATH_BYTES`].
    #[error("path of {0} bytes: at most {MAX_PATH_BYTES} are matched against patterns")]
    PathTooLong(usize),
}

/// Refuses a pattern that is too long.
pub(super) fn check_pattern(pattern: &[u8]) -> Result<(), PatternError> {
    match pattern.len() {
        0..=MAX_PATTERN_BYTES => Ok(()),
        len => Err(PatternError::PatternTooLong(len)),
    }
}

/// Refuses a path that is too long.
pub(super) fn check_path(path: &[u8]) -> Result<(), PatternError> {
    match path.len() {
        0..=MAX_PATH_BYTES => Ok(()),
        len => Err(PatternError::PathTooLong(len)),
    }
}

/// The first character and its length; a byte that is no UTF-8 counts as U+FFFD, alone.
pub(super) fn next_char(bytes: &[u8]) -> Option<(u32, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((u32::from(first), 1));
    }
    let window = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(window) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or(""),
    };
    Some(match valid.chars().next() {
        Some(c) => (c as u32, c.len_utf8()),
        None => (char::REPLACEMENT_CHARACTER as u32, 1),
    })
}
