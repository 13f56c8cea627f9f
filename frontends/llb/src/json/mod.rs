//! Ops as JSON, in the form that Go prints protobuf messages (names in camel case, 64-bit
//! numbers as text, enums by name): for the `convertllb` answer, error details and debugging.

mod names;
mod read;
mod write;

pub use read::{ReadError, read_op};
pub use write::{bytes, definition, location, metadata, op, source, source_info};
