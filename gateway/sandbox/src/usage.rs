//! What a sandbox used of the machine, as far as the kernel counts it: a control group of version 2
//! counts everything of all its processes, and tells it while they run; elsewhere there is what the
//! kernel says of the payload and the children it waited for, at the end. Members are named as
//! BuildKit's attestations of provenance name them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Nothing in it is estimated: what the kernel does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_stat: Option<CpuUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stat: Option<MemoryUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_stat: Option<IoUsage>,
    #[serde(rename = "pidsStat", skip_serializing_if = "Option::is_none")]
    pub pids_stat: Option<PidsUsage>,
}

/// A structure of optional counts, each a member of a name.
macro_rules! counts {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty = $json:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$doc])* #[serde(rename = $json, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }
    };
}

counts! {
    /// Time on processors.
    CpuUsage {
        usage_nanos: u64 = "usageNanos",
        user_nanos: u64 = "userNanos",
        system_nanos: u64 = "systemNanos",
        nr_periods: u32 = "nrPeriods",
        nr_throttled: u32 = "nrThrottled",
        throttled_nanos: u64 = "throttledNanos",
        pressure: Pressure = "pressure",
    }
}

counts! {
    /// Bytes, pages' faults, and events of the group's limits; events that never happened are left out.
    MemoryUsage {
        swap_bytes: u64 = "swapBytes",
        anon: u64 = "anon",
        file: u64 = "file",
        kernel_stack: u64 = "kernelStack",
        page_tables: u64 = "pageTables",
        sock: u64 = "sock",
        shmem: u64 = "shmem",
        file_mapped: u64 = "fileMapped",
        file_dirty: u64 = "fileDirty",
        file_writeback: u64 = "fileWriteback",
        slab: u64 = "slab",
        pgscan: u64 = "pgscan",
        pgsteal: u64 = "pgsteal",
        pgfault: u64 = "pgfault",
        pgmajfault: u64 = "pgmajfault",
        peak: u64 = "peak",
        low_events: u64 = "lowEvents",
        high_events: u64 = "highEvents",
        max_events: u64 = "maxEvents",
        oom_events: u64 = "oomEvents",
        oom_kill_events: u64 = "oomKillEvents",
        pressure: Pressure = "pressure",
    }
}

counts! {
    /// Of all block devices together.
    IoUsage {
        read_bytes: u64 = "readBytes",
        write_bytes: u64 = "writeBytes",
        discard_bytes: u64 = "discardBytes",
        read_ios: u64 = "readIOs",
        write_ios: u64 = "writeIOs",
        discard_ios: u64 = "discardIOs",
        pressure: Pressure = "pressure",
    }
}

counts! {
    /// Processes and threads.
    PidsUsage {
        current: u64 = "current",
    }
}

/// How long tasks waited for something scarce: some of them, and all at once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    pub some: Option<PressureValues>,
    pub full: Option<PressureValues>,
}

/// Percent of the last seconds, and microseconds since the beginning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PressureValues {
    pub avg10: Option<f64>,
    pub avg60: Option<f64>,
    pub avg300: Option<f64>,
    pub total: Option<u64>,
}

/// Reads what a running sandbox used so far.
#[derive(Debug, Clone)]
pub struct Gauge {
    pub(crate) group: PathBuf,
}

impl Gauge {
    /// `None` once the sandbox has ended.
    pub fn read(&self) -> Option<Usage> {
        of_group(&self.group)
    }
}

/// `None` when there is no such group, or it counts nothing.
pub(crate) fn of_group(group: &Path) -> Option<Usage> {
    let usage = Usage {
        cpu_stat: cpu(group),
        memory_stat: memory(group),
        io_stat: io(group),
        pids_stat: number(&group.join("pids.current")).map(|current| PidsUsage {
            current: Some(current),
        }),
    };
    usage.cpu_stat.is_some().then_some(usage)
}

