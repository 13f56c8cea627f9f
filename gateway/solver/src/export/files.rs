//! Results as plain files: a tar stream or a directory.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_api::Error;
use gateway_images::layer::{DiffOptions, END, Header, Kind, TarReader, diff, padding};

use super::attestation;
use super::dest::write_to;
use super::options::{ImageOptions, epoch, flag};
use super::sink::{Client, ClientTree};
use super::statements::{self, Statements};
use super::{OutputTarget, Solved};
use crate::fs::{CopyOptions, Owner, Root, copy};
use crate::job::JobInner;
use crate::ops::image;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Snapshot, Store};
use crate::view::View;

/// Files beyond this are copied in pieces of this size.
const LARGE: usize = 256 << 10;

/// One result and the directory it gets; no directory: it is alone at the top.
struct Part {
    dir: Option<String>,
    snapshot: Snapshot,
    statements: Statements,
}

async fn parts(
    job: &Arc<JobInner>,
    solved: &Solved,
    attrs: &BTreeMap<String, String>,
) -> Outcome<Vec<Part>> {
    let split = flag(attrs, "platform-split")?.unwrap_or(solved.map);
    // No layers are made here: those that are told are in the form that images have.
    let options = ImageOptions::parse(&BTreeMap::new(), &[], &solved.metadata, true)?;
    let mut parts = Vec::with_capacity(solved.images.len());
    for image in &solved.images {
        let id = match image.id.as_str() {
            "" => image.platform.to_string(),
            id => id.to_owned(),
        };
        let beside = (solved.map && !split).then(|| id.clone());
        let attested = attestation::told(job, &image.attested, &options).await?;
        parts.push(Part {
            dir: split.then(|| id.replace('/', "_")),
            snapshot: image.snapshot.clone(),
            statements: Statements::new(&attested, attrs, beside)?,
        });
    }
    Ok(parts)
}

pub async fn tar(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    attrs: &BTreeMap<String, String>,
    dest: &OutputTarget,
) -> Outcome<BTreeMap<String, String>> {
    let parts = parts(job, solved, attrs).await?;
    if parts.len() > 1 && parts.iter().any(|part| part.dir.is_none()) {
        return Err(Error::unknown(
            "a tar stream of several platforms needs platform-split=true",
        ));
    }
    let time = epoch(attrs, &solved.metadata)?;
    for part in &parts {
        image::ensure(job, &part.snapshot).await?;
    }
    let status = job.reports.status(vertex, "sending tarball", "");
    let (store, dest, cancel) = (job.store().clone(), dest.clone(), job.cancel().clone());
    let written = blocking(move || {
        write_to(&dest, &cancel, |out| {
            for part in &parts {
                write_part(&store, part, time, out)?;
            }
            out.write_all(&END).map_err(internal)
        })
    })
    .await?;
    status.done();
    if !written.said.is_empty() {
        job.reports.log(vertex, 1, written.said);
    }
    Ok(BTreeMap::new())
}

/// The entries of one result, below its directory, at the one time that was asked for.
fn write_part(store: &Store, part: &Part, time: Option<i64>, out: &mut dyn Write) -> Outcome<()> {
    let view = View::read_only(&store.lowers(&part.snapshot)).map_err(internal)?;
    let prefix = match &part.dir {
        None => Vec::new(),
        Some(dir) => format!("{dir}/").into_bytes(),
    };
    if !prefix.is_empty() {
        let mut header = Header::new(Kind::Directory, prefix.clone());
        header.mode = 0o755;
        header.mtime = time.unwrap_or(0);
        out.write_all(&header.encode()).map_err(internal)?;
    }
    let (reader, writer) = io::pipe().map_err(internal)?;
    std::thread::scope(|scope| {
        let walk = scope.spawn(|| diff(view.path(), &[], &DiffOptions::default(), writer));
        let copied = copy_entries(reader, &prefix, time, out);
        match walk.join() {
            // When the reading side gave up, its reason is the one to tell.
            Ok(Err(error)) if copied.is_ok() => Err(internal(error)),
            Ok(_) => copied,
            Err(_) => Err(Error::unknown("reading the result failed")),
        }
    })?;
    for (name, bytes) in part.statements.files(view.path())? {
        let mut header = Header::new(Kind::File, [&prefix, name.as_bytes()].concat());
        header.mode = statements::MODE;
        header.mtime = time.unwrap_or_else(now);
        header.size = bytes.len() as u64;
        for part in [&header.encode()[..], &bytes, padding(header.size)] {
            out.write_all(part).map_err(internal)?;
        }
    }
    Ok(())
}

