//! The blob store: content-addressed files in a directory, `blobs/sha256/<hex>`, shared by any number of processes.
//!
//! A blob appears by one rename of a complete file, so a reader never sees a part of one, whoever is killed when.
//! Nothing is synced here: what a power cut may lose is the business of the caller, who knows which blobs matter.

mod follow;
mod lease;
pub mod range_lock;
mod writer;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

pub use follow::Follower;
pub use lease::{Claim, Collector, Lease};
pub(crate) use writer::PIECE;
pub use writer::{Blob, BlobWriter};

use crate::digest::Digest;

/// Large enough that reading costs little beside hashing.
const CHECK_BUFFER: usize = 256 << 10;

/// An unfinished file younger than this is never swept: its writer may be between creating and locking it.
const MIN_SWEEP_AGE: Duration = Duration::from_secs(60);

/// The beginning of a blob is kept so long for somebody who goes on with it.
const PART_SWEEP_AGE: Duration = Duration::from_secs(24 * 3600);

/// The extension of a file with the beginning of a blob.
const PART: &str = "part";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("blob {digest}: not found")]
    NotFound { digest: Digest },
    #[error("unexpected commit digest {actual}, expected {expected}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("unexpected commit size {actual}, expected {expected}")]
    SizeMismatch { expected: u64, actual: u64 },
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        digest: Digest,
        size: u64,
        limit: u64,
    },
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| StoreError::Io {
            action,
            path,
            source,
        }
    }
}

/// A handle on a blob directory. Cheap to clone; holds no file open.
#[derive(Clone, Debug)]
pub struct BlobStore {
    root: PathBuf,
    /// Holds every blob that is touched through this handle.
    lease: Option<Arc<Lease>>,
}

/// The name under which a blob is held.
pub fn lease_name(digest: &Digest) -> String {
    format!("blob {digest}")
}

