//! Ops as JSON, in the form that Go prints protobuf messages (names in camel case, 64-bit
//! numbers as text, enums by name): for the `convertllb` answer, error details and debugging.
//! [`plain_op`] has another form, that of attestations.

mod form;
mod names;
mod op;
mod read;
mod write;

pub use op::{op, plain_op};
pub use read::{ReadError, read_op};
pub use write::{bytes, definition, embedded, location, metadata, source, source_info};
