//! Platforms: parsing, normalising and choosing among them.
