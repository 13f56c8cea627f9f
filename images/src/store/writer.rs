//! One blob on its way into the store: hashed while it is written, renamed into place when complete.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempPath};

use super::follow::{Follower, Lead};
use super::{BlobStore, PART, StoreError};
use crate::digest::Digest;
use crate::fail_point::fail_point;
use crate::write_back;

/// Bytes that are written at once. For larger pieces the kernel wants larger runs of free memory, and moves other pages
/// about to get them when the file cache fills the memory: up to half as long again as the writing itself.
pub(crate) const PIECE: usize = 128 << 10;

/// What a finished writer stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// Takes the bytes of one blob. Nothing is visible in the store before a `commit`.
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    file: NamedTempFile,
    hasher: Sha256,
    written: u64,
    /// Bytes of an earlier writer that this one goes on from.
    resumed: u64,
    /// Whoever reads along.
    lead: Option<Lead>,
}

/// Attempts at a part whose writer ends at this moment.
const MAX_PART_RACES: usize = 4;

/// Takes the exclusive lock that marks a file as being written; false if another holds it.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The path names this file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

impl BlobWriter {
    pub(super) fn create(store: BlobStore) -> Result<Self, StoreError> {
        let dir = store.ingest();
        let file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&dir)
            .map_err(StoreError::io("create a file in", &dir))?;
        try_lock(file.as_file()).map_err(StoreError::io("lock", file.path()))?;
        Ok(BlobWriter {
            store,
            file,
            hasher: Sha256::new(),
            written: 0,
            resumed: 0,
            lead: None,
        })
    }

    /// Goes on with what an earlier writer of the blob left. `None` while another has it.
    pub(super) fn resume(
        store: &BlobStore,
        digest: &Digest,
        size: u64,
    ) -> Result<Option<Self>, StoreError> {
        let path = store.part(digest);
        for _ in 0..MAX_PART_RACES {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(StoreError::io("open", &path))?;
            if !try_lock(&file).map_err(StoreError::io("lock", &path))? {
                return Ok(None);
            }
            // Until the lock was had, its writer may have made it the blob.
            if !is_at(&file, &path) {
                continue;
            }
            let failed = |error| StoreError::io("read", &path)(error);
            file.set_permissions(Permissions::from_mode(0o644))
                .map_err(failed)?;
            if file.metadata().map_err(failed)?.len() > size {
                file.set_len(0).map_err(failed)?;
            }
            let place = TempPath::try_from_path(&path).map_err(failed)?;
            let mut file = NamedTempFile::from_parts(file, place);
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; super::CHECK_BUFFER];
            let mut resumed = 0;
            loop {
                match file.as_file_mut().read(&mut buffer).map_err(failed)? {
                    0 => break,
                    read => {
                        hasher.update(&buffer[..read]);
                        resumed += read as u64;
                    }
                }
            }
            return Ok(Some(BlobWriter {
                store: store.clone(),
                file,
                hasher,
                written: resumed,
                resumed,
                lead: None,
            }));
        }
        Ok(None)
    }

    /// Bytes that were here before: nobody has vouched for them yet.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Ends without a blob. What was written stays for [`BlobStore::resume`], where it came from there.
    pub fn leave(self) {
        if self.file.path().extension() == Some(OsStr::new(PART)) {
            // A file that cannot be kept is gone, as after any other end.
            let _ = self.file.keep();
        }
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// A reader of the bytes from the first on, while they are written.
    pub fn follow(&mut self) -> io::Result<Follower> {
        let file = self.file.as_file().try_clone()?;
        let lead = self.lead.get_or_insert_with(|| Lead::new(self.written));
        Ok(lead.follow(file))
    }

    /// Makes the blob visible under the digest of what was written.
    pub fn commit(self) -> Result<Blob, StoreError> {
        let blob = Blob {
            digest: Digest::from_hasher(self.hasher),
            size: self.written,
        };
        let path = self.store.path(&blob.digest);
        self.store
            .hold(&blob.digest)
            .map_err(StoreError::io("hold", &path))?;
        // An equal blob may be open in a reader; leave it. One of another size was cut by a power failure.
        if !fs::metadata(&path).is_ok_and(|m| m.len() == blob.size) {
            fail_point("blob-complete");
            self.file
                .persist(&path)
                .map_err(|e| StoreError::io("rename into place", &path)(e.error))?;
            fail_point("blob-in-place");
        }
        if let Some(lead) = self.lead {
            lead.committed();
        }
        Ok(blob)
    }

    /// Like `commit`, but only if the bytes are what was expected; the size is looked at first.
    pub fn commit_as(self, digest: &Digest, size: u64) -> Result<Blob, StoreError> {
        if self.written != size {
            return Err(StoreError::SizeMismatch {
                expected: size,
                actual: self.written,
            });
        }
        let actual = Digest::from_hasher(self.hasher.clone());
        if actual != *digest {
            return Err(StoreError::DigestMismatch {
                expected: digest.clone(),
                actual,
            });
        }
        self.commit()
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE)];
        let n = self.file.as_file_mut().write(bytes)?;
        self.hasher.update(&bytes[..n]);
        let before = self.written / write_back::PORTION;
        self.written += n as u64;
        let portions = self.written / write_back::PORTION;
        if portions > before {
            let length = (portions - before) * write_back::PORTION;
            write_back::begin(self.file.as_file(), before * write_back::PORTION, length);
        }
        if let Some(lead) = &self.lead {
            lead.moved(self.written);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
