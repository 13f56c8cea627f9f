//! The connection with a frontend: HTTP/2 over the two pipes of its stdin and stdout.

pub mod authority;
pub mod fault;
mod meter;
pub mod reader;
pub mod serve;
mod writer;

pub use fault::Observed;
pub use reader::FrontendReader;
pub use serve::serve;
