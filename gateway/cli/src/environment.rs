//! The environment as a value, so that what reads it can be tested.

use std::collections::BTreeMap;

/// Names and values.
pub type Environment = BTreeMap<String, String>;
