//! What a power cut may have taken.
//!
//! Nothing is synced while a build runs: a rename may reach the disk before the bytes of what was
//! renamed. So the store knows the boot it was last used in and the time of its last sync; the
//! first to open it after another boot drops whatever is younger than that. Work lost so is only
//! done again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::db::Db;
use crate::error::SolverError;

const BOOT: &str = "boot";
const SYNCED: &str = "synced";

/// Drops what may be torn, and remembers the boot.
pub fn recover(root: &Path, db: &Db, boot: &str) -> Result<(), SolverError> {
    if db.state(BOOT)?.as_deref() == Some(boot) {
        return Ok(());
    }
    // Of several processes one drops, before any of them adds.
    let path = root.join("locks").join("boot");
    let lock = std::fs::File::create(&path).and_then(|file| {
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    });
    let _lock = lock.map_err(|source| SolverError::Io { root: path, source })?;
    let last = db.state(BOOT)?;
    if last.as_deref() == Some(boot) {
        return Ok(());
    }
    if last.is_some() {
        let synced: i64 = db
            .state(SYNCED)?
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        for dir in ["layers", "blobs/sha256", "hashes"] {
            drop_younger(&root.join(dir), synced);
        }
    }
    db.set_state(BOOT, boot)
}

/// Whether layers were made that no sync has covered, by a process that ended too early for it.
pub fn is_behind(db: &Db) -> Result<bool, SolverError> {
    let synced: i64 = db
        .state(SYNCED)?
        .and_then(|text| text.parse().ok())
        .unwrap_or_default();
    Ok(db.newest_layer()?.is_some_and(|newest| newest >= synced))
}

/// Files and directories whose inode changed at or after `synced` (seconds) go. A layer's
/// directory changes when it is renamed into place, so its own time tells.
fn drop_younger(dir: &Path, synced: i64) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.ctime() < synced {
            continue;
        }
        // What cannot be removed now is found by nobody only if its name is gone too; a failure
        // leaves it for the next start.
        let _ = match metadata.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
    }
}

/// Brings all that is in the store to the disk. Takes as long as the disk needs.
pub fn sync(root: &Path, db: &Db) -> Result<(), SolverError> {
    let began = time::OffsetDateTime::now_utc().unix_timestamp();
    let io = |errno: rustix::io::Errno| SolverError::Io {
        root: root.to_owned(),
        source: errno.into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty()).map_err(io)?;
    rustix::fs::syncfs(&dir).map_err(io)?;
    db.set_state(SYNCED, &began.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_another_boot_only_what_was_synced_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("layers/old")).unwrap();
        std::fs::create_dir(root.join("locks")).unwrap();
        let db = Db::open(root).unwrap();
        recover(root, &db, "first").unwrap();
        db.set_state(SYNCED, "9999999999").unwrap();
        recover(root, &db, "second").unwrap();
        assert!(root.join("layers/old").exists());
        sync(root, &db).unwrap();
        std::fs::create_dir_all(root.join("layers/new/d")).unwrap();
        recover(root, &db, "second").unwrap();
        assert!(root.join("layers/new").exists());
        recover(root, &db, "third").unwrap();
        assert!(!root.join("layers/new").exists());
    }
}
