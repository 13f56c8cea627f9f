//! A copy of a large directory of the client as the one before it with what was edited since.
//!
//! The result is a layer of two directories: the changes, and below them the whole copy that was
//! made first. Their merged view is what a whole copy would be, entry for entry. Whatever cannot
//! be said so (another kind of file, a path that the copy below hides and that must come back, a
//! large part that changed) is copied as a whole again, and is then what the next ones start from.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gateway_llb::pb;
use gateway_llb::pb::file_action::Action;
use rustix::fs::{AtFlags, FileType, Mode};

use super::{live, owner_inputs};
use crate::fs::actions::copy_options;
use crate::fs::meta::{Meta, XattrsOf, is_overlay_mark};
use crate::fs::root::{self, Owner};
use crate::fs::{FsError, Root, Visible, copy_seeing, gopath, owner, walk};
use crate::key::digest_of;
use crate::store::{
    CopiedEntries, CopiedEntry, CopyRecord, LocalFiles, Snapshot, Store, WorkDir, derived_id,
};
use crate::view::View;

/// With fewer files and fewer bytes a whole copy costs less than keeping a record.
const FEWEST_FILES: usize = 100;
const FEWEST_BYTES: u64 = 16 << 20;
/// Of the files, or of the bytes, one in so many may differ before the whole is copied again.
const PART: u64 = 4;

/// An op that copies one directory of the client, whole.
pub(super) struct DirectoryCopy<'a> {
    action: &'a pb::FileActionCopy,
    pub(super) base: Snapshot,
    pub(super) source: Snapshot,
    pub(super) files: Arc<LocalFiles>,
    /// Names what was asked, whatever the files hold.
    key: String,
}

/// A copy with changes that is not committed yet.
pub(super) struct Derived {
    pub(super) work: WorkDir,
    pub(super) id: String,
}

impl<'a> DirectoryCopy<'a> {
    /// The op as such a copy, if it is one.
    pub(super) fn of(op: &'a pb::FileOp, inputs: &[Snapshot]) -> Option<Self> {
        let [action] = op.actions.as_slice() else {
            return None;
        };
        let Some(Action::Copy(copy)) = &action.action else {
            return None;
        };
        let plain = copy.dir_copy_contents
            && copy.include_patterns.is_empty()
            && copy.exclude_patterns.is_empty()
            && !copy.always_replace_existing_dest_paths
            && !copy.src.contains(['*', '?', '[', '\\']);
        let (user, group) = owner_inputs(action);
        let own_names = [user, group]
            .into_iter()
            .flatten()
            .all(|input| input == action.input);
        let input = |index: i64| inputs.get(usize::try_from(index).ok()?).cloned();
        let base = match action.input {
            -1 => Snapshot::scratch(),
            index => input(index)?,
        };
        let source = input(action.secondary_input)?;
        let files = live(&source)?;
        if !plain || !own_names || base.is_local() {
            return None;
        }
        let asked = format!("{op:?}\n{:?}\n{:?}", files.dir, files.filter);
        Some(DirectoryCopy {
            action: copy,
            key: digest_of(format!("{asked}\n{}", base.ids().join("\n")).as_bytes()),
            base,
            source,
            files,
        })
    }

    fn base_view(&self, store: &Store) -> std::io::Result<View> {
        View::read_only(&store.lowers(&self.base))
    }

    fn resolved_source(&self, from: &Root) -> Result<Vec<u8>, FsError> {
        let source = gopath::clean_keeping_tail(self.action.src.as_bytes());
        match self.action.follow_symlink {
            true => from.resolve(&source),
            false => from.resolve_parent(&source),
        }
    }

