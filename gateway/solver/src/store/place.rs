//! Where a store can be: file systems whose locks and shared memory work between processes.

use std::path::Path;

use crate::error::SolverError;

/// File systems of other machines, by the numbers that statfs(2) gives. Locks on them are unreliable or
/// slow, the metadata's shared memory does not work across machines, and overlayfs takes none as upper.
const NETWORK: [(u32, &str); 12] = [
    (0x0000_6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0000_517b, "SMB"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x786f_4256, "a folder shared by VirtualBox"),
];

/// Refuses a network file system.
pub fn check(root: &Path) -> Result<(), SolverError> {
    // What cannot be asked is not refused: opening fails with a better word for it.
    let Ok(found) = rustix::fs::statfs(root) else {
        return Ok(());
    };
    match network(found.f_type) {
        None => Ok(()),
        Some(kind) => Err(SolverError::NetworkFileSystem {
            root: root.to_owned(),
            kind,
        }),
    }
}

/// The field is signed on some machines, and wider than the number on most.
fn network(kind: impl TryInto<i64>) -> Option<&'static str> {
    let bits = kind.try_into().ok()? as u32;
    NETWORK
        .iter()
        .find(|(number, _)| *number == bits)
        .map(|(_, name)| *name)
}

/// Size and free space of the file system of a directory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total: u64,
    /// Also what is kept back for root.
    pub free: u64,
}

impl DiskSpace {
    /// # Errors
    /// When the directory is not there.
    pub fn of(dir: &Path) -> std::io::Result<DiskSpace> {
        let found = rustix::fs::statvfs(dir)?;
        Ok(DiskSpace {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bfree.saturating_mul(found.f_frsize),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_however_wide_their_number_is() {
        assert_eq!(network(0x6969_i64), Some("NFS"));
        assert_eq!(network(0xff53_4d42_i64), Some("CIFS"));
        assert_eq!(network(0xff53_4d42_u32.cast_signed()), Some("CIFS"));
        // ext4, tmpfs
        assert_eq!(network(0xef53_i64), None);
        assert_eq!(network(0x0102_1994_i64), None);
        assert!(check(Path::new("/proc")).is_ok());
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let error = SolverError::NetworkFileSystem {
            root: "/mnt/share".into(),
            kind: "NFS",
        };
        let text = error.to_string();
        assert!(text.contains("/mnt/share") && text.contains("NFS") && text.contains("--root"));
    }
}
