//! Reads a frontend's stdout: checks that it speaks HTTP/2 at all and patches what old frontends
//! send (see [`super::authority`]). Sits between the pipe and the HTTP/2 library.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::authority::AuthorityPatch;
use super::fault::Observed;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much text and how long to wait for it before saying what a frontend printed instead of
/// HTTP/2: enough for a message, not a way to fill our memory.
const MAX_STRAY_TEXT_BYTES: usize = 4096;
const STRAY_TEXT_WAIT: Duration = Duration::from_millis(200);

enum State {
    /// Collecting the preface; nothing is passed on yet.
    Preface(Vec<u8>),
    /// The preface, or what there was of it at the end of the stream, from this offset on.
    Deliver {
        bytes: Vec<u8>,
        from: usize,
    },
    Frames(AuthorityPatch),
    /// Not HTTP/2: collecting what it is.
    Stray {
        text: Vec<u8>,
        until: Pin<Box<Sleep>>,
    },
    Failed,
}

/// The reading half of the connection with a frontend.
pub struct FrontendReader<R> {
    inner: R,
    state: State,
    observed: Arc<Observed>,
}

impl<R> FrontendReader<R> {
    pub fn new(inner: R, observed: Arc<Observed>) -> Self {
        FrontendReader {
            inner,
            state: State::Preface(Vec::new()),
            observed,
        }
    }

    fn failed(&mut self) -> io::Error {
        self.state = State::Failed;
        let text = self
            .observed
            .fault()
            .unwrap_or_else(|| "the connection has failed".to_owned());
        // Other kinds can come out of the HTTP/2 library as a clean end.
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for FrontendReader<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Preface(seen) => {
                    // Never past the preface: what follows belongs to the caller's buffer.
                    let mut space = [0; PREFACE.len()];
                    let missing = PREFACE.len() - seen.len();
                    let mut part = ReadBuf::new(space.get_mut(..missing).unwrap_or_default());
                    ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
                    let ended = part.filled().is_empty();
                    seen.extend_from_slice(part.filled());
                    let seen = std::mem::take(seen);
                    this.state = if !PREFACE.starts_with(&seen) {
                        State::Stray {
                            text: seen,
                            until: Box::pin(sleep_until(Instant::now() + STRAY_TEXT_WAIT)),
                        }
                    } else if seen.len() == PREFACE.len() {
                        this.observed.set_speaks_http2();
                        State::Deliver {
                            bytes: seen,
                            from: 0,
                        }
                    } else if ended {
                        State::Deliver {
                            bytes: seen,
                            from: 0,
                        }
                    } else {
                        State::Preface(seen)
                    };
                }
                State::Deliver { bytes, from } => {
                    let rest = bytes.get(*from..).unwrap_or_default();
                    let now = rest.len().min(out.remaining());
                    out.put_slice(rest.get(..now).unwrap_or_default());
                    *from += now;
                    if *from >= bytes.len() {
                        this.state = State::Frames(AuthorityPatch::default());
                    }
                    // At the end of the stream there may be nothing to deliver: the next read
                    // then tells the end.
                    if now > 0 || out.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Frames(patch) => {
                    let before = out.filled().len();
                    ready!(Pin::new(&mut this.inner).poll_read(cx, out))?;
                    this.observed.activity().touch();
                    patch.apply(out.filled_mut().get_mut(before..).unwrap_or_default());
                    this.observed
                        .set_frames(!patch.is_between_frames(), patch.has_patched());
                    return Poll::Ready(Ok(()));
                }
                State::Stray { text, until } => {
                    let mut space = [0; 512];
                    let mut part = ReadBuf::new(&mut space);
                    let more = match Pin::new(&mut this.inner).poll_read(cx, &mut part) {
                        Poll::Ready(Ok(())) => !part.filled().is_empty(),
                        Poll::Ready(Err(_)) => false,
                        Poll::Pending => {
                            ready!(until.as_mut().poll(cx));
                            false
                        }
                    };
                    text.extend_from_slice(part.filled());
                    if more && text.len() < MAX_STRAY_TEXT_BYTES {
                        continue;
                    }
                    text.truncate(MAX_STRAY_TEXT_BYTES);
                    this.observed.set_fault(format!(
                        "frontend did not start HTTP/2 on stdout; it wrote {:?}",
                        String::from_utf8_lossy(text)
                    ));
                    return Poll::Ready(Err(this.failed()));
                }
                State::Failed => return Poll::Ready(Err(this.failed())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn read_all(input: &[u8]) -> (io::Result<Vec<u8>>, Arc<Observed>) {
        let observed = Arc::new(Observed::default());
        let mut reader = FrontendReader::new(input, observed.clone());
        let mut out = Vec::new();
        let result = reader.read_to_end(&mut out).await.map(|_| out);
        (result, observed)
    }

    #[tokio::test]
    async fn p24_text_on_stdout_is_an_error_that_quotes_it() {
        let (result, observed) = read_all(b"hello from a script\nsecond line").await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            error.to_string(),
            "frontend did not start HTTP/2 on stdout; it wrote \"hello from a script\\nsecond line\""
        );
        assert_eq!(observed.fault().unwrap(), error.to_string());
    }

    #[tokio::test(start_paused = true)]
    async fn p24_text_without_an_end_is_reported_after_a_moment_and_stays_an_error() {
        let (mut writer, inner) = tokio::io::duplex(64);
        writer.write_all(b"PRI * hmm").await.unwrap();
        let mut reader = FrontendReader::new(inner, Arc::default());
        let mut out = [0; 10];
        let error = reader.read(&mut out).await.unwrap_err();
        assert!(error.to_string().contains("it wrote \"PRI * hmm\""));
        assert!(reader.read(&mut out).await.is_err());
        drop(writer);
    }

    #[tokio::test]
    async fn endless_text_is_cut() {
        let (_, observed) = read_all(&vec![b'x'; 100_000]).await;
        assert!(observed.fault().unwrap().len() < MAX_STRAY_TEXT_BYTES + 100);
    }

    #[tokio::test]
    async fn an_end_within_the_preface_is_an_end() {
        for length in [0, 1, 23] {
            let (result, observed) = read_all(&PREFACE[..length]).await;
            assert_eq!(result.unwrap(), PREFACE[..length]);
            assert!(observed.fault().is_none());
        }
    }

    #[tokio::test]
    async fn the_preface_passes_and_is_noted() {
        let mut input = PREFACE.to_vec();
        input.extend([0, 0, 2, 1, 4, 0, 0, 0, 1, 0x81, 0x81]);
        let (result, observed) = read_all(&input).await;
        observed.speaks_http2().await;
        let mut expected = input.clone();
        expected.truncate(PREFACE.len() + 9);
        expected.extend([0x91, 0x91]);
        assert_eq!(result.unwrap(), expected);
        assert!(observed.has_empty_authority() && !observed.is_torn());
    }

    #[tokio::test]
    async fn a_frame_without_its_end_is_noted() {
        let mut input = PREFACE.to_vec();
        input.extend(*b"done\n");
        let (_, observed) = read_all(&input).await;
        assert!(observed.is_torn() && !observed.has_empty_authority());
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_hang(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            let (result, _) = runtime.block_on(read_all(&bytes));
            prop_assert_eq!(result.is_ok(), PREFACE.starts_with(&bytes));
        }
    }
}
