//! Errors of file operations. Their texts reach frontends and users, so they read as
//! BuildKit's do: `operation path: reason`, with paths as seen inside the root.

use std::fmt;

use rustix::io::Errno;

use super::syntax::PatternError;

/// What went wrong in a file operation.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A system call on one path failed.
    #[error("{op} {path}: {}", Reason(*errno))]
    Path {
        /// The operation, by the name of its call (`open`, `lstat`, `mkdir`).
        op: &'static str,
        /// The path inside the root.
        path: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A link that could not be made.
    #[error("{op} {old} {new}: {}", Reason(*errno))]
    Link {
        /// `symlink` or `link`.
        op: &'static str,
        /// What the link points to.
        old: String,
        /// The path of the link inside the root.
        new: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// An error with the step that met it.
    #[error("{context}: {source}")]
    Context {
        /// What was being done.
        context: String,
        /// What failed.
        source: Box<FsError>,
    },
    /// A path that a content hash needs does not exist.
    #[error("{}: not found", Quoted(.0))]
    NotFound(String),
    /// A copy's wildcard matched nothing.
    #[error("{0} not found")]
    NoMatch(String),
    /// More symbolic links on one path than are followed.
    #[error("too many links")]
    TooManyLinks,
    /// A pattern that cannot be read.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A pattern list of which one pattern cannot be read.
    #[error("invalid {kind}patterns: [{}]: {source}", patterns.join(" "))]
    Patterns {
        /// `include` or `exclude`.
        kind: &'static str,
        /// The whole list.
        patterns: Vec<String>,
        /// What is wrong.
        source: PatternError,
    },
    /// A file would have to replace a directory.
    #[error("cannot replace to directory {0} with file")]
    FileOverDirectory(String),
    /// A directory would have to replace something else.
    #[error("cannot copy to non-directory: {0}")]
    DirectoryOverFile(String),
    /// Something else than a regular file was to be read.
    #[error("{0} is not a regular file")]
    NotRegular(String),
    /// A file that does not fit into one answer.
    #[error("{path} is larger than {limit} bytes; read a range of it")]
    TooLarge {
        /// The path inside the root.
        path: String,
        /// What fits.
        limit: u64,
    },
    /// A request that makes no sense; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// An archive that cannot be unpacked.
    #[error("failed to unpack {path}: {reason}")]
    Archive {
        /// The archive's path inside its root.
        path: String,
        /// The reader's words.
        reason: String,
    },
    /// A file changed while it was being read.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// The caller asked to stop.
    #[error("context canceled")]
    Cancelled,
}

impl FsError {
    /// Whether a file changed while it was worked with.
    pub fn is_changed(&self) -> bool {
        match self {
            FsError::Changed(_) => true,
            FsError::Context { source, .. } => source.is_changed(),
            _ => false,
        }
    }

    /// An error of the call `op` on `path`.
    pub fn path(op: &'static str, path: impl AsRef<[u8]>, errno: Errno) -> Self {
        Self::Path {
            op,
            path: lossy(path.as_ref()),
            errno,
        }
    }

    /// The same error, with what was being done in front.
    pub fn context(self, context: impl Into<String>) -> Self {
        Self::Context {
            context: context.into(),
            source: Box::new(self),
        }
    }

    /// The kernel's answer at the root of this error, if there was one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Path { errno, .. } | Self::Link { errno, .. } => Some(*errno),
            Self::Context { source, .. } => source.errno(),
            _ => None,
        }
    }

    /// Whether something asked for by name does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::NoMatch(_) => true,
            Self::Context { source, .. } => source.is_not_found(),
            _ => self.errno() == Some(Errno::NOENT),
        }
    }
}

/// Text of bytes that are nearly always UTF-8.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The kernel's message in Go's spelling: no capital, no number.
struct Reason(Errno);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0.raw_os_error()).to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        let mut chars = text.chars();
        if let Some(first) = chars.next() {
            write!(f, "{}{}", first.to_lowercase(), chars.as_str())?;
        }
        Ok(())
    }
}

/// A string in double quotes as Go's `%q` writes it, for texts that users search for.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_reads_as_go_prints_it() {
        let error = FsError::path("lstat", "/nofile", Errno::NOENT);
        assert_eq!(
            error.to_string(),
            "lstat /nofile: no such file or directory"
        );
        assert!(error.is_not_found());
    }

    #[test]
    fn a_missing_hash_input_is_quoted() {
        let error = FsError::NotFound("/a\"b".into());
        assert_eq!(error.to_string(), r#""/a\"b": not found"#);
    }
}
