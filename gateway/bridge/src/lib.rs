//! Hosts a frontend: resolves and runs its image, serves LLBBridge over its stdio, forwards between frontends.