/// Seconds since the epoch.
fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// Puts a statement beside exported files; whatever has its name is replaced, links are not followed.
fn write_statement(dest: &Path, name: &str, bytes: &[u8], time: Option<i64>) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(statements::MODE))
        .prefix(".gateway-")
        .tempfile_in(dest)?;
    file.write_all(bytes)?;
    if let Some(seconds) = time.and_then(|seconds| u64::try_from(seconds).ok()) {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.as_file().set_modified(time)?;
    }
    file.persist(dest.join(name))?;
    Ok(())
}

fn copy_entries(
    tar: impl Read,
    prefix: &[u8],
    time: Option<i64>,
    out: &mut dyn Write,
) -> Outcome<()> {
    let mut tar = TarReader::new(tar);
    while let Some(entry) = tar.next_entry().map_err(internal)? {
        let mut header = Header::new(entry.kind, [prefix, &entry.name].concat());
        header.link = match entry.kind {
            Kind::HardLink => [prefix, &entry.link].concat(),
            _ => entry.link,
        };
        (header.mode, header.uid, header.gid) = (entry.mode, entry.uid, entry.gid);
        (header.device, header.xattrs) = (entry.device, entry.xattrs);
        header.mtime = time.unwrap_or(entry.mtime.0);
        header.size = entry.size;
        out.write_all(&header.encode()).map_err(internal)?;
        match entry.size > LARGE as u64 {
            true => io::copy(&mut BufReader::with_capacity(LARGE, &mut tar), out),
            false => io::copy(&mut tar, out),
        }
        .map_err(internal)?;
        out.write_all(padding(entry.size)).map_err(internal)?;
    }
    // To the very end, or the other side finds a closed pipe.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(internal)?;
    Ok(())
}

/// What becomes of files that were at the destination before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Copy,
    Delete,
}

impl Mode {
    fn parse(attrs: &BTreeMap<String, String>) -> Outcome<Mode> {
        match attrs.get("mode").map(String::as_str) {
            None | Some("" | "copy") => Ok(Mode::Copy),
            Some("delete") => Ok(Mode::Delete),
            Some(other) => Err(Error::invalid(format!(
                "invalid mode {other:?} of the local exporter: copy and delete are known"
            ))),
        }
    }
}

