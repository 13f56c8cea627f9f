//! The connections that the service is spoken over: HTTP/2 over the two pipes of a frontend's stdin
//! and stdout, or over a socket with clients that are frontends themselves.

pub mod activity;
mod answers;
pub mod authority;
pub mod fault;
mod meter;
pub mod reader;
pub mod serve;
pub mod socket;
mod writer;

pub use activity::Activity;
pub(crate) use answers::Answers;
pub use fault::Observed;
pub use meter::Meter;
pub use reader::FrontendReader;
pub use serve::{Http2Limits, routes, serve, serve_http2, serve_http2_until};
pub use socket::serve_socket;
