//! What a client asks for that receives a directory: it gets each file once, and no more than there is.

use gateway_daemon::fuzzing;

thread_local! {
    static FILES: tempfile::TempDir = files();
}

fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("dir")).expect("made");
    std::fs::write(dir.path().join("dir/file"), "content").expect("written");
    std::fs::write(dir.path().join("empty"), "").expect("written");
    std::os::unix::fs::symlink("dir/file", dir.path().join("link")).expect("linked");
    dir
}

/// Five entries and the end of the list; the bytes of two files and the ends of three; the end.
const MOST: usize = 6 + 5 + 1;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    FILES.with(|files| {
        if let Ok(sent) = fuzzing::send(bytes, files.path()) {
            assert!(sent <= MOST, "{sent} packets");
        }
    });
}