/// Ends copying when the export ends first.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub async fn local(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    attrs: &BTreeMap<String, String>,
    dest: &Path,
) -> Outcome<BTreeMap<String, String>> {
    let mode = Mode::parse(attrs)?;
    let time = epoch(attrs, &solved.metadata)?;
    let parts = parts(job, solved, attrs).await?;
    let merged = parts.len() > 1 && parts.iter().any(|part| part.dir.is_none());
    if merged && mode == Mode::Delete {
        return Err(Error::invalid(
            "mode=delete of several platforms needs platform-split=true",
        ));
    }
    if merged {
        check_merged(job, solved).await?;
    }
    let dirs: Vec<String> = parts.iter().filter_map(|part| part.dir.clone()).collect();
    for (image, part) in solved.images.iter().zip(parts) {
        image::ensure(job, &part.snapshot).await?;
        let name = match part.dir {
            Some(_) => format!("copying files {}", image.id),
            None => "copying files".to_owned(),
        };
        let status = job.reports.status(vertex, name, "");
        let dest = part
            .dir
            .map_or_else(|| dest.to_owned(), |dir| dest.join(dir));
        let store = job.store().clone();
        let stop = Arc::new(AtomicBool::new(false));
        let guard = CancelOnDrop(stop.clone());
        let bytes = blocking(move || {
            let view = View::read_only(&store.lowers(&part.snapshot)).map_err(internal)?;
            let bytes = copy_tree(view.path(), &dest, time, mode, &stop)?;
            for (name, statement) in part.statements.files(view.path())? {
                write_statement(&dest, &name, &statement, time).map_err(|error| {
                    Error::unknown(format!("cannot write to {}: {error}", dest.display()))
                })?;
            }
            Ok(bytes)
        })
        .await?;
        drop(guard);
        status.done_with(bytes);
    }
    if mode == Mode::Delete && !dirs.is_empty() {
        let dest = dest.to_owned();
        blocking(move || {
            remove_where(&dest, |name| !dirs.iter().any(|dir| name == dir.as_str()))
                .map_err(|error| cannot_delete(&dest, &error))
        })
        .await?;
    }
    Ok(BTreeMap::new())
}

/// Hands the files to whoever asked for the build.
pub async fn client(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    attrs: &BTreeMap<String, String>,
    client: &Client,
) -> Outcome<BTreeMap<String, String>> {
    let mode = Mode::parse(attrs)?;
    let time = epoch(attrs, &solved.metadata)?;
    let parts = parts(job, solved, attrs).await?;
    let merged = parts.len() > 1 && parts.iter().any(|part| part.dir.is_none());
    if merged && mode == Mode::Delete {
        return Err(Error::invalid(
            "mode=delete of several platforms needs platform-split=true",
        ));
    }
    if merged {
        check_merged(job, solved).await?;
    }
    for part in &parts {
        image::ensure(job, &part.snapshot).await?;
    }
    let ids = solved.images.iter().map(|image| image.id.clone());
    // Others would be taken for what is to be removed.
    let combined = mode == Mode::Delete && parts.len() > 1;
    let mut groups: Vec<Vec<(String, Part)>> = Vec::new();
    for (id, part) in ids.zip(parts) {
        match groups.last_mut() {
            Some(group) if combined => group.push((id, part)),
            _ => groups.push(vec![(id, part)]),
        }
    }
    let sent = groups.into_iter().map(|group| {
        let name = match group.first() {
            Some((id, part)) if part.dir.is_some() && !combined => format!("copying files {id}"),
            _ => "copying files".to_owned(),
        };
        let status = job.reports.status(vertex, name.clone(), "");
        let (store, sink) = (job.store().clone(), client.0.clone());
        async move {
            let bytes = blocking(move || {
                let mut views = Vec::new();
                let mut trees = Vec::new();
                for (_, part) in group {
                    let view = View::read_only(&store.lowers(&part.snapshot)).map_err(internal)?;
                    trees.push(ClientTree {
                        name: name.clone(),
                        path: view.path().to_owned(),
                        dir: part.dir,
                        more: part.statements.files(view.path())?,
                        time,
                    });
                    views.push(view);
                }
                let sent = sink.files(trees, combined);
                drop(views);
                sent
            })
            .await?;
            status.done_with(bytes);
            Ok::<_, Error>(())
        }
    });
    futures_util::future::try_join_all(sent).await?;
    Ok(BTreeMap::new())
}

fn cannot_delete(dest: &Path, error: &io::Error) -> Error {
    Error::unknown(format!("cannot delete in {}: {error}", dest.display()))
}

