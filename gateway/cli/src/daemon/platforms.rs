//! What this machine runs: its own platform, the levels of its processor, and whatever it or an emulator
//! of the kernel's (binfmt_misc) executes. Found out by executing a program of a few instructions.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway_llb::pb::Platform;
use gateway_llb::platform;

/// A program that does nothing ends within this time, emulated too. One that does not is not run.
const LIMIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(1);

/// A program that ends well at once, as the bytes of a machine.
struct Probe {
    architecture: &'static str,
    /// ELF's number of the machine, and its flags.
    machine: u16,
    flags: u32,
    wide: bool,
    big_endian: bool,
    /// `exit(0)`.
    code: &'static [u32],
    /// Where instructions are not of four bytes.
    bytes: &'static [u8],
}

const PROBE: Probe = Probe {
    architecture: "",
    machine: 0,
    flags: 0,
    wide: true,
    big_endian: false,
    code: &[],
    bytes: &[],
};

/// In the order in which clients are told of them.
const PROBES: &[Probe] = &[
    Probe {
        architecture: "amd64",
        machine: 62,
        bytes: b"\x31\xff\xb8\x3c\0\0\0\x0f\x05",
        ..PROBE
    },
    Probe {
        architecture: "arm64",
        machine: 183,
        code: &[0xd280_0000, 0xd280_0ba8, 0xd400_0001],
        ..PROBE
    },
    Probe {
        architecture: "riscv64",
        machine: 243,
        code: &[0x0000_0513, 0x05d0_0893, 0x0000_0073],
        ..PROBE
    },
    Probe {
        architecture: "ppc64",
        machine: 21,
        flags: 2,
        big_endian: true,
        code: &[0x3800_0001, 0x3860_0000, 0x4400_0002],
        ..PROBE
    },
    Probe {
        architecture: "ppc64le",
        machine: 21,
        flags: 2,
        code: &[0x3800_0001, 0x3860_0000, 0x4400_0002],
        ..PROBE
    },
    Probe {
        architecture: "s390x",
        machine: 22,
        big_endian: true,
        bytes: b"\xa7\x29\0\0\x0a\x01",
        ..PROBE
    },
    Probe {
        architecture: "386",
        machine: 3,
        wide: false,
        bytes: b"\x31\xdb\xb8\x01\0\0\0\xcd\x80",
        ..PROBE
    },
    Probe {
        architecture: "mips64le",
        machine: 8,
        flags: 0x8000_0000,
        code: &[0x2402_13c2, 0x2404_0000, 0x0000_000c],
        ..PROBE
    },
    Probe {
        architecture: "mips64",
        machine: 8,
        flags: 0x8000_0000,
        big_endian: true,
        code: &[0x2402_13c2, 0x2404_0000, 0x0000_000c],
        ..PROBE
    },
    Probe {
        architecture: "loong64",
        machine: 258,
        flags: 0x43,
        code: &[0x0380_0004, 0x0381_740b, 0x002b_0000],
        ..PROBE
    },
    Probe {
        architecture: "arm",
        machine: 40,
        flags: 0x0500_0000,
        wide: false,
        code: &[0xe3a0_0000, 0xe3a0_7001, 0xef00_0000],
        ..PROBE
    },
];

/// Where the program lies in memory.
const BASE: u64 = 0x40_0000;
/// The largest page of any machine.
const PAGE: u64 = 0x1_0000;

