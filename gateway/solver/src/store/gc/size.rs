//! Bytes that a directory takes on the disk.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `st_blocks` counts these whatever the file system's own blocks are.
const BLOCK: u64 = 512;

/// The blocks of all files and directories below and of the directory itself, a file of several names
/// once. What goes away meanwhile is not counted.
pub fn of(dir: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut linked: HashSet<(u64, u64)> = HashSet::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.nlink() > 1
            && !metadata.is_dir()
            && !linked.insert((metadata.dev(), metadata.ino()))
        {
            continue;
        }
        bytes = bytes.saturating_add(metadata.blocks().saturating_mul(BLOCK));
        if metadata.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            waiting.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_second_names_are_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        let empty = of(dir.path());
        std::fs::write(sub.join("a"), vec![1; 100_000]).unwrap();
        let one = of(dir.path());
        assert!((100_000..120_000).contains(&(one - empty)));
        std::fs::hard_link(sub.join("a"), dir.path().join("b")).unwrap();
        let hole = std::fs::File::create(sub.join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        assert_eq!(of(dir.path()), one);
        assert_eq!(of(&dir.path().join("none")), 0);
    }
}