/// Copies a tree; the files belong to whoever asked for them.
fn copy_tree(
    from: &Path,
    dest: &Path,
    time: Option<i64>,
    mode: Mode,
    stop: &AtomicBool,
) -> Outcome<u64> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::unknown(format!("cannot write to {}: {error}", dest.display()))
    };
    std::fs::create_dir_all(dest).map_err(|error| failed(&error))?;
    if mode == Mode::Delete {
        remove_others(from, dest).map_err(|error| cannot_delete(dest, &error))?;
    }
    let from = Root::open(from).map_err(internal)?;
    let to = Root::open(dest).map_err(|error| failed(&error))?;
    let options = CopyOptions {
        contents: true,
        replace: true,
        owner: Some(Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }),
        time: time.map(|seconds| i128::from(seconds) * 1_000_000_000),
        cancel: Some(stop),
        ..CopyOptions::default()
    };
    copy(&from, b"/", &to, b"/", &options)
        .map(|stats| stats.bytes)
        .map_err(|error| failed(&error))
}

/// No file of one result may be in the way of another's.
async fn check_merged(job: &Arc<JobInner>, solved: &Solved) -> Outcome<()> {
    let mut owners: HashMap<PathBuf, &str> = HashMap::new();
    for image in &solved.images {
        image::ensure(job, &image.snapshot).await?;
        let (store, snapshot) = (job.store().clone(), image.snapshot.clone());
        let paths = blocking(move || {
            let view = View::read_only(&store.lowers(&snapshot)).map_err(internal)?;
            files_of(view.path()).map_err(internal)
        })
        .await?;
        for path in paths {
            if let Some(other) = owners.insert(path.clone(), &image.id) {
                return Err(Error::unknown(format!(
                    "cannot overwrite {} from {other} with {} when split option is disabled",
                    path.display(),
                    image.id
                )));
            }
        }
    }
    Ok(())
}

/// Everything but directories, relative to the top.
fn files_of(top: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut levels = vec![PathBuf::new()];
    while let Some(level) = levels.pop() {
        for entry in std::fs::read_dir(top.join(&level))? {
            let entry = entry?;
            let path = level.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true => levels.push(path),
                false => files.push(path),
            }
        }
    }
    Ok(files)
}

/// Removes from `dest` what `wanted` does not have. Links are never followed.
fn remove_others(wanted: &Path, dest: &Path) -> io::Result<()> {
    let mut levels: Vec<(PathBuf, PathBuf)> = vec![(wanted.to_owned(), dest.to_owned())];
    while let Some((wanted, dest)) = levels.pop() {
        let here = |name: &std::ffi::OsStr| std::fs::symlink_metadata(wanted.join(name));
        remove_where(&dest, |name| here(name).is_err())?;
        for entry in std::fs::read_dir(&dest)? {
            let entry = entry?;
            let both = entry.file_type()?.is_dir()
                && here(&entry.file_name()).is_ok_and(|metadata| metadata.is_dir());
            if both {
                levels.push((wanted.join(entry.file_name()), entry.path()));
            }
        }
    }
    Ok(())
}

fn remove_where(dir: &Path, unwanted: impl Fn(&std::ffi::OsStr) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if unwanted(&entry.file_name()) {
            match entry.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(entry.path())?,
                false => std::fs::remove_file(entry.path())?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_keeps_what_is_wanted_and_never_follows_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["wanted/both", "dest/both", "dest/gone/deep", "outside"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for name in [
            "wanted/both/kept",
            "dest/both/kept",
            "dest/both/old",
            "outside/file",
        ] {
            std::fs::write(path(name), "").unwrap();
        }
        std::os::unix::fs::symlink("../outside", path("dest/link")).unwrap();
        std::fs::create_dir(path("wanted/link")).unwrap();
        remove_others(&path("wanted"), &path("dest")).unwrap();
        assert!(path("dest/both/kept").exists());
        assert!(!path("dest/both/old").exists());
        assert!(!path("dest/gone").exists());
        assert!(path("outside/file").exists());
    }

    #[test]
    fn an_unknown_mode_is_refused_by_name() {
        let attrs = BTreeMap::from([("mode".to_owned(), "move".to_owned())]);
        let error = Mode::parse(&attrs).err().unwrap();
        assert!(error.message.contains("move"), "{}", error.message);
    }
}