/// What a process and the children it waited for used.
pub(crate) fn of_process(counted: &libc::rusage) -> Usage {
    let nanos = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        seconds * 1_000_000_000 + micros * 1_000
    };
    let count = |value: libc::c_long| u64::try_from(value).unwrap_or(0);
    // Of 512 bytes, whatever the device.
    let blocks = |value: libc::c_long| Some(count(value) * 512);
    let (user, system) = (nanos(counted.ru_utime), nanos(counted.ru_stime));
    Usage {
        cpu_stat: Some(CpuUsage {
            usage_nanos: Some(user + system),
            user_nanos: Some(user),
            system_nanos: Some(system),
            ..CpuUsage::default()
        }),
        memory_stat: Some(MemoryUsage {
            pgfault: Some(count(counted.ru_minflt) + count(counted.ru_majflt)),
            pgmajfault: Some(count(counted.ru_majflt)),
            ..MemoryUsage::default()
        }),
        io_stat: Some(IoUsage {
            read_bytes: blocks(counted.ru_inblock),
            write_bytes: blocks(counted.ru_oublock),
            ..IoUsage::default()
        }),
        pids_stat: None,
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The pairs of a file of lines `name value`.
fn pairs(file: &Path) -> Option<Vec<(String, u64)>> {
    let text = fs::read_to_string(file).ok()?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Some(text.lines().filter_map(pair).collect())
}

fn cpu(group: &Path) -> Option<CpuUsage> {
    let mut usage = CpuUsage::default();
    for (name, value) in pairs(&group.join("cpu.stat"))? {
        let nanos = Some(value.saturating_mul(1_000));
        match name.as_str() {
            "usage_usec" => usage.usage_nanos = nanos,
            "user_usec" => usage.user_nanos = nanos,
            "system_usec" => usage.system_nanos = nanos,
            "nr_periods" => usage.nr_periods = u32::try_from(value).ok(),
            "nr_throttled" => usage.nr_throttled = u32::try_from(value).ok(),
            "throttled_usec" => usage.throttled_nanos = nanos,
            _ => {}
        }
    }
    usage.pressure = pressure(&group.join("cpu.pressure"));
    Some(usage)
}

fn memory(group: &Path) -> Option<MemoryUsage> {
    let mut usage = MemoryUsage::default();
    for (name, value) in pairs(&group.join("memory.stat"))? {
        let place = match name.as_str() {
            "anon" => &mut usage.anon,
            "file" => &mut usage.file,
            "kernel_stack" => &mut usage.kernel_stack,
            "pagetables" => &mut usage.page_tables,
            "sock" => &mut usage.sock,
            "shmem" => &mut usage.shmem,
            "file_mapped" => &mut usage.file_mapped,
            "file_dirty" => &mut usage.file_dirty,
            "file_writeback" => &mut usage.file_writeback,
            "slab" => &mut usage.slab,
            "pgscan" => &mut usage.pgscan,
            "pgsteal" => &mut usage.pgsteal,
            "pgfault" => &mut usage.pgfault,
            "pgmajfault" => &mut usage.pgmajfault,
            _ => continue,
        };
        *place = Some(value);
    }
    for (name, value) in pairs(&group.join("memory.events")).unwrap_or_default() {
        let place = match name.as_str() {
            "low" => &mut usage.low_events,
            "high" => &mut usage.high_events,
            "max" => &mut usage.max_events,
            "oom" => &mut usage.oom_events,
            "oom_kill" => &mut usage.oom_kill_events,
            _ => continue,
        };
        *place = (value != 0).then_some(value);
    }
    usage.peak = number(&group.join("memory.peak"));
    usage.swap_bytes = number(&group.join("memory.swap.current"));
    usage.pressure = pressure(&group.join("memory.pressure"));
    Some(usage)
}

/// Lines `MAJOR:MINOR name=value ...`, one a device.
fn io(group: &Path) -> Option<IoUsage> {
    let text = fs::read_to_string(group.join("io.stat")).ok()?;
    let mut usage = IoUsage::default();
    let pairs = text
        .lines()
        .flat_map(|line| line.split_whitespace().skip(1));
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        let Ok(value) = value.parse::<u64>() else {
            continue;
        };
        let place = match name {
            "rbytes" => &mut usage.read_bytes,
            "wbytes" => &mut usage.write_bytes,
            "dbytes" => &mut usage.discard_bytes,
            "rios" => &mut usage.read_ios,
            "wios" => &mut usage.write_ios,
            "dios" => &mut usage.discard_ios,
            _ => continue,
        };
        *place = Some(place.unwrap_or(0).saturating_add(value));
    }
    usage.pressure = pressure(&group.join("io.pressure"));
    Some(usage)
}

