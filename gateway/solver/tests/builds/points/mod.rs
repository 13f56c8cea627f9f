//! The points by which a solver is compatible, where no other test shows them. docs/solver.md has
//! the whole list.

mod definitions;
mod exec;
mod files;
mod keys;
mod solver;
