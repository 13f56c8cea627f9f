//! Whole-program tests against real servers and clients.
