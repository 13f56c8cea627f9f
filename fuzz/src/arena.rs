//! A scratch directory whose neighbours are watched: unpackers may write below `inside` only.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// `inside` is made anew for every input; `outside` must stay as it was.
pub struct Arena {
    root: TempDir,
    before: Vec<Seen>,
}

/// One path below `outside`, as much of it as a write could change.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Arena {
    /// Makes the directory and what must not change in it.
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let outside = root.path().join("outside");
        fs::create_dir_all(outside.join("dir")).expect("made");
        fs::write(outside.join("file"), "untouched").expect("written");
        fs::write(outside.join("dir/below"), "untouched").expect("written");
        symlink("file", outside.join("link")).expect("linked");
        let mut before = Vec::new();
        look(&outside, &mut before);
        Arena { root, before }
    }

    /// An empty directory to work in, gone with the next call.
    pub fn inside(&self) -> PathBuf {
        let inside = self.root.path().join("inside");
        clear(&inside);
        fs::create_dir(&inside).expect("made");
        inside
    }

    /// What must not change: names of it belong into generated paths and links.
    pub fn outside(&self) -> PathBuf {
        self.root.path().join("outside")
    }

    /// # Panics
    /// When something beside `inside` is not as it was.
    pub fn check(&self) {
        let mut now = Vec::new();
        look(&self.outside(), &mut now);
        assert_eq!(now, self.before, "something outside was changed");
        let mut names: Vec<_> = fs::read_dir(self.root.path())
            .expect("listed")
            .map(|entry| entry.expect("listed").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["inside", "outside"], "something outside was made");
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

fn look(path: &Path, seen: &mut Vec<Seen>) {
    let meta = fs::symlink_metadata(path).expect("still there");
    let content = if meta.is_symlink() {
        let target = fs::read_link(path).expect("read");
        target.into_os_string().into_encoded_bytes()
    } else if meta.is_file() {
        fs::read(path).expect("read")
    } else {
        Vec::new()
    };
    seen.push(Seen {
        path: path.to_owned(),
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        changed: (meta.ctime(), meta.ctime_nsec()),
        content,
    });
    if meta.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path)
            .expect("listed")
            .map(|entry| entry.expect("listed").path())
            .collect();
        names.sort();
        for name in names {
            look(&name, seen);
        }
    }
}

/// Removes a tree whose directories may forbid it.
fn clear(path: &Path) {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(_) => {
            open_up(path);
            fs::remove_dir_all(path).expect("removed");
        }
    }
}

fn open_up(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            open_up(&entry.path());
        }
    }
}
