//! Limits of a bridge connection, the same on both sides.

/// Largest message, both ways; what BuildKit and its frontends take since 2023.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Largest header list, both ways. Error details travel in one trailer: with HTTP/2's usual 16 KiB
/// an error with a source file in it would be lost, or the connection with it.
pub const MAX_HEADER_LIST_BYTES: u32 = 16 << 20;

/// Details of one error before they are sent. Base64 grows them by a third, and a header list over
/// 16 MiB kills the peer's connection; what is left under this size always arrives.
pub const MAX_DETAIL_BYTES: usize = 8 << 20;

/// Flow control windows: a definition or a file of some MiB moves without waiting for round trips.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// How long a client waits for the first answer.
pub const PING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);
