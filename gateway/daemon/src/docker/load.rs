//! `POST /images/load`: an archive of images into the store, as `docker buildx build --load` sends what
//! another builder made, and `docker load`.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use gateway_images::archive::{ArchiveLimits, Loaded, read_archive};
use gateway_images::layer::Decoder;
use gateway_images::reference::Reference;
use gateway_solver::Solver;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::build::failure;
use super::{Answer, messages};
use crate::session::{MAX_UPLOAD, SILENCE, Space, silent};
use crate::state::Daemon;

/// Pieces of the archive that wait for the disk.
const PIECES: usize = 16;
/// Messages that wait for the client.
const WAITING: usize = 16;

/// What a client sends, for a thread that reads it.
struct Body {
    pieces: mpsc::Receiver<Result<Bytes, String>>,
    current: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(Err(problem)) => return Err(io::Error::other(problem)),
                Some(Ok(piece)) => self.current = piece,
            }
        }
        let count = self.current.len().min(buffer.len());
        if let Some(part) = buffer.get_mut(..count) {
            self.current.copy_to_slice(part);
        }
        Ok(count)
    }
}

/// The archive as it goes to the disk: what is compressed may become very much there.
struct Watched<R> {
    archive: R,
    /// A directory of that disk.
    disk: std::fs::File,
    space: Space,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        self.space
            .take(&self.disk, count as u64)
            .map_err(io::Error::other)?;
        Ok(count)
    }
}

/// Whoever may build may load: names of images are everybody's here.
pub async fn load(daemon: Daemon, request: Request<Incoming>) -> Answer {
    let (send, sent) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let (pieces, arriving) = mpsc::channel(PIECES);
        let (solver, root) = (
            daemon.0.options.solver.clone(),
            daemon.0.options.root.clone(),
        );
        let reading = tokio::task::spawn_blocking(move || {
            let disk = std::fs::File::open(root)
                .map_err(|error| format!("the daemon's own files: {error}"))?;
            let body = Body {
                pieces: arriving,
                current: Bytes::new(),
            };
            let archive = Decoder::new(body).map_err(|error| error.to_string())?;
            let archive = Watched {
                archive,
                disk,
                space: Space::of_archive(),
            };
            store(&solver, archive)
        });
        carry(request.into_body(), pieces).await;
        let said = match reading.await {
            Ok(Ok(said)) => said,
            Ok(Err(problem)) => vec![failure(&format!("loading images: {problem}"))],
            Err(_) => vec![failure("loading images: internal failure")],
        };
        for message in said {
            if send.send(message).await.is_err() {
                return;
            }
        }
        daemon.collect();
    });
    messages(sent)
}

/// The body, until its end or until nobody wants it.
async fn carry(mut body: Incoming, pieces: mpsc::Sender<Result<Bytes, String>>) {
    loop {
        let piece = match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => Err(silent()),
            Ok(None) => return,
            Ok(Some(Err(error))) => Err(error.to_string()),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
        };
        let over = piece.is_err();
        if pieces.send(piece).await.is_err() || over {
            return;
        }
    }
}

fn store(solver: &Solver, archive: impl Read) -> Result<Vec<serde_json::Value>, String> {
    // What comes stays as long as this handle; then as long as an image has it.
    let blobs = solver.image_blobs();
    let limits = ArchiveLimits {
        bytes: MAX_UPLOAD,
        ..ArchiveLimits::default()
    };
    let images = read_archive(&blobs, archive, &limits).map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    for image in images {
        name(solver, &image, &mut said)?;
    }
    Ok(said)
}

/// Gives an image its names, and says so in the words of docker.
fn name(solver: &Solver, image: &Loaded, said: &mut Vec<serde_json::Value>) -> Result<(), String> {
    for name in &image.names {
        let reference = Reference::parse(name).map_err(|error| format!("{name}: {error}"))?;
        solver
            .name_image(&reference, &image.descriptor)
            .map_err(|error| error.message)?;
        let text = format!("Loaded image: {}\n", reference.familiar());
        said.push(serde_json::json!({"stream": text}));
    }
    if image.names.is_empty() {
        return Err(format!(
            "the image {} has no name, and nothing finds it in this store without one: give it one (--tag)",
            image.descriptor.digest
        ));
    }
    Ok(())
}
