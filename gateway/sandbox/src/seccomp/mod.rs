//! The system call filter of a confined payload: which calls, and the program
//! the kernel runs for each of them.

mod filter;
mod rules;

pub(crate) use filter::compile;
pub(crate) use rules::{Policy, Rule, by_name as rules_by_name};