    /// Keeps what a finished whole copy was made of. `began` is the time in nanoseconds before any
    /// file was read.
    pub(super) fn record(&self, store: &Store, visible: &Visible, layer: &str, began: i128) {
        let record = (|| {
            let from = Root::open(&self.files.dir).ok()?;
            let source = self.resolved_source(&from).ok()?;
            let mut entries = CopiedEntries::default();
            let mut extent = Extent::default();
            let mut shared = SharedInodes::default();
            below(visible, &source, &mut |path, meta| {
                shared.see(meta);
                extent.add(meta);
                entries.push(&CopiedEntry {
                    path,
                    meta: *meta,
                    settled: walk::settled_at(meta.ctime, meta.mtime) <= began,
                });
            });
            if !extent.is_large() || shared.found {
                return None;
            }
            let view = self.base_view(store).ok()?;
            let base = Root::open(view.path()).ok()?;
            let chown = self.action.owner.as_ref();
            Some(CopyRecord {
                layer: layer.to_owned(),
                source,
                dest: base
                    .resolve(&gopath::clean(&gopath::absolute(
                        self.action.dest.as_bytes(),
                    )))
                    .ok()?,
                owner: owner::resolve(chown, Some(&base), Some(&base)).ok()?,
                entries,
            })
        })();
        if let Some(record) = record {
            store.copies().keep(&self.key, &record);
        }
    }

    /// Makes the copy from an earlier one; `None` when it has to be made whole.
    ///
    /// # Errors
    /// Only that a file changed meanwhile: the whole copy tells about everything else.
    pub(super) fn derive(
        &self,
        store: &Store,
        visible: &Visible,
        cancel: &AtomicBool,
    ) -> Result<Option<Derived>, FsError> {
        let record = store.copies().find(&self.key);
        let Some(record) = record.filter(|record| store.has_layer(&record.layer)) else {
            return Ok(None);
        };
        match self.changes(store, visible, &record, cancel) {
            Ok(derived) => Ok(derived),
            Err(Stop::Changed(error)) => Err(error),
            Err(Stop::Whole) => Ok(None),
        }
    }

    fn changes(
        &self,
        store: &Store,
        visible: &Visible,
        record: &CopyRecord,
        cancel: &AtomicBool,
    ) -> Result<Option<Derived>, Stop> {
        let from = Root::open(&self.files.dir)?;
        if self.resolved_source(&from)? != record.source || !visible.has(&record.source) {
            return Ok(None);
        }
        let Some(edits) = Edits::between(record, visible) else {
            return Ok(None);
        };
        let view = self.base_view(store)?;
        let base = Root::open(view.path())?;
        let whole = Root::open(&store.layer_dir(&record.layer))?;
        if !edits.are_plain(record, &base, &whole)? {
            return Ok(None);
        }
        let work = store.work_dir()?;
        let to = Root::open(&work.sub("fs")?)?;
        let parents = clone_parents(&whole, &to, &record.dest)?;
        for path in &edits.whiteouts {
            let path = dest_path(record, path);
            to.mkdir_all(&gopath::dir(&path), 0o700, None, None)?;
            let (dir, name) = to.open_parent(&path)?;
            let (name, mode) = (OsStr::from_bytes(name), Mode::empty());
            rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, mode, 0)?;
        }
        let options = copy_options(self.action, record.owner, Some(cancel))?;
        let subset = visible.only(edits.touched.iter().map(Vec::as_slice));
        copy_seeing(
            &from,
            &record.source,
            &to,
            &record.dest,
            &options,
            Some(&subset),
        )?;
        // What was put into them changed their times.
        for (path, meta) in parents
            .iter()
            .rev()
            .filter(|(path, _)| *path != record.dest)
        {
            let (dir, name) = to.open_parent(path)?;
            root::set_times(dir.as_fd(), name, meta.atime, meta.mtime)?;
        }
        Ok(Some(Derived {
            work,
            id: derived_id(&record.layer),
        }))
    }
}

/// Why a copy cannot be derived.
enum Stop {
    /// A file is not what was hashed.
    Changed(FsError),
    /// Anything else; copying the whole tells what.
    Whole,
}

impl From<FsError> for Stop {
    fn from(error: FsError) -> Self {
        match error.is_changed() || matches!(error, FsError::Cancelled) {
            true => Stop::Changed(error),
            false => Stop::Whole,
        }
    }
}

