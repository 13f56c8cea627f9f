//! `-`: a build file or a whole context on stdin.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use gateway_images::layer::{Compression, Decoder};
use tempfile::TempDir;

use crate::error::CliError;

/// Bytes that tell an archive from a build file: a tar header's magic stands at 257.
const SNIFFED: usize = 512;
/// Starts of compressed archives: gzip, bzip2, xz.
const MAGIC: [&[u8]; 3] = [
    &[0x1f, 0x8b, 0x08],
    b"BZh",
    &[0xfd, b'7', b'z', b'X', b'Z', 0],
];
/// Larger than any build file: the limit of the built-in frontend's parser is far below.
pub const MAX_BUILD_FILE: u64 = 64 << 20;

/// What stdin held, kept in a temporary folder for the build's time.
#[derive(Debug)]
pub struct Stdin {
    pub dir: TempDir,
    pub content: Content,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// A file `Dockerfile` in the folder.
    BuildFile,
    /// An archive with a context in it.
    Archive(PathBuf),
}

/// Reads all of stdin. `only_file`: it is a build file whatever it looks like.
///
/// # Errors
/// When stdin is empty or cannot be read, and when the temporary folder cannot be written.
pub fn read(mut stdin: impl Read, only_file: bool) -> Result<Stdin, CliError> {
    let temporary = |source| CliError::Write {
        path: std::env::temp_dir(),
        source,
    };
    let dir = tempfile::Builder::new()
        .prefix("gateway-stdin-")
        .tempdir()
        .map_err(temporary)?;
    let mut head = Vec::new();
    stdin
        .by_ref()
        .take(SNIFFED as u64)
        .read_to_end(&mut head)
        .map_err(CliError::Stdin)?;
    if head.is_empty() {
        return Err(CliError::EmptyStdin);
    }
    // Frontends take such an archive for a build file.
    let is_zstd = Compression::sniff(&head) == Compression::Zstd;
    let archive = !only_file && (is_zstd || is_archive(&head));
    let name = if archive { "context" } else { "Dockerfile" };
    let path = dir.path().join(name);
    let failed = |source| CliError::Write {
        path: path.clone(),
        source,
    };
    let mut file = std::fs::File::create(&path).map_err(failed)?;
    if archive && is_zstd {
        let whole = head.as_slice().chain(stdin);
        let mut unpacked = Decoder::new(whole).map_err(CliError::Stdin)?;
        std::io::copy(&mut unpacked, &mut file).map_err(CliError::Stdin)?;
        let content = Content::Archive(path.clone());
        return Ok(Stdin { dir, content });
    }
    file.write_all(&head).map_err(failed)?;
    if archive {
        std::io::copy(&mut stdin, &mut file).map_err(failed)?;
        let content = Content::Archive(path.clone());
        return Ok(Stdin { dir, content });
    }
    let count = std::io::copy(&mut stdin.take(MAX_BUILD_FILE), &mut file).map_err(failed)?;
    if count == MAX_BUILD_FILE {
        return Err(CliError::StdinTooLarge {
            limit: MAX_BUILD_FILE,
        });
    }
    Ok(Stdin {
        dir,
        content: Content::BuildFile,
    })
}

fn is_archive(head: &[u8]) -> bool {
    MAGIC.iter().any(|magic| head.starts_with(magic))
        || head.get(257..262).is_some_and(|magic| magic == b"ustar")
}

/// An empty folder beside the file, for builds without a context.
///
/// # Errors
/// When it cannot be made.
pub fn empty_context(stdin: &Stdin) -> Result<PathBuf, CliError> {
    let path = stdin.dir.path().join("empty");
    make(&path)?;
    Ok(path)
}

fn make(path: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(path).map_err(|source| CliError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_build_file_and_archives_are_told_by_their_bytes() {
        let text = read(&b"FROM scratch\n"[..], false).unwrap();
        assert_eq!(text.content, Content::BuildFile);
        let written = std::fs::read(text.dir.path().join("Dockerfile")).unwrap();
        assert_eq!(written, b"FROM scratch\n");

        let mut tar = vec![0; 1024];
        tar[257..262].copy_from_slice(b"ustar");
        for bytes in [&tar[..], &[0x1f, 0x8b, 8, 0][..], b"BZh9"] {
            let archive = read(bytes, false).unwrap();
            let Content::Archive(path) = &archive.content else {
                panic!("an archive");
            };
            assert_eq!(std::fs::read(path).unwrap(), bytes);
            assert_eq!(read(bytes, true).unwrap().content, Content::BuildFile);
        }
    }

    #[test]
    fn zstd_is_unpacked_for_frontends_that_do_not_know_it() {
        // One frame with one block of three bytes as they are.
        let packed = b"\x28\xb5\x2f\xfd\x20\x03\x19\0\0abc";
        let archive = read(&packed[..], false).unwrap();
        let Content::Archive(path) = &archive.content else {
            panic!("an archive");
        };
        assert_eq!(std::fs::read(path).unwrap(), b"abc");
        let cut = read(&packed[..10], false);
        assert!(matches!(cut, Err(CliError::Stdin(_))));
        assert_eq!(read(&packed[..], true).unwrap().content, Content::BuildFile);
    }

    #[test]
    fn nothing_on_stdin_is_said() {
        assert!(matches!(
            read(&b""[..], false).unwrap_err(),
            CliError::EmptyStdin
        ));
    }
}
