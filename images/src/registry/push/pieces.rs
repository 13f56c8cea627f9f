//! A blob in pieces, for registries behind front ends that limit a request's size.

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, Url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::upload::{refusal, with_digest};
use super::{SourceReader, Trouble, Upload};
use crate::media::Descriptor;

/// Pieces are made no smaller than this when they are refused by their size.
const LEAST_PIECE: u64 = 64 << 10;
/// A registry that wants larger pieces than this is not served: a piece is held in memory.
const LARGEST_PIECE: u64 = 64 << 20;
/// Times that the registry and we may be of different opinion about how far we are.
const MAX_DISAGREEMENTS: u32 = 3;

impl Upload<'_> {
    pub(super) async fn send_in_pieces(&self, blob: &Descriptor) -> Result<(), Trouble> {
        let mut piece = self.inner.config.limits.upload_chunk.max(LEAST_PIECE);
        loop {
            let (target, headers) = self.start().await?;
            let least = headers.get("oci-chunk-min-length");
            let least = least.and_then(|v| v.to_str().ok()?.trim().parse::<u64>().ok());
            piece = piece.max(least.unwrap_or(0)).min(LARGEST_PIECE);
            match self.pieces(blob, target, piece).await {
                Err(Outcome::TooLarge(trouble))
                    if piece / 4 >= LEAST_PIECE.max(least.unwrap_or(0)) =>
                {
                    drop(trouble);
                    piece /= 4;
                }
                Err(Outcome::TooLarge(trouble) | Outcome::Failed(trouble)) => return Err(trouble),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn pieces(&self, blob: &Descriptor, target: Url, piece: u64) -> Result<(), Outcome> {
        let mut target = target;
        let mut reader = self.open(blob).await?;
        let mut done = 0;
        let mut disagreements = 0;
        while done < blob.size {
            let length = piece.min(blob.size - done);
            let bytes = self.read(blob, &mut reader, length).await?;
            let mut headers = HeaderMap::new();
            let range = format!("{done}-{}", done + length - 1);
            if let Ok(value) = HeaderValue::from_str(&range) {
                headers.insert(CONTENT_RANGE, value);
            }
            let response = self
                .put(Method::PATCH, &target, length, bytes.into(), headers)
                .await?;
            let status = response.status().as_u16();
            // What some registries say in `Range` stands still although they keep all; it is not looked at here.
            if matches!(status, 200 | 201 | 202 | 204) {
                target = self.next(&target, &response)?;
                done += length;
                continue;
            }
            let error = refusal(response).await;
            let trouble = Trouble::Host {
                verb: "Patch",
                url: target.clone(),
                error: Box::new(error),
            };
            if status == 413 {
                self.abandon(&target).await;
                return Err(Outcome::TooLarge(trouble));
            }
            disagreements += 1;
            let kept = match status {
                416 if disagreements <= MAX_DISAGREEMENTS => self.progress(&target).await,
                _ => None,
            };
            match kept {
                Some((at, _)) if at == done && status == 416 => {
                    // We agree about the place, so it is the size that is refused.
                    self.abandon(&target).await;
                    return Err(Outcome::TooLarge(trouble));
                }
                Some((at, next)) if at <= blob.size => {
                    target = next;
                    done = at;
                    reader = self.open(blob).await?;
                    self.skip(blob, &mut reader, at).await?;
                }
                _ => {
                    self.abandon(&target).await;
                    return Err(Outcome::Failed(trouble));
                }
            }
        }
        let target = with_digest(target, &blob.digest, false);
        let response = self
            .put(
                Method::PUT,
                &target,
                0,
                Bytes::new().into(),
                HeaderMap::new(),
            )
            .await?;
        self.finished(blob, &target, response).await?;
        Ok(())
    }

    async fn read(
        &self,
        blob: &Descriptor,
        reader: &mut SourceReader,
        length: u64,
    ) -> Result<Bytes, Trouble> {
        let wrong = |error| Trouble::Source(blob.digest.clone(), error);
        let mut bytes = Vec::new();
        let read = reader.take(length).read_to_end(&mut bytes).await;
        match read.map_err(wrong)? as u64 == length {
            true => Ok(bytes.into()),
            false => Err(wrong(std::io::ErrorKind::UnexpectedEof.into())),
        }
    }

    async fn skip(
        &self,
        blob: &Descriptor,
        reader: &mut SourceReader,
        length: u64,
    ) -> Result<(), Trouble> {
        let mut nowhere = tokio::io::sink();
        let copied = tokio::io::copy(&mut reader.take(length), &mut nowhere).await;
        let flushed = nowhere.flush().await;
        copied
            .and(flushed)
            .map_err(|error| Trouble::Source(blob.digest.clone(), error))
    }

    /// Where the next piece goes.
    fn next(&self, target: &Url, response: &Response) -> Result<Url, Trouble> {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|v| v.to_str().ok());
        match location {
            None => Ok(target.clone()),
            Some(location) => self
                .location(target, location)
                .map_err(|error| Trouble::Host {
                    verb: "Patch",
                    url: target.clone(),
                    error: Box::new(error),
                }),
        }
    }

    /// How many bytes the registry says it has, and where to go on.
    async fn progress(&self, target: &Url) -> Option<(u64, Url)> {
        let empty = Bytes::new().into();
        let asked = self.put(Method::GET, target, 0, empty, HeaderMap::new());
        let response = asked.await.ok()?;
        if !matches!(response.status().as_u16(), 200 | 202 | 204) {
            return None;
        }
        let range = response.headers().get(RANGE)?.to_str().ok()?;
        let last = range.trim().trim_start_matches("bytes=").split_once('-')?.1;
        // Of an upload without a byte, both `0-0` and `0--1` are said; the first means one byte just as well.
        let kept = match last {
            "-1" => 0,
            last => last.parse::<u64>().ok()?.checked_add(1)?,
        };
        Some((kept, self.next(target, &response).ok()?))
    }

    /// Tells the registry that nothing more comes. What it says to that does not matter.
    async fn abandon(&self, target: &Url) {
        let empty = Bytes::new().into();
        let _ = self
            .put(Method::DELETE, target, 0, empty, HeaderMap::new())
            .await;
    }
}

enum Outcome {
    /// A piece was refused by its size.
    TooLarge(Trouble),
    Failed(Trouble),
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        Outcome::Failed(trouble)
    }
}
