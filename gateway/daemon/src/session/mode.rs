//! File modes on the wire are Go's, not the kernel's.

use rustix::fs::FileType;

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const CHARACTER: u32 = 1 << 21;
const SPECIAL: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

/// The type that a mode names; `None` for what no file has.
pub fn kind(mode: u32) -> Option<FileType> {
    Some(
        match mode & (DIR | SYMLINK | DEVICE | PIPE | SOCKET | CHARACTER) {
            0 => FileType::RegularFile,
            DIR => FileType::Directory,
            SYMLINK => FileType::Symlink,
            DEVICE => FileType::BlockDevice,
            PIPE => FileType::Fifo,
            bits if bits == DEVICE | CHARACTER => FileType::CharacterDevice,
            _ => return None,
        },
    )
}

/// Permissions with the set-id and sticky bits, as the kernel has them.
pub fn permissions(mode: u32) -> u32 {
    let special = SPECIAL.iter().filter(|(go, _)| mode & go != 0);
    (mode & 0o777) | special.map(|(_, unix)| unix).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p16_modes_of_go_are_those_of_the_kernel() {
        assert_eq!(kind(420), Some(FileType::RegularFile));
        assert_eq!(kind(0x8000_01ED), Some(FileType::Directory));
        assert_eq!(kind(0x0800_01FF), Some(FileType::Symlink));
        assert_eq!(
            kind(1 << 26 | 1 << 21 | 0o600),
            Some(FileType::CharacterDevice)
        );
        assert_eq!(kind(DIR | SYMLINK), None);
        assert_eq!(permissions(0x8000_01ED), 0o755);
        assert_eq!(permissions(1 << 23 | 1 << 20 | 0o711), 0o5711);
    }
}
