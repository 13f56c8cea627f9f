//! Checks: the rules, which of them a file turns off, and the warnings they give.
