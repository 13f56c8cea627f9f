//! Files of a ref.

use gateway_api::{FileRange, Stat};

use crate::{frontend, fsutil};

pub fn stat_to_wire(stat: Stat) -> fsutil::types::Stat {
    fsutil::types::Stat {
        path: stat.path,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mod_time: stat.mod_time,
        linkname: stat.linkname,
        devmajor: stat.devmajor,
        devminor: stat.devminor,
        xattrs: stat.xattrs,
    }
}

pub fn stat_from_wire(stat: fsutil::types::Stat) -> Stat {
    Stat {
        path: stat.path,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mod_time: stat.mod_time,
        linkname: stat.linkname,
        devmajor: stat.devmajor,
        devminor: stat.devminor,
        xattrs: stat.xattrs,
    }
}

pub fn range_to_wire(range: FileRange) -> frontend::FileRange {
    frontend::FileRange {
        offset: range.offset,
        length: range.length,
    }
}

pub fn range_from_wire(range: frontend::FileRange) -> FileRange {
    FileRange {
        offset: range.offset,
        length: range.length,
    }
}
