//! What a power cut may have taken.
//!
//! Nothing is synced while a build runs: a rename may reach the disk before the bytes of what was
//! renamed. So everything is marked after a sync that covered it: a layer in its row, a blob by being
//! read-only. The store knows the boot it was last used in; the first to open it after another boot
//! drops layers without the mark and reads blobs without it again. Work lost so is only done again.
//!
//! No clock is asked: one that jumps would make torn layers look synced.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use gateway_images::fail_point::fail_point;
use gateway_images::store::BlobStore;
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::db::Db;
use super::{layer_id, layer_name};
use crate::error::SolverError;

const BOOT: &str = "boot";
/// Of a blob whose bytes are on the disk.
const DURABLE: u32 = 0o444;
const WRITE_BITS: u32 = 0o222;

/// Drops what may be torn, and remembers the boot.
pub fn recover(root: &Path, db: &Db, blobs: &BlobStore, boot: &str) -> Result<(), SolverError> {
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
    // Without any boot the metadata may itself be what was lost; in a new store there is nothing to drop.
    let durable = db.durable_layers()?;
    drop_entries(&root.join("layers"), |name| {
        durable.contains(&layer_id(name.strip_suffix(".opaque").unwrap_or(name)))
    });
    fail_point("recover-layers-dropped");
    // Their own check tells a torn file, but not that a file of the client was torn.
    drop_entries(&root.join("hashes"), |_| false);
    for (digest, path) in doubtful_blobs(blobs) {
        if blobs.check(&digest).ok().flatten() != Some(true) {
            let _ = std::fs::remove_file(path);
        }
    }
    fail_point("recover-before-boot");
    db.set_state(BOOT, boot)
}

/// Whether layers were made that no sync has covered, by a process that ended too early for it.
pub fn is_behind(db: &Db) -> Result<bool, SolverError> {
    db.has_doubtful_layers()
}

fn doubtful_blobs(blobs: &BlobStore) -> Vec<(gateway_images::digest::Digest, PathBuf)> {
    let listed = blobs.list().unwrap_or_default();
    let with_path = listed.into_iter().map(|digest| {
        let path = blobs.path(&digest);
        (digest, path)
    });
    with_path
        .filter(|(_, path)| {
            std::fs::symlink_metadata(path)
                .is_ok_and(|metadata| metadata.permissions().mode() & WRITE_BITS != 0)
        })
        .collect()
}

/// Removes what `keeps` does not want, by name.
fn drop_entries(dir: &Path, keeps: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(&keeps) {
            continue;
        }
        let path = entry.path();
        // What cannot be removed now is found by nobody only if its name is gone too; a failure
        // leaves it for the next start.
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
    }
}

/// Brings all that is in the store to the disk, and marks it. Takes as long as the disk needs.
pub fn sync(root: &Path, db: &Db, blobs: &BlobStore) -> Result<(), SolverError> {
    let io = |errno: rustix::io::Errno| SolverError::Io {
        root: root.to_owned(),
        source: errno.into(),
    };
    // What comes later is covered by the next one, also when it comes in the place of one of these.
    let state = |id: &str| {
        let path = root.join("layers").join(layer_name(id));
        let metadata = std::fs::symlink_metadata(path).ok()?;
        Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
    };
    let layers: Vec<_> = db
        .doubtful_layers()?
        .into_iter()
        .filter_map(|id| state(&id).map(|before| (id, before)))
        .collect();
    let new_blobs: Vec<std::fs::File> = doubtful_blobs(blobs)
        .into_iter()
        .filter_map(|(_, path)| std::fs::File::open(path).ok())
        .collect();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty()).map_err(io)?;
    rustix::fs::syncfs(&dir).map_err(io)?;
    fail_point("synced");
    for blob in new_blobs {
        let _ = blob.set_permissions(std::fs::Permissions::from_mode(DURABLE));
    }
    let same: Vec<String> = layers
        .into_iter()
        .filter(|(id, before)| state(id).as_ref() == Some(before))
        .map(|(id, _)| id)
        .collect();
    // Before the marks: who is ended here does it all again.
    db.empty_log();
    db.mark_durable(&same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LayerRecord;

    fn layer(root: &Path, db: &Db, id: &str, created_at: i64) {
        std::fs::create_dir_all(root.join("layers").join(id).join("d")).unwrap();
        db.add_layer(&LayerRecord {
            id: id.into(),
            created_at,
            ..LayerRecord::default()
        })
        .unwrap();
    }

    #[test]
    fn after_another_boot_only_what_was_synced_is_left_whatever_the_clock_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join("locks")).unwrap();
        let db = Db::open(root).unwrap();
        let blobs = BlobStore::open(root).unwrap();
        recover(root, &db, &blobs, "first").unwrap();
        // As when the metadata is lost with all that it knew.
        std::fs::create_dir_all(root.join("layers/of-no-boot")).unwrap();
        let fresh = tempfile::tempdir().unwrap();
        let empty = Db::open(fresh.path()).unwrap();
        recover(root, &empty, &blobs, "first").unwrap();
        assert!(!root.join("layers/of-no-boot").exists());
        // From a clock far ahead, then from one far behind.
        layer(root, &db, "synced", 9_999_999_999);
        let kept = blobs.put(b"synced").unwrap();
        assert!(is_behind(&db).unwrap());
        sync(root, &db, &blobs).unwrap();
        assert!(!is_behind(&db).unwrap());
        layer(root, &db, "unsynced", 1);
        std::fs::write(root.join("layers/unsynced.opaque"), "").unwrap();
        std::fs::create_dir(root.join("layers/without-row")).unwrap();
        let whole = blobs.put(b"unsynced").unwrap();
        let torn = blobs.put(b"torn").unwrap();
        std::fs::write(blobs.path(&torn), [0; 4]).unwrap();
        recover(root, &db, &blobs, "first").unwrap();
        assert!(root.join("layers/unsynced").exists());
        recover(root, &db, &blobs, "second").unwrap();
        let left: Vec<_> = std::fs::read_dir(root.join("layers"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["synced"]);
        assert!(blobs.contains(&kept) && blobs.contains(&whole));
        assert!(!blobs.contains(&torn));
    }
}
