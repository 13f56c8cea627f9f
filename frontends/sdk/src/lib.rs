//! How a frontend is written: the stdio client of the Gateway trait, options, contexts, results.
