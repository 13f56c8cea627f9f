//! Where a stream goes: a file that appears when it is complete, the standard output, a program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gateway_api::Error;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::OutputTarget;
use crate::shared::Outcome;

/// Fewer and larger writes.
const BUFFER: usize = 1 << 20;
/// The same for files: no larger than the pieces in which layers are copied, which then need not come through here.
const FILE_BUFFER: usize = 128 << 10;
/// The standard output in errors.
const STDOUT: &str = "stdout";
/// What is shown of a program that failed.
const MAX_SAID: u64 = 4 << 10;

/// What a target said when all was written.
#[derive(Debug, Default)]
pub struct Written {
    /// Output of the program that took the stream.
    pub said: Vec<u8>,
}

/// Writes a stream of which nothing is said.
pub fn write_to(
    dest: &OutputTarget,
    cancel: &CancellationToken,
    write: impl FnOnce(&mut dyn Write) -> Outcome<()>,
) -> Outcome<Written> {
    write_described(dest, &BTreeMap::new(), cancel, write)
}

/// Writes a stream to its target. Nothing of it stays when it fails or is cancelled, except on a device or
/// pipe, which keeps what it was given. `described` is what the exporter says of it.
pub fn write_described(
    dest: &OutputTarget,
    described: &BTreeMap<String, String>,
    cancel: &CancellationToken,
    write: impl FnOnce(&mut dyn Write) -> Outcome<()>,
) -> Outcome<Written> {
    match dest {
        OutputTarget::Client(client) => {
            let stream = client.0.stream(described)?;
            let mut out = BufWriter::with_capacity(BUFFER, Guarded::new(cancel, stream));
            write(&mut out)?;
            let guarded = out
                .into_inner()
                .map_err(|error| Error::unknown(format!("cannot write: {error}")))?;
            guarded.inner.finish()?;
            Ok(Written::default())
        }
        OutputTarget::Stdout => {
            let mut out = Guarded::new(cancel, io::stdout().lock());
            let written = write(&mut out);
            out.told(written, STDOUT)?;
            out.flush().map_err(|error| cannot_write(STDOUT, &error))?;
            Ok(Written::default())
        }
        OutputTarget::Dir(dir) => Err(Error::invalid(format!(
            "{} is a directory, a file is needed",
            dir.display()
        ))),
        OutputTarget::File(path) => {
            write_file(path, cancel, write)?;
            Ok(Written::default())
        }
        OutputTarget::Program(line) => feed(line, cancel, write),
    }
}

/// Stops a long stream soon after its build was cancelled.
struct Guarded<'a, W> {
    cancel: &'a CancellationToken,
    inner: W,
    /// Why the place took no more: whoever writes tells of their own work.
    failed: Option<io::Error>,
}

impl<'a, W> Guarded<'a, W> {
    fn new(cancel: &'a CancellationToken, inner: W) -> Self {
        Guarded {
            cancel,
            inner,
            failed: None,
        }
    }

    /// The place's own error in place of what was made of it.
    fn told(&mut self, written: Outcome<()>, place: &str) -> Outcome<()> {
        match (written, self.failed.take()) {
            (Err(_), Some(error)) => Err(cannot_write(place, &error)),
            (written, _) => written,
        }
    }
}

fn cannot_write(place: &str, error: &io::Error) -> Error {
    Error::unknown(format!("cannot write {place}: {error}"))
}

impl<W: Write> Write for Guarded<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let written = self.inner.write(bytes);
        if let Err(error) = &written
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failed = Some(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            });
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_file(
    path: &Path,
    cancel: &CancellationToken,
    write: impl FnOnce(&mut dyn Write) -> Outcome<()>,
) -> Outcome<()> {
    let shown = path.display().to_string();
    let failed = |error: io::Error| cannot_write(&shown, &error);
    if let Ok(metadata) = std::fs::metadata(path)
        && !metadata.is_file()
    {
        if metadata.is_dir() {
            return Err(Error::invalid(format!(
                "{} is a directory, a file is needed",
                path.display()
            )));
        }
        // A pipe or device is written to as it is.
        let file = File::options().write(true).open(path).map_err(failed)?;
        let mut out = Guarded::new(cancel, file);
        let written = write(&mut out);
        return out.told(written, &shown);
    }
    // A link keeps being one: what it names is replaced.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Folders on the way are made, as by the reference's clients.
    if !parent.exists() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let unfinished = Unfinished::create(parent).map_err(failed)?;
    let mut out = BufWriter::with_capacity(FILE_BUFFER, Guarded::new(cancel, unfinished.file()));
    let written = write(&mut out);
    if let Err(error) = written.and_then(|()| out.flush().map_err(failed)) {
        // What is in the buffer is not written again.
        let (mut guarded, _) = out.into_parts();
        return guarded.told(Err(error), &shown);
    }
    drop(out);
    if cancel.is_cancelled() {
        return Err(Error::canceled());
    }
    unfinished.appear(path).map_err(failed)
}

/// A file that no one sees yet. Without a name where the file system can do that: then nothing is left
/// even by a process that is killed.
enum Unfinished {
    Nameless(File, PathBuf),
    Named(tempfile::NamedTempFile),
}

