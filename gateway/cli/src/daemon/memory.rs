//! Memory that builds took and nobody needs any more goes back to the machine: by itself the C library
//! keeps it for later, and hundreds of builds at once would be seen in the daemon for ever.

/// Gives back what is free.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: it takes a number and touches nothing but the allocator's own lists, under their locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
