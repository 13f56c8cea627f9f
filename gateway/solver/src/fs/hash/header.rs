//! The hash of one file: the header fields of Docker's old "tarsum", then the content.

use std::io::Read;

use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};

use crate::fs::meta::{Meta, Xattrs, is_portable_xattr};

/// What of a file enters its hash, besides its content. Neither name nor times do.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub meta: &'a Meta,
    /// A symbolic link's text.
    pub target: Option<&'a [u8]>,
    pub xattrs: &'a Xattrs,
    /// Device numbers: known of a local source's files; of others the reference hashes 0
    /// (its test for device files is never true there).
    pub device: (u32, u32),
}

impl Header<'_> {
    /// A hasher that has read the header.
    pub(super) fn hasher(&self) -> Sha256 {
        let kind = self.meta.kind();
        let (flag, size) = match kind {
            FileType::Directory => ('5', 0),
            FileType::Symlink => ('2', 0),
            FileType::CharacterDevice => ('3', 0),
            FileType::BlockDevice => ('4', 0),
            FileType::Fifo => ('6', 0),
            // A socket counts as the empty file that stands for it in an image.
            _ => ('0', self.meta.size),
        };
        let mode = match kind {
            FileType::Symlink => 0o777,
            _ => self.meta.permissions(),
        };
        let mut hasher = Sha256::new();
        hasher.update(format!(
            "namemode{mode}uid{}gid{}size{size}typeflag{flag}linkname",
            self.meta.uid, self.meta.gid,
        ));
        hasher.update(self.target.unwrap_or_default());
        let (major, minor) = self.device;
        hasher.update(format!("unamegnamedevmajor{major}devminor{minor}"));
        for (name, value) in self
            .xattrs
            .iter()
            .filter(|(name, _)| is_portable_xattr(name))
        {
            hasher.update(name);
            hasher.update(value);
        }
        hasher
    }
}

/// Feeds everything of `content` to a hasher; gives the number of bytes.
pub(super) fn feed(
    hasher: &mut Sha256,
    mut content: impl Read,
    buffer: &mut [u8],
) -> std::io::Result<u64> {
    let mut total = 0;
    loop {
        match content.read(buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                hasher.update(buffer.get(..n).unwrap_or_default());
                total += n as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::digest::ContentDigest;

    fn meta(mode: u32, size: u64, id: u32) -> Meta {
        Meta {
            mode,
            uid: id,
            gid: id,
            size,
            mtime: 7,
            atime: 7,
            ctime: 7,
            dev: 1,
            ino: 1,
            nlink: 1,
            rdev: 0,
        }
    }

    fn hash(meta: &Meta, target: Option<&str>, xattrs: &Xattrs, device: (u32, u32)) -> String {
        let header = Header {
            meta,
            target: target.map(str::as_bytes),
            xattrs,
            device,
        };
        let mut hasher = header.hasher();
        if meta.is_file() {
            feed(&mut hasher, &b"hi"[..], &mut [0; 16]).expect("reads");
        }
        hex::encode(ContentDigest::finish(hasher).0)
    }

    /// The digests are those that BuildKit's own function gives.
    #[test]
    fn headers_hash_as_in_buildkit() {
        let none = Xattrs::new();
        let table = [
            (
                0o100_644,
                0,
                "2422d1ec0ede58ebcfa1e7b9501ef1db829240321133847e10cf75103b0212c2",
            ),
            (
                0o100_755,
                1000,
                "edaa55c435e9fd2cf453de83f7f429200ebcc736b03c8502013295ef531611f3",
            ),
            (
                0o104_755,
                0,
                "374f3dae098af20b26abd0b2a3d67191eee45cf7ccb0a979318402d83fba685d",
            ),
            (
                0o040_755,
                0,
                "1a2805521573cb10d73bcd51d16bfa84c8f461d68599740e35484b90b2ab1bab",
            ),
            (
                0o041_777,
                0,
                "97c4203289526b493abab35496a5c819ad951b69f08fd1950a003a2957d1d91d",
            ),
            (
                0o010_644,
                0,
                "ed66acfbb9d93c08ed7faab2b6c0e2201a312df9abcbd94a761a1ea7f345dad5",
            ),
        ];
        for (mode, id, want) in table {
            let size = if mode & 0o170_000 == 0o100_000 {
                2
            } else {
                4096
            };
            assert_eq!(
                hash(&meta(mode, size, id), None, &none, (0, 0)),
                want,
                "{mode:o}"
            );
        }
        let link = hash(&meta(0o120_777, 6, 0), Some("target"), &none, (0, 0));
        assert_eq!(
            link,
            "a2ba571981f48ec34eb79c9a3ab091b6491e825c2f7e9914ea86e8e958be7fae"
        );
        let device = hash(&meta(0o020_644, 0, 0), None, &none, (1, 3));
        assert_eq!(
            device,
            "618323d36da3a544fa35c7093508b73ed896bd8b2d24fbbfec7aaab0e281342a"
        );
    }

    #[test]
    fn labels_of_the_host_are_left_out() {
        let xattrs: Xattrs = [
            ("user.a", "1"),
            ("user.b", "2"),
            ("trusted.t", "t"),
            ("security.capability", "cap"),
            ("security.selinux", "label"),
            ("system.posix_acl_access", "acl"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        assert_eq!(
            hash(&meta(0o100_644, 2, 0), None, &xattrs, (0, 0)),
            "712904a4f3615d6613d9339e8ef5dd9653f71ac5fd678bdbad4b4537b2a849ae"
        );
    }
}