impl From<std::io::Error> for Stop {
    fn from(_: std::io::Error) -> Self {
        Stop::Whole
    }
}

impl From<rustix::io::Errno> for Stop {
    fn from(_: rustix::io::Errno) -> Self {
        Stop::Whole
    }
}

/// What is below a resolved directory, without itself.
fn below(visible: &Visible, source: &[u8], visit: &mut dyn FnMut(&[u8], &Meta)) {
    let prefix = match source.strip_prefix(b"/").unwrap_or(source) {
        b"" => Vec::new(),
        path => [path, b"/"].concat(),
    };
    visible.each(&mut |path, meta| {
        if path.starts_with(&prefix) {
            visit(path, meta);
        }
    });
}

/// How much there is to copy.
#[derive(Default)]
struct Extent {
    /// Of all kinds.
    files: usize,
    /// What files hold.
    bytes: u64,
}

impl Extent {
    fn add(&mut self, meta: &Meta) {
        self.files += 1;
        if meta.is_file() {
            self.bytes = self.bytes.saturating_add(meta.size);
        }
    }

    fn is_large(&self) -> bool {
        self.files >= FEWEST_FILES || self.bytes >= FEWEST_BYTES
    }

    /// Whether it is so little of the whole that it is copied alone: few of many files, or few that are small beside
    /// the large ones.
    fn is_small_part_of(&self, whole: &Extent) -> bool {
        let part = |some: u64, all: u64| some <= all / PART;
        part(self.files as u64, whole.files as u64)
            || (self.files < FEWEST_FILES
                && whole.bytes >= FEWEST_BYTES
                && part(self.bytes, whole.bytes))
    }
}

/// Several names of one file must stay names of one file, which changes do not express.
#[derive(Default)]
struct SharedInodes {
    seen: HashSet<(u64, u64)>,
    found: bool,
}

impl SharedInodes {
    fn see(&mut self, meta: &Meta) {
        if meta.nlink > 1 && !meta.is_dir() {
            self.found |= !self.seen.insert((meta.dev, meta.ino));
        }
    }
}

