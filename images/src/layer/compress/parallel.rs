//! The threads of a large layer: one hashes the tar, some compress, one writes the blob in order.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::Crc;
use sha2::{Digest as _, Sha256};

use super::block::{Codec, Frame, Packed};
use super::{CompressOptions, Finished};
use crate::digest::Digest;
use crate::store::BlobWriter;

/// Threads that compress, at most: beyond this the reading of the tree is what takes the time.
const MAX_THREADS: usize = 64;

type Block = Arc<Vec<u8>>;

struct Job {
    before: Block,
    block: Block,
    last: bool,
    done: SyncSender<io::Result<Packed>>,
}

/// Takes the blocks of a stream in order.
pub(super) struct Pipeline {
    before: Block,
    size: u64,
    jobs: SyncSender<Job>,
    /// Results in the order of the stream. Its bound is what limits the blocks in memory.
    results: SyncSender<Receiver<io::Result<Packed>>>,
    to_hasher: SyncSender<Block>,
    hasher: JoinHandle<Digest>,
    writer: JoinHandle<io::Result<BlobWriter>>,
}

impl Pipeline {
    pub fn start(blob: BlobWriter, options: &CompressOptions) -> io::Result<Self> {
        let threads = options
            .threads
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
            .min(MAX_THREADS);
        let (to_hasher, blocks) = sync_channel::<Block>(threads);
        let hasher = spawn("layer-hash", move || {
            let mut hasher = Sha256::new();
            for block in blocks {
                hasher.update(&block[..]);
            }
            Digest::from_hasher(hasher)
        })?;
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            let mut codec = Codec::new(options.compression, options.level)?;
            spawn("layer-compress", move || {
                loop {
                    // A poisoned lock means that another worker panicked while waiting; its queue is still good.
                    let job = queue.lock().unwrap_or_else(|e| e.into_inner()).recv();
                    let Ok(job) = job else { return };
                    let packed = codec.pack(&job.before, &job.block, job.last);
                    // The writer is gone only when it failed.
                    let _ = job.done.send(packed);
                }
            })?;
        }
        let frame = Frame::of(options.compression, options.level);
        let (results, ordered) = sync_channel::<Receiver<io::Result<Packed>>>(threads * 2);
        let writer = spawn("layer-write", move || write_blob(blob, &frame, &ordered))?;
        Ok(Pipeline {
            before: Block::default(),
            size: 0,
            jobs,
            results,
            to_hasher,
            hasher,
            writer,
        })
    }

    /// Takes the next block; on an error the pipeline is over and the error tells why.
    pub fn send(mut self, block: Vec<u8>) -> io::Result<Self> {
        match self.submit(block, false) {
            Ok(()) => Ok(self),
            Err(e) => match self.writer.join() {
                Ok(Err(cause)) => Err(cause),
                _ => Err(e),
            },
        }
    }

    fn submit(&mut self, block: Vec<u8>, last: bool) -> io::Result<()> {
        let block = Block::new(block);
        self.size += block.len() as u64;
        let (done, result) = sync_channel(1);
        let job = Job {
            before: std::mem::replace(&mut self.before, block.clone()),
            block: block.clone(),
            last,
            done,
        };
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to_hasher.send(block).map_err(|_| gone(()))?;
        self.jobs.send(job).map_err(|_| gone(()))?;
        self.results.send(result).map_err(|_| gone(()))
    }

    pub fn finish(mut self, block: Vec<u8>) -> io::Result<Finished> {
        let submitted = self.submit(block, true);
        drop((self.jobs, self.results, self.to_hasher));
        let join = |_| io::Error::other("a compression thread panicked");
        // The writer's own error is the cause; a refused block only its effect.
        let blob = self.writer.join().map_err(join)??;
        submitted?;
        Ok(Finished {
            blob,
            diff_id: self.hasher.join().map_err(join)?,
            size: self.size,
        })
    }
}

fn write_blob(
    mut blob: BlobWriter,
    frame: &Frame,
    ordered: &Receiver<Receiver<io::Result<Packed>>>,
) -> io::Result<BlobWriter> {
    blob.write_all(&frame.start())?;
    let mut check = Crc::new();
    for result in ordered {
        let packed = result
            .recv()
            .map_err(|_| io::Error::other("a compression thread panicked"))??;
        blob.write_all(&packed.bytes)?;
        check.combine(&packed.check);
    }
    blob.write_all(&frame.end(&check))?;
    Ok(blob)
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}
