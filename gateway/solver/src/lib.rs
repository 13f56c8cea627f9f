//! Graph scheduling, cache keys, ops, snapshots, mounts, sources, exporters.
