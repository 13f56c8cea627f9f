//! Hashing many files on all cores. Every worker has one buffer; nothing else grows with the
//! size of the files.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::header::{Header, feed};
use super::{ALWAYS, HashCache, StatKey};
use crate::fs::digest::ContentDigest;
use crate::fs::error::{FsError, lossy};
use crate::fs::meta::{Meta, Xattrs, XattrsOf};
use crate::fs::root::Root;

/// Read at a time from each file.
const BUFFER: usize = 256 * 1024;
/// Fewer files than this are not worth a second thread.
const PARALLEL_FROM: usize = 8;
/// Jobs that a worker takes at a time.
const BATCH: usize = 16;

/// Where files are read, and how.
pub(super) struct Reader<'a> {
    pub root: &'a Root,
    pub cache: Option<&'a dyn HashCache>,
    /// Workers at most.
    pub threads: usize,
    pub cancel: Option<&'a AtomicBool>,
    /// Nobody writes to the files.
    pub still: bool,
}

impl Reader<'_> {
    /// The digest of a file that was hashed before, by its stat.
    pub(super) fn known(&self, meta: &Meta) -> Option<ContentDigest> {
        let cache = self.cache.filter(|_| meta.is_file())?;
        cache.get(&StatKey::of(meta))
    }
}

/// One file to hash.
pub(super) struct Job<'a> {
    pub path: Vec<u8>,
    pub meta: Meta,
    pub target: Option<&'a [u8]>,
    /// Of a local source.
    pub local: bool,
}

/// Hashes `count` files, which the cache does not know; `job` says which. Digests come in the
/// order of the jobs.
pub(super) fn hash<'j>(
    reader: &Reader<'_>,
    count: usize,
    job: &(dyn Fn(usize) -> Job<'j> + Sync),
) -> Result<Vec<ContentDigest>, FsError> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![ContentDigest([0; 32]); count]);
    let work = || -> Result<(), FsError> {
        let mut buffer = Vec::new();
        let mut own = Vec::with_capacity(BATCH);
        loop {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            if from >= count {
                return Ok(());
            }
            own.clear();
            for i in from..count.min(from + BATCH) {
                if reader.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                    return Err(FsError::Cancelled);
                }
                own.push(one(reader, &job(i), &mut buffer)?);
            }
            if let Some(places) = lock(&done).get_mut(from..from + own.len()) {
                places.copy_from_slice(&own);
            }
        }
    };
    let threads = if count < PARALLEL_FROM {
        1
    } else {
        match reader.threads {
            // Asked for where it matters only: the answer takes some files to read.
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    };
    let result = if threads == 1 {
        work()
    } else {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            if result.is_err() {
                // The others find nothing more to do.
                next.store(count, Ordering::Relaxed);
            }
            for other in others {
                let theirs = other
                    .join()
                    .unwrap_or_else(|_| Err(FsError::Invalid("a hashing thread died".into())));
                result = result.and(theirs);
            }
            result
        })
    };
    result?;
    Ok(std::mem::take(&mut *lock(&done)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A list of finished digests is whole whatever happened to who held it.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn one(reader: &Reader<'_>, job: &Job<'_>, buffer: &mut Vec<u8>) -> Result<ContentDigest, FsError> {
    // Another name of it may have been hashed just now.
    if job.meta.nlink > 1
        && let Some(digest) = reader.known(&job.meta)
    {
        return Ok(digest);
    }
    let key = job.meta.is_file().then(|| StatKey::of(&job.meta));
    let host = reader.root.host_path(&job.path);
    let xattrs = XattrsOf::Path(&host).read().unwrap_or_default();
    let hasher = header(job, &xattrs);
    if !job.meta.is_file() || job.meta.size == 0 {
        return Ok(ContentDigest::finish(hasher));
    }
    let began = match reader.still {
        true => ALWAYS,
        false => time::OffsetDateTime::now_utc().unix_timestamp_nanos(),
    };
    let digest = content(reader, job, hasher, buffer)?;
    if let (Some(key), Some(cache)) = (key, reader.cache) {
        cache.put(key, digest, began);
    }
    Ok(digest)
}

fn header(job: &Job<'_>, xattrs: &Xattrs) -> sha2::Sha256 {
    let is_device = matches!(
        job.meta.kind(),
        rustix::fs::FileType::CharacterDevice | rustix::fs::FileType::BlockDevice
    );
    let header = Header {
        meta: &job.meta,
        target: job.target,
        xattrs,
        device: if job.local && is_device {
            job.meta.device()
        } else {
            (0, 0)
        },
    };
    header.hasher()
}

fn content(
    reader: &Reader<'_>,
    job: &Job<'_>,
    mut hasher: sha2::Sha256,
    buffer: &mut Vec<u8>,
) -> Result<ContentDigest, FsError> {
    let failed = |errno| {
        FsError::path("open", &job.path, errno)
            .context(format!("failed to open {}", lossy(&job.path)))
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let fd = reader
        .root
        .open_resolved(&job.path, flags, Mode::empty())
        .map_err(failed)?;
    if buffer.is_empty() {
        buffer.resize(BUFFER, 0);
    }
    let mut file = File::from(fd);
    let read = feed(&mut hasher, &mut file, buffer)
        .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    // The header has said how much there is; anything else is a hash of nothing that was.
    let after = Meta::of_fd(file.as_fd()).map_err(failed)?;
    if read != job.meta.size || after.mtime != job.meta.mtime {
        return Err(FsError::Changed(lossy(&job.path)));
    }
    Ok(ContentDigest::finish(hasher))
}