impl BlobStore {
    /// Opens the store at `root`, making its directories where they are missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = BlobStore {
            root: root.into(),
            lease: None,
        };
        for dir in [store.blobs(), store.ingest()] {
            fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        }
        Ok(store)
    }

    /// The same store through a handle that keeps every blob it touches from being collected.
    pub fn leased(&self, lease: Arc<Lease>) -> BlobStore {
        BlobStore {
            root: self.root.clone(),
            lease: Some(lease),
        }
    }

    /// Keeps a blob that is here or will be.
    fn hold(&self, digest: &Digest) -> io::Result<()> {
        match &self.lease {
            Some(lease) => lease.hold(&lease_name(digest)).map(drop),
            None => Ok(()),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// Where the beginning of a blob is that somebody may go on with.
    fn part(&self, digest: &Digest) -> PathBuf {
        self.ingest().join(digest.hex()).with_extension(PART)
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub fn contains(&self, digest: &Digest) -> bool {
        // One that cannot be kept may be gone in the next moment.
        self.hold(digest).is_ok() && self.path(digest).is_file()
    }

    /// Size in bytes of a blob that is here.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.path(digest);
        self.hold(digest).map_err(StoreError::io("hold", &path))?;
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("stat", &path)(e)),
        }
    }

    /// Opens a blob for reading. The open file stays good when the blob is removed meanwhile.
    pub fn reader(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        self.hold(digest).map_err(StoreError::io("hold", &path))?;
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound {
                digest: digest.clone(),
            },
            _ => StoreError::io("open", &path)(e),
        })
    }

    /// Reads a whole blob of at most `limit` bytes: manifests and configs, not layers.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let file = self.reader(digest)?;
        let size = file
            .metadata()
            .map_err(StoreError::io("stat", &path))?
            .len();
        if size > limit {
            return Err(StoreError::TooLarge {
                digest: digest.clone(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", &path))?;
        Ok(bytes)
    }

    /// Starts a new blob. It becomes visible by one of the writer's `commit` calls and vanishes when dropped.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        BlobWriter::create(self.clone())
    }

    /// Goes on with a blob where an earlier writer [left](BlobWriter::leave) it or was killed, from the first byte where
    /// none did; what is there is read to hash it. Whether it was right shows when the whole is committed. An ordinary
    /// writer where another has the beginning in hand.
    pub fn resume(&self, digest: &Digest, size: u64) -> Result<BlobWriter, StoreError> {
        match BlobWriter::resume(self, digest, size)? {
            Some(writer) => Ok(writer),
            None => self.writer(),
        }
    }

    /// Stores `bytes` and gives their digest. Costs no write when they are here already.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.size(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        io::Write::write_all(&mut writer, bytes)
            .map_err(StoreError::io("write", &self.path(&digest)))?;
        writer.commit().map(|blob| blob.digest)
    }

    /// Whether the blob is what its name says; reads all of it. `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn check(&self, digest: &Digest) -> Result<Option<bool>, StoreError> {
        let path = self.path(digest);
        let mut file = match self.reader(digest) {
            Ok(file) => file,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHECK_BUFFER];
        loop {
            match file
                .read(&mut buffer)
                .map_err(StoreError::io("read", &path))?
            {
                0 => break,
                read => hasher.update(buffer.get(..read).unwrap_or_default()),
            }
        }
        Ok(Some(Digest::from_hasher(hasher) == *digest))
    }

    /// Removes a blob; true if it was there.
    pub fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StoreError::io("remove", &path)(e)),
        }
    }

    /// The digests of all blobs, in no order. Names that are no digests are passed over.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let dir = self.blobs();
        let mut digests = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let name = entry.map_err(StoreError::io("list", &dir))?.file_name();
            if let Ok(hex) = std::str::from_utf8(name.as_bytes())
                && let Ok(digest) = format!("sha256:{hex}").parse()
            {
                digests.push(digest);
            }
        }
        Ok(digests)
    }

    /// Removes what killed writers left in `ingest/` and gives the number of files removed.
    ///
    /// A living writer holds a lock on its file, and the kernel frees it at any kind of death: a file whose
    /// lock is free and that is older than a minute has no writer. The beginning of a blob is kept for a day.
    pub fn sweep(&self) -> Result<usize, StoreError> {
        let dir = self.ingest();
        let mut swept = 0;
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let path = entry.map_err(StoreError::io("list", &dir))?.path();
            let Ok(file) = File::open(&path) else {
                continue; // its writer finished meanwhile
            };
            let modified = file
                .metadata()
                .and_then(|m| m.modified())
                .map_err(StoreError::io("stat", &path))?;
            // A time as far in the future is of another clock, not of a file just made.
            let age = match modified.elapsed() {
                Ok(age) => age,
                Err(ahead) => ahead.duration(),
            };
            let least = match path.extension() {
                Some(extension) if extension == PART => PART_SWEEP_AGE,
                _ => MIN_SWEEP_AGE,
            };
            if age >= least
                && writer::try_lock(&file).map_err(StoreError::io("lock", &path))?
                && fs::remove_file(&path).is_ok()
            {
                swept += 1;
            }
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_blob_is_found_under_the_digest_of_what_was_written() {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"hello ").unwrap();
        writer.write_all(b"world").unwrap();
        let blob = writer.commit().unwrap();
        assert_eq!(blob.digest, Digest::of(b"hello world"));
        assert_eq!(blob.size, 11);
        assert_eq!(store.read(&blob.digest, 100).unwrap(), b"hello world");
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&blob.digest));
        assert!(store.remove(&blob.digest).unwrap());
        assert!(!store.remove(&blob.digest).unwrap());
        assert!(matches!(
            store.reader(&blob.digest),
            Err(StoreError::NotFound { .. })
        ));
    }

    #[test]
    fn a_wrong_digest_or_size_leaves_nothing_behind() {
        let (_dir, store) = store();
        let expected = Digest::of(b"something else");
        let mut writer = store.writer().unwrap();
        writer.write_all(b"hello").unwrap();
        assert!(matches!(
            writer.commit_as(&expected, 5),
            Err(StoreError::DigestMismatch { .. })
        ));
        let mut writer = store.writer().unwrap();
        writer.write_all(b"hello").unwrap();
        assert!(matches!(
            writer.commit_as(&Digest::of(b"hello"), 6),
            Err(StoreError::SizeMismatch { .. })
        ));
        assert!(store.list().unwrap().is_empty());
        assert_eq!(fs::read_dir(store.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn a_dropped_writer_leaves_nothing_behind() {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"half").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(store.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_with_other_bytes_than_its_name_says_is_found_out() {
        let (_dir, store) = store();
        let digest = store.put(b"whole").unwrap();
        assert_eq!(store.check(&digest).unwrap(), Some(true));
        fs::write(store.path(&digest), b"whale").unwrap();
        assert_eq!(store.check(&digest).unwrap(), Some(false));
        assert_eq!(store.check(&Digest::of(b"none")).unwrap(), None);
    }

    #[test]
    fn what_a_leased_handle_touched_cannot_be_claimed() {
        let (_dir, store) = store();
        let (seen, unseen) = (store.put(b"seen").unwrap(), store.put(b"unseen").unwrap());
        let leased = store.leased(Arc::new(Lease::new(store.root())));
        assert!(leased.contains(&seen));
        let made = leased.put(b"made").unwrap();
        let collector = Collector::open(store.root()).unwrap();
        let claims = |digest: &Digest| collector.claim(&lease_name(digest)).unwrap().is_some();
        assert!(!claims(&seen) && !claims(&made) && claims(&unseen));
        drop(leased);
        assert!(claims(&seen) && claims(&made));
    }

    #[test]
    fn a_short_file_under_the_name_of_a_blob_is_replaced() {
        let (_dir, store) = store();
        let digest = Digest::of(b"whole");
        fs::write(store.path(&digest), b"wh").unwrap();
        assert_eq!(store.put(b"whole").unwrap(), digest);
        assert_eq!(store.read(&digest, 10).unwrap(), b"whole");
    }

    #[test]
    fn sweeping_takes_old_unlocked_files_only() {
        let (_dir, store) = store();
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        let stale = store.ingest().join("stale");
        File::create(&stale).unwrap().set_modified(old).unwrap();
        let ahead = std::time::SystemTime::now() + Duration::from_secs(3600);
        let future = File::create(store.ingest().join("future")).unwrap();
        future.set_modified(ahead).unwrap();
        drop(future);
        File::create(store.ingest().join("fresh")).unwrap();
        let writer = store.writer().unwrap();
        for entry in fs::read_dir(store.ingest()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != "fresh" && path.file_name().unwrap() != "future" {
                let file = File::options().write(true).open(&path).unwrap();
                file.set_modified(old).unwrap();
            }
        }
        assert_eq!(store.sweep().unwrap(), 2);
        assert!(!stale.exists() && !store.ingest().join("future").exists());
        writer.commit().unwrap();
    }

    #[test]
    fn what_a_writer_left_is_gone_on_with_and_vouched_for_at_the_end() {
        let (_dir, store) = store();
        let (whole, digest) = (b"0123456789", Digest::of(b"0123456789"));
        let mut writer = store.resume(&digest, 10).unwrap();
        assert_eq!(writer.resumed(), 0);
        writer.write_all(&whole[..6]).unwrap();
        // Nobody else takes it meanwhile.
        assert_eq!(store.resume(&digest, 10).unwrap().resumed(), 0);
        writer.leave();
        assert!(!store.contains(&digest));
        let mut writer = store.resume(&digest, 10).unwrap();
        assert_eq!((writer.resumed(), writer.written()), (6, 6));
        let mut follower = writer.follow().unwrap();
        writer.write_all(&whole[6..]).unwrap();
        writer.commit_as(&digest, 10).unwrap();
        let mut read = Vec::new();
        follower.read_to_end(&mut read).unwrap();
        assert_eq!(read, whole);
        assert_eq!(store.read(&digest, 10).unwrap(), whole);
        // What is wrong, and what is longer than the blob, does not come back.
        fs::write(store.part(&digest), b"xxxxxx").unwrap();
        let mut writer = store.resume(&digest, 10).unwrap();
        writer.write_all(&whole[6..]).unwrap();
        assert!(writer.commit_as(&digest, 10).is_err());
        assert!(!store.part(&digest).exists());
        fs::write(store.part(&digest), b"more than ten bytes").unwrap();
        assert_eq!(store.resume(&digest, 10).unwrap().resumed(), 0);
    }

    #[test]
    fn the_beginning_of_a_blob_is_swept_after_a_day() {
        let (_dir, store) = store();
        for (hours, swept) in [(1, 0), (25, 1)] {
            let part = store.part(&Digest::of(b"x"));
            let age = Duration::from_secs(hours * 3600);
            let file = File::create(&part).unwrap();
            file.set_modified(std::time::SystemTime::now() - age)
                .unwrap();
            drop(file);
            assert_eq!((store.sweep().unwrap(), part.exists()), (swept, swept == 0));
        }
    }

    #[test]
    fn a_blob_over_the_limit_is_not_read() {
        let (_dir, store) = store();
        let digest = store.put(b"12345").unwrap();
        assert!(matches!(
            store.read(&digest, 4),
            Err(StoreError::TooLarge { size: 5, .. })
        ));
    }

    #[test]
    fn many_writers_of_one_blob_all_succeed() {
        let (_dir, store) = store();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut writer = store.writer().unwrap();
                    writer.write_all(&[7; 100_000]).unwrap();
                    writer.commit().unwrap();
                });
            }
        });
        assert_eq!(store.list().unwrap(), [Digest::of(&[7; 100_000])]);
    }
}
