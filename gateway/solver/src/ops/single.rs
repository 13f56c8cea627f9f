//! A layer that is one file at its root: what downloads and blobs become.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use gateway_api::Error;

use crate::job::JobInner;
use crate::shared::Outcome;
use crate::solve::internal;
use crate::store::LayerRecord;

/// Permission bits of a file for which none were asked.
const DEFAULT_PERM: u32 = 0o600;

/// What the file is to look like; its attributes as sources give them.
pub struct SingleFile<'a> {
    pub name: &'a str,
    /// 0: the default.
    pub perm: i64,
    pub uid: i64,
    pub gid: i64,
    /// Since 1970.
    pub modified: Duration,
    /// Of the layer, for usage lists.
    pub description: String,
    pub kind: &'a str,
}

impl SingleFile<'_> {
    /// Makes `dir`, which holds the file, the layer `id`.
    pub fn commit(&self, job: &JobInner, dir: &Path, id: &str) -> Outcome<()> {
        let path = dir.join(self.name);
        let io = |error: std::io::Error| internal(format!("{}: {error}", self.description));
        let owner = |name: &str, value: i64| {
            u32::try_from(value)
                .map_err(|_| Error::unknown(format!("{name} {value} is no id of a user or group")))
        };
        if self.uid != 0 || self.gid != 0 {
            let (uid, gid) = (owner("http.uid", self.uid)?, owner("http.gid", self.gid)?);
            chown(&path, Some(uid), Some(gid)).map_err(io)?;
        }
        let perm = match self.perm {
            0 => DEFAULT_PERM,
            given => u32::try_from(given & 0o777).unwrap_or(DEFAULT_PERM),
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(perm)).map_err(io)?;
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH + self.modified))
            .map_err(io)?;
        let store = job.store();
        store
            .add_layer(&LayerRecord {
                id: id.to_owned(),
                base: Vec::new(),
                description: self.description.clone(),
                created_at: time::OffsetDateTime::now_utc().unix_timestamp(),
                opaque_root: false,
                kind: self.kind.to_owned(),
            })
            .map_err(internal)?;
        store.commit_layer(dir, id).map_err(io)
    }
}
