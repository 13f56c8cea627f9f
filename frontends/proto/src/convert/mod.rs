//! Messages to the values of gateway-api and back. A message comes from outside: every part of it
//! may be missing, unknown numbers are kept or fall back to what the field means without them.

pub mod caps;
pub mod container;
pub mod definition;
pub mod files;
pub mod request;
pub mod result;
pub mod source;
