//! The Gateway trait and its values.