/// A file of pressure, of a group or of the machine (`/proc/pressure`); `None` where the kernel counts
/// none.
pub fn pressure(file: &Path) -> Option<Pressure> {
    let text = fs::read_to_string(file).ok()?;
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let place = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        let mut values = PressureValues::default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => values.avg10 = value.parse().ok(),
                "avg60" => values.avg60 = value.parse().ok(),
                "avg300" => values.avg300 = value.parse().ok(),
                "total" => values.total = value.parse().ok(),
                _ => {}
            }
        }
        *place = Some(values);
    }
    Some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files of a group.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str, files: &[(&str, &str)]) -> Files {
            let dir = std::env::temp_dir().join(format!("usage-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            for (name, text) in files {
                fs::write(dir.join(name), text).unwrap();
            }
            Files(dir)
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_groups_files_become_the_members_of_an_attestation() {
        let files = Files::new(
            "all",
            &[
                (
                    "cpu.stat",
                    "usage_usec 12\nuser_usec 7\nsystem_usec 5\nnr_periods 0\nnice_usec 3\n",
                ),
                (
                    "cpu.pressure",
                    "some avg10=1.50 avg60=0.25 avg300=0.00 total=99\nfull avg10=0.00 total=4\n",
                ),
                (
                    "memory.stat",
                    "anon 4096\nfile 8192\npgfault 3\nnone_such 1\n",
                ),
                ("memory.events", "low 0\nhigh 0\nmax 2\noom 0\noom_kill 0\n"),
                ("memory.peak", "123456\n"),
                (
                    "io.stat",
                    "8:0 rbytes=10 wbytes=1 rios=2 wios=1 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=0\n7:0\n",
                ),
                ("pids.current", "2\n"),
            ],
        );
        let usage = of_group(&files.0).expect("a group");
        assert_eq!(
            serde_json::to_value(&usage).unwrap(),
            serde_json::json!({
                "cpuStat": {
                    "usageNanos": 12000, "userNanos": 7000, "systemNanos": 5000, "nrPeriods": 0,
                    "pressure": {
                        "some": {"avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 99},
                        "full": {"avg10": 0.0, "avg60": null, "avg300": null, "total": 4},
                    },
                },
                "memoryStat": {
                    "anon": 4096, "file": 8192, "pgfault": 3, "maxEvents": 2, "peak": 123456,
                },
                "ioStat": {
                    "readBytes": 15, "writeBytes": 1, "discardBytes": 0,
                    "readIOs": 2, "writeIOs": 1, "discardIOs": 0,
                },
                "pidsStat": {"current": 2},
            })
        );
        let travelled = serde_json::to_vec(&usage).unwrap();
        let travelled: Usage = serde_json::from_slice(&travelled).unwrap();
        assert_eq!(travelled, usage);
    }

    #[test]
    fn what_a_group_does_not_count_is_left_out() {
        let files = Files::new("some", &[("cpu.stat", "usage_usec 1\n"), ("io.stat", "")]);
        let told = serde_json::to_value(of_group(&files.0)).unwrap();
        let wanted = serde_json::json!({"cpuStat": {"usageNanos": 1000}, "ioStat": {}});
        assert_eq!(told, wanted);
        assert_eq!(of_group(Path::new("/nowhere")), None);
    }
}