/// The order of a walk: directories before what is in them, names in byte order.
fn in_walk(a: &[u8], b: &[u8]) -> Ordering {
    // No name holds a zero byte.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// What differs from a recorded copy, by path in the context.
#[derive(Default)]
struct Edits {
    /// New or changed.
    written: Vec<Vec<u8>>,
    added: Vec<Vec<u8>>,
    /// Gone, the outermost ones.
    whiteouts: Vec<Vec<u8>>,
    /// All that the changes hold: what is written, and the directories around it and what is gone.
    touched: BTreeSet<Vec<u8>>,
}

impl Edits {
    /// Both sides are in the order of a walk, so one pass finds what differs.
    fn between(record: &CopyRecord, visible: &Visible) -> Option<Self> {
        let mut whole = Extent::default();
        for entry in record.entries.iter() {
            whole.add(&entry.meta);
        }
        let mut changed = Extent::default();
        let mut edits = Edits::default();
        let mut gone: Vec<&[u8]> = Vec::new();
        let mut old = record.entries.iter().peekable();
        let mut shared = SharedInodes::default();
        let mut possible = true;
        below(visible, &record.source, &mut |path, meta| {
            if !possible {
                return;
            }
            while let Some(entry) = old.next_if(|e| in_walk(e.path, path) == Ordering::Less) {
                gone.push(entry.path);
                changed.files += 1;
            }
            shared.see(meta);
            match old.next_if(|entry| entry.path == path) {
                Some(entry) if entry.settled && entry.meta.is_still(meta) => {}
                Some(entry) if entry.meta.kind() != meta.kind() => possible = false,
                known => {
                    if known.is_none() {
                        edits.added.push(path.to_vec());
                    }
                    edits.written.push(path.to_vec());
                    changed.add(meta);
                    possible = is_simple(meta);
                }
            }
            possible &= !shared.found && changed.is_small_part_of(&whole);
        });
        for entry in old {
            gone.push(entry.path);
            changed.files += 1;
        }
        if !possible || !changed.is_small_part_of(&whole) {
            return None;
        }
        let removed: HashSet<&[u8]> = gone.iter().copied().collect();
        let outermost = gone.iter().filter(|path| !removed.contains(parent(path)));
        edits.whiteouts = outermost.map(|path| path.to_vec()).collect();
        let mut touched = BTreeSet::new();
        for path in edits.written.iter().chain(&edits.whiteouts) {
            let mut at = parent(path);
            // The directories that lead to the source are there for the copy to start from it.
            while !at.is_empty() && touched.insert(at.to_vec()) {
                at = parent(at);
            }
        }
        let source = record.source.strip_prefix(b"/").unwrap_or(&record.source);
        touched.insert(source.to_vec());
        touched.extend(edits.written.iter().cloned());
        edits.touched = touched;
        Some(edits)
    }

    /// Whether the changes over the recorded copy show the same as a whole copy over its base.
    fn are_plain(&self, record: &CopyRecord, base: &Root, whole: &Root) -> Result<bool, Stop> {
        // What is gone must not be in the base, where it would show again; and what is new not
        // either, where the copy may be refused.
        for path in self.added.iter().chain(&self.whiteouts) {
            if base.lstat_if_exists(&dest_path(record, path))?.is_some() {
                return Ok(false);
            }
        }
        // A directory of the base keeps attributes that a new one would not have.
        for path in &self.touched {
            let path = dest_path(record, path);
            if let Some(meta) = whole.lstat_if_exists(&path)?
                && meta.is_dir()
                && base.lstat_if_exists(&path)?.is_some()
                && has_attributes(whole, &path)
            {
                return Ok(false);
            }
        }
        Ok(self.written.len() + self.whiteouts.len() > 0)
    }
}

fn is_simple(meta: &Meta) -> bool {
    meta.is_file() || meta.is_dir() || meta.is_symlink()
}

fn has_attributes(root: &Root, path: &[u8]) -> bool {
    XattrsOf::Path(&root.host_path(path))
        .read()
        .map_or(true, |xattrs| {
            xattrs.keys().any(|name| !is_overlay_mark(name))
        })
}

fn parent(path: &[u8]) -> &[u8] {
    let at = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    path.get(..at).unwrap_or_default()
}

/// Where a path of the context is in the layer.
fn dest_path(record: &CopyRecord, path: &[u8]) -> Vec<u8> {
    let source = record.source.strip_prefix(b"/").unwrap_or(&record.source);
    let below = path.strip_prefix(source).unwrap_or(path);
    gopath::join(&record.dest, below.strip_prefix(b"/").unwrap_or(below))
}

/// Makes the directories down to the destination as they are in the whole copy; gives them with
/// their stat, outermost first.
fn clone_parents(whole: &Root, to: &Root, dest: &[u8]) -> Result<Vec<(Vec<u8>, Meta)>, Stop> {
    let mut paths = vec![b"/".to_vec()];
    for name in gopath::components(dest) {
        let path = gopath::join(paths.last().map_or(b"/", Vec::as_slice), name);
        paths.push(path);
    }
    let mut made = Vec::with_capacity(paths.len());
    for path in paths {
        let meta = whole.lstat(&path)?;
        if !meta.is_dir() {
            return Err(Stop::Whole);
        }
        let (dir, name) = to.open_parent(&path)?;
        if path != b"/" {
            root::make_dir(dir.as_fd(), name, 0o700)?;
        }
        let owner = Owner {
            uid: meta.uid,
            gid: meta.gid,
        };
        root::chown(dir.as_fd(), name, owner)?;
        let mode = Mode::from_raw_mode(meta.permissions());
        rustix::fs::chmodat(&dir, OsStr::from_bytes(name), mode, AtFlags::empty())?;
        let xattrs = XattrsOf::Path(&whole.host_path(&path)).read()?;
        XattrsOf::Path(&to.host_path(&path)).set(&xattrs);
        made.push((path, meta));
    }
    Ok(made)
}