impl Unfinished {
    fn create(dir: &Path) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(dir, flags, mode) {
            Ok(fd) => return Ok(Unfinished::Nameless(File::from(fd), dir.to_owned())),
            // File systems without such files, and kernels that know none.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
        tempfile::Builder::new()
            .prefix(".gateway-")
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .map(Unfinished::Named)
    }

    fn file(&self) -> &File {
        match self {
            Unfinished::Nameless(file, _) => file,
            Unfinished::Named(file) => file.as_file(),
        }
    }

    fn appear(self, path: &Path) -> io::Result<()> {
        let (file, dir) = match self {
            Unfinished::Named(file) => {
                file.persist(path)?;
                return Ok(());
            }
            Unfinished::Nameless(file, dir) => (file, dir),
        };
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        // A link cannot replace a file, a rename can.
        let name = format!(".gateway-{}", crate::store::new_id());
        let beside = dir.join(name);
        rustix::fs::linkat(CWD, open.as_str(), CWD, &beside, AtFlags::SYMLINK_FOLLOW)?;
        std::fs::rename(&beside, path).inspect_err(|_| {
            let _ = std::fs::remove_file(&beside);
        })
    }
}

/// Starts a program and gives it the stream on its standard input.
fn feed(
    line: &[String],
    cancel: &CancellationToken,
    write: impl FnOnce(&mut dyn Write) -> Outcome<()>,
) -> Outcome<Written> {
    let [program, args @ ..] = line else {
        return Err(Error::invalid("no program to give the image to"));
    };
    let cannot = |error: io::Error| Error::unknown(format!("cannot run {program}: {error}"));
    // A file and not a pipe: nobody reads while we write.
    let mut said = tempfile::tempfile().map_err(cannot)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(said.try_clone().map_err(cannot)?)
        .stderr(said.try_clone().map_err(cannot)?)
        .spawn()
        .map_err(cannot)?;
    let written = match child.stdin.take() {
        None => Ok(()),
        Some(stdin) => {
            let mut out = BufWriter::with_capacity(BUFFER, Guarded::new(cancel, stdin));
            let written = write(&mut out);
            written.and_then(|()| {
                out.flush()
                    .map_err(|error| Error::unknown(format!("cannot write: {error}")))
            })
        }
    };
    if cancel.is_cancelled() {
        // It must not take a part for the whole.
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::canceled());
    }
    let status = child.wait().map_err(cannot)?;
    let mut text = Vec::new();
    said.rewind()
        .and_then(|()| said.take(MAX_SAID).read_to_end(&mut text))
        .map_err(cannot)?;
    // Its own words tell more than our broken pipe.
    if !status.success() {
        let said = String::from_utf8_lossy(&text);
        return Err(Error::unknown(format!(
            "{} failed ({status}): {}",
            line.join(" "),
            said.trim()
        )));
    }
    written?;
    Ok(Written { said: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn hello(out: &mut dyn Write) -> Outcome<()> {
        out.write_all(b"hello")
            .map_err(|e| Error::unknown(e.to_string()))
    }

    #[test]
    fn a_file_is_replaced_when_the_stream_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "old").unwrap();
        let target = OutputTarget::File(path.clone());
        let broken = write_to(&target, &CancellationToken::new(), |out| {
            hello(out)?;
            Err(Error::unknown("broken"))
        });
        assert!(broken.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write_to(&target, &CancellationToken::new(), hello).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_cancelled_stream_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = OutputTarget::File(dir.path().join("out"));
        let cancel = CancellationToken::new();
        let outcome = write_to(&target, &cancel, |out| {
            hello(out)?;
            cancel.cancel();
            Ok(())
        });
        assert!(outcome.is_err());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("real"), "old").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let target = OutputTarget::File(dir.path().join("link"));
        write_to(&target, &CancellationToken::new(), hello).unwrap();
        assert_eq!(std::fs::read(dir.path().join("real")).unwrap(), b"hello");
        assert!(dir.path().join("link").is_symlink());
    }

    #[test]
    fn a_device_is_written_to() {
        let target = OutputTarget::File(PathBuf::from("/dev/null"));
        write_to(&target, &CancellationToken::new(), hello).unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_program_takes_the_stream_and_its_failure_is_told_in_its_words() {
        let sh =
            |script: &str| OutputTarget::Program(["sh", "-c", script].map(str::to_owned).to_vec());
        let cancel = CancellationToken::new();
        let written = write_to(&sh("cat; echo ' taken'"), &cancel, hello).unwrap();
        assert_eq!(written.said, b"hello taken\n");
        let error = write_to(&sh("echo no room >&2; exit 3"), &cancel, hello).unwrap_err();
        assert!(error.message.contains("no room"), "{}", error.message);
        let missing = OutputTarget::Program(vec!["/no/such/program".into()]);
        let error = write_to(&missing, &cancel, hello).unwrap_err();
        assert!(
            error.message.contains("/no/such/program"),
            "{}",
            error.message
        );
    }
}
