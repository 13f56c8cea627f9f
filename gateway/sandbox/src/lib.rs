//! Runs one process in a root file system: namespaces, mounts, limits, seccomp, stdio, signals.