impl Probe {
    /// The smallest file that the kernel takes for a program.
    fn file(&self) -> Vec<u8> {
        let mut out = b"\x7fELF".to_vec();
        out.extend([1 + u8::from(self.wide), 1 + u8::from(self.big_endian), 1]);
        out.resize(16, 0);
        let (header, segment) = if self.wide { (64, 56) } else { (52, 32) };
        let code: Vec<u8> = match self.bytes {
            [] => self.code.iter().flat_map(|word| self.word(*word)).collect(),
            bytes => bytes.to_vec(),
        };
        let size = header + segment + code.len() as u64;
        let half = |value: u16| match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        };
        // Executable, machine, version of the format.
        out.extend(half(2));
        out.extend(half(self.machine));
        out.extend(self.word(1));
        for address in [BASE + header + segment, header, 0] {
            out.extend(self.address(address));
        }
        out.extend(self.word(self.flags));
        for count in [header, segment, 1, 0, 0, 0] {
            out.extend(half(u16::try_from(count).unwrap_or(0)));
        }
        // One segment: all of the file, to be read and executed. The flags stand elsewhere in narrow files.
        out.extend(self.word(1));
        if self.wide {
            out.extend(self.word(5));
        }
        for value in [0, BASE, BASE, size, size] {
            out.extend(self.address(value));
        }
        if !self.wide {
            out.extend(self.word(5));
        }
        out.extend(self.address(PAGE));
        out.extend(code);
        out
    }

    fn word(&self, value: u32) -> [u8; 4] {
        match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    fn address(&self, value: u64) -> Vec<u8> {
        match (self.wide, self.big_endian) {
            (true, true) => value.to_be_bytes().to_vec(),
            (true, false) => value.to_le_bytes().to_vec(),
            (false, _) => self.word(u32::try_from(value).unwrap_or(0)).to_vec(),
        }
    }

    /// Whether it runs here, from a file in `dir`.
    fn runs(&self, dir: &Path) -> io::Result<bool> {
        let path = dir.join(self.architecture);
        fs::write(&path, self.file())?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        let begun = Instant::now();
        let mut child = loop {
            let started = Command::new(&path)
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            match started {
                Ok(child) => break child,
                // A process that was just being started elsewhere has the file open for a moment.
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && begun.elapsed() < LIMIT =>
                {
                    std::thread::sleep(LOOK);
                }
                Err(_) => return Ok(false),
            }
        };
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if begun.elapsed() >= LIMIT {
                child.kill()?;
                child.wait()?;
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// The levels above the first that this processor has, the lowest first.
fn levels() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let v2 = has!("cmpxchg16b")
            && has!("popcnt")
            && has!("sse3")
            && has!("ssse3")
            && has!("sse4.1")
            && has!("sse4.2");
        let v3 = v2
            && has!("avx")
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe")
            && has!("xsave");
        let v4 = v3
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl");
        let all = [("v2", v2), ("v3", v3), ("v4", v4)];
        all.into_iter()
            .filter_map(|(level, has)| has.then_some(level))
            .collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

fn linux(architecture: &str, variant: &str) -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    }
}

/// What this machine runs, its own platform first. `scratch` is a directory that programs can be run from.
pub fn executable(scratch: &Path) -> Vec<Platform> {
    let host = platform::normalize(&platform::host());
    let mut found = vec![host.clone()];
    // Where programs cannot be tried, the own platform is what is known.
    let Ok(dir) = tempfile::tempdir_in(scratch) else {
        return found;
    };
    for probe in PROBES {
        let own = probe.architecture == host.architecture;
        if !own && !probe.runs(dir.path()).unwrap_or(false) {
            continue;
        }
        if !own {
            found.push(linux(probe.architecture, ""));
        }
        match probe.architecture {
            "amd64" if own => found.extend(levels().into_iter().map(|v| linux("amd64", v))),
            "arm" if host.variant != "v6" => found.push(linux("arm", "v6")),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p02_what_this_machine_runs_is_found_by_running_it() {
        let dir = tempfile::tempdir().unwrap();
        let host = platform::normalize(&platform::host());
        let own = PROBES.iter().find(|p| p.architecture == host.architecture);
        assert!(own.unwrap().runs(dir.path()).unwrap());
        // A machine that nobody has.
        let nobody = Probe {
            architecture: "nobody",
            machine: 0x4321,
            code: &[0],
            ..PROBE
        };
        assert!(!nobody.runs(dir.path()).unwrap());
        let found = executable(dir.path());
        assert_eq!(found[0], host);
        let mut seen = std::collections::HashSet::new();
        assert!(found.iter().all(|p| seen.insert(platform::format(p))));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn p02_the_levels_of_the_processor_are_those_that_the_kernel_tells() {
        let told = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = told.lines().find(|line| line.starts_with("flags")).unwrap();
        let has = |names: &[&str]| {
            let flags: Vec<&str> = flags.split_whitespace().collect();
            names.iter().all(|name| flags.contains(name))
        };
        let levels = levels();
        let (v2, v3) = (["sse4_2", "popcnt", "cx16"], ["avx2", "bmi2", "fma"]);
        assert_eq!(levels.contains(&"v2"), has(&v2));
        assert_eq!(levels.contains(&"v3"), has(&v2) && has(&v3));
        let v4 = has(&v2) && has(&v3) && has(&["avx512f", "avx512vl"]);
        assert_eq!(levels.contains(&"v4"), v4);
    }
}
