//! The threads of a large layer: one hashes the tar, some compress, one writes the blob in order.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use super::block::{self, Codec};
use super::{CompressOptions, Finished};
use crate::digest::Digest;
use crate::store::BlobWriter;

/// Threads that compress, at most: beyond this the reading of the tree is what takes the time.
const MAX_THREADS: usize = 64;

type Block = Arc<Buffer>;
type Packed = io::Result<Vec<u8>>;

/// A block's bytes. The room goes back to be filled again when hasher and compressor are done with it.
struct Buffer {
    bytes: Vec<u8>,
    home: SyncSender<Vec<u8>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // There is a place for each buffer; nobody waits for them at the end.
        let _ = self.home.try_send(std::mem::take(&mut self.bytes));
    }
}

struct Job {
    block: Block,
    done: SyncSender<Packed>,
}

/// What all blocks became.
pub(crate) struct Drained {
    pub blob: BlobWriter,
    /// Of the stream so far.
    pub hasher: Sha256,
    /// Bytes of the stream.
    pub size: u64,
    /// Bytes of each block, compressed, in order.
    pub packed: Vec<u64>,
}

/// Takes the blocks of a stream in order.
pub(crate) struct Pipeline {
    size: u64,
    /// Buffers that may still be made; then one must come home.
    unmade: usize,
    home: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    block_size: usize,
    jobs: SyncSender<Job>,
    /// Where the compressed blocks will come from, in the order of the stream.
    pending: SyncSender<Receiver<Packed>>,
    to_hasher: SyncSender<Block>,
    hasher: JoinHandle<Sha256>,
    writer: JoinHandle<io::Result<(BlobWriter, Vec<u64>)>>,
}

impl Pipeline {
    pub fn start(blob: BlobWriter, options: &CompressOptions) -> io::Result<Self> {
        let most = block::most(options);
        let threads = options
            .threads
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
            .min(MAX_THREADS)
            .min(most - 1);
        let (to_hasher, blocks) = sync_channel::<Block>(threads);
        let hasher = spawn("layer-hash", move || {
            let mut hasher = Sha256::new();
            for block in blocks {
                hasher.update(&block.bytes);
            }
            hasher
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
                    // The writer is gone only when it failed.
                    let _ = job.done.send(codec.pack(&job.block.bytes));
                }
            })?;
        }
        // No more results than blocks wait for their turn.
        let (pending, ordered) = sync_channel::<Receiver<Packed>>(threads);
        // One for each thread, one that waits for the next of them to be free, and one that is filled.
        let buffers = (threads + 2).min(most);
        let (home, spare) = sync_channel(buffers);
        let writer = spawn("layer-write", move || write_blob(blob, &ordered))?;
        Ok(Pipeline {
            size: 0,
            // The first one is the caller's.
            unmade: buffers - 1,
            home,
            spare,
            block_size: block::size(options.compression),
            jobs,
            pending,
            to_hasher,
            hasher,
            writer,
        })
    }

    /// An empty buffer for the next block; waits until there is one.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = match self.spare.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if self.unmade > 0 => {
                self.unmade -= 1;
                Vec::with_capacity(self.block_size)
            }
            // All are under way, and this holds an end of the channel: one will come.
            Err(_) => self.spare.recv().unwrap_or_default(),
        };
        buffer.clear();
        buffer
    }

    /// Takes the next block; on an error the pipeline is over and the error tells why.
    pub fn send(mut self, block: Vec<u8>) -> io::Result<Self> {
        match self.submit(block) {
            Ok(()) => Ok(self),
            Err(e) => match self.writer.join() {
                Ok(Err(cause)) => Err(cause),
                _ => Err(e),
            },
        }
    }

    fn submit(&mut self, block: Vec<u8>) -> io::Result<()> {
        self.size += block.len() as u64;
        let block = Block::new(Buffer {
            bytes: block,
            home: self.home.clone(),
        });
        let (done, packed) = sync_channel(1);
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.to_hasher.send(block.clone()).map_err(|_| gone())?;
        self.jobs.send(Job { block, done }).map_err(|_| gone())?;
        self.pending.send(packed).map_err(|_| gone())
    }

    /// Takes the last block and waits for the rest.
    pub fn finish(self, block: Vec<u8>) -> io::Result<Finished> {
        let drained = self.drain(block)?;
        Ok(Finished {
            blob: drained.blob,
            diff_id: Some(Digest::from_hasher(drained.hasher)),
            size: drained.size,
        })
    }

    /// Takes the last block and waits for the rest; more may be written behind it.
    pub fn drain(mut self, block: Vec<u8>) -> io::Result<Drained> {
        let submitted = self.submit(block);
        drop((self.jobs, self.pending, self.to_hasher));
        let join = |_| io::Error::other("a compression thread panicked");
        // The writer's own error is the cause; a refused block only its effect.
        let (blob, packed) = self.writer.join().map_err(join)??;
        submitted?;
        Ok(Drained {
            blob,
            hasher: self.hasher.join().map_err(join)?,
            size: self.size,
            packed,
        })
    }
}

fn write_blob(
    mut blob: BlobWriter,
    ordered: &Receiver<Receiver<Packed>>,
) -> io::Result<(BlobWriter, Vec<u64>)> {
    let mut sizes = Vec::new();
    for packed in ordered {
        let packed = packed
            .recv()
            .map_err(|_| io::Error::other("a compression thread panicked"))??;
        blob.write_all(&packed)?;
        sizes.push(packed.len() as u64);
    }
    Ok((blob, sizes))
}

pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}
