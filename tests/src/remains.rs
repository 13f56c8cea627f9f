//! What a build leaves behind where it must leave nothing: mounts, processes, half-written files.

use std::path::Path;
use std::time::{Duration, Instant};

/// No mount and no process of this store. Half-written files may be there, for the next build to remove.
pub fn nothing_left_running(store: &Path) {
    let store = store.to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
    assert!(!mounts.contains(&store), "left mounted:\n{mounts}");
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = processes_of(&store);
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still running: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// No mount, process or half-written file of this store.
pub fn nothing_left_behind(store: &Path) {
    nothing_left_running(store);
    for dir in ["tmp", "ingest", "blobs/ingest"] {
        let Ok(entries) = std::fs::read_dir(store.join(dir)) else {
            continue;
        };
        let names: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        assert!(names.is_empty(), "left in {dir}: {names:?}");
    }
}

/// Command lines of processes that hold on to this store.
fn processes_of(store: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let is_pid = entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit());
        let read = |name: &str| {
            std::fs::read(entry.path().join(name))
                .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
                .unwrap_or_default()
        };
        if !is_pid || entry.file_name().to_string_lossy() == std::process::id().to_string() {
            continue;
        }
        let (command, mounts) = (read("cmdline"), read("mounts"));
        if command.contains(store) || mounts.contains(store) {
            found.push(command);
        }
    }
    found
}
