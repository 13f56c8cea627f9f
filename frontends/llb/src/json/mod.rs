//! Ops as JSON, in the form that Go prints protobuf messages (names in camel case, 64-bit
//! numbers as text, enums by name): for the `convertllb` answer, error details and debugging.
//! [`plain_op`] has another form, that of attestations.

mod names;
mod plain;
mod read;
mod write;

pub use plain::plain_op;
pub use read::{ReadError, read_op};
pub use write::{bytes, definition, embedded, location, metadata, op, source, source_info};
