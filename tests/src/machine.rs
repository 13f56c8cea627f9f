//! A machine of its own: Debian's kernel under qemu with our program, and a disk whose power is cut.
//!
//! The disk logs what the guest writes and when it asks for what it wrote to be kept (`blklogwrites` of qemu).
//! After the cut, what was written before the last such request is there; of what came later any part may
//! be, whole, torn between sectors or not at all, as on a drive with a cache of its own. The memory of the
//! guest is gone.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Modules of Debian's kernel that the guest is to have; those that they need come along.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "overlay"];
/// What the guest says last before it goes on to what was asked.
const UP: &str = "machine: up";
/// A machine without hardware help on a busy host takes this long to come up at most.
const LONGEST_START: Duration = Duration::from_secs(600);

/// Writing what is under way.
const LONGEST_END: Duration = Duration::from_secs(120);

/// What all starts of a machine have in common.
pub struct Machine {
    dir: tempfile::TempDir,
    kernel: PathBuf,
    accelerator: &'static str,
}

/// A machine that runs; killed when dropped.
pub struct Running {
    qemu: Child,
    lines: Receiver<String>,
    /// All that it said.
    pub said: Vec<String>,
}

/// What a power cut did to the disk.
#[derive(Debug, Default)]
pub struct Cut {
    /// Writes that the drive had promised to keep.
    pub kept: usize,
    /// Of the later ones: those that were there whole, in part, and not at all.
    pub whole: usize,
    pub torn: usize,
    pub lost: usize,
}

impl Machine {
    /// `kernel`: an unpacked package of a kernel; `files`: what the guest has beside busybox; `script`: what it
    /// runs once its disk is mounted at `/disk`.
    pub fn new(kernel: &Path, files: &[(&str, &Path)], script: &str) -> Machine {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let modules = one_in(&kernel.join("lib/modules"));
        let mut archive = Cpio::default();
        for name in [
            "bin", "dev", "disk", "etc", "modules", "proc", "sys", "tmp", "root",
        ] {
            archive.dir(name);
        }
        archive.file("bin/busybox", &read(Path::new("/bin/busybox")));
        let modules = in_order_of_needs(&modules);
        for (name, module) in &modules {
            archive.file(&format!("modules/{name}.ko"), module);
        }
        for (name, path) in files {
            archive.tree(name, path);
        }
        archive.file("init", init(&modules, script).as_bytes());
        std::fs::write(dir.path().join("initramfs"), archive.bytes()).expect("the initramfs");
        let vmlinuz = std::fs::read_dir(kernel.join("boot"))
            .expect("the kernel's folder")
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains("vmlinuz"))
            .expect("a kernel");
        let mut machine = Machine {
            dir,
            kernel: vmlinuz,
            accelerator: "kvm",
        };
        let disk = std::fs::File::create(machine.disk()).expect("the disk");
        disk.set_len(2 << 30).expect("the disk");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(machine.disk())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "mkfs.ext4");
        machine.choose_accelerator();
        machine
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// The hardware's help, where there is one and a machine comes up with it.
    fn choose_accelerator(&mut self) {
        if Path::new("/dev/kvm").exists() {
            let mut running = self.start();
            if running.wait(UP, Duration::from_secs(40)) {
                return;
            }
        }
        self.accelerator = "tcg";
    }

    pub fn accelerator(&self) -> &str {
        self.accelerator
    }

    /// Starts it with the disk as the last cut left it.
    pub fn start(&self) -> Running {
        let now = self.dir.path().join("now");
        let log = self.dir.path().join("log");
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .args([self.disk(), now.clone()])
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "cp");
        std::fs::File::create(&log).expect("the log of writes");
        let drive = serde_json::json!({
            "driver": "blklogwrites", "node-name": "drive", "log-sector-size": SECTOR,
            "log-super-update-interval": 1,
            "file": {"driver": "file", "filename": now},
            "log": {"driver": "file", "filename": log},
        });
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", self.accelerator, "-m", "1024", "-smp", "2"])
            .args(match self.accelerator {
                "kvm" => ["-cpu", "host"],
                _ => ["-cpu", "max"],
            })
            .args(["-nographic", "-no-reboot", "-nic", "none", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.dir.path().join("initramfs"))
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 no_timer_check",
                "-blockdev",
            ])
            .arg(drive.to_string())
            .args(["-device", "virtio-blk-pci,drive=drive,write-cache=on"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("qemu-system-x86_64 (scripts/power-cut installs it)");
        let out = qemu.stdout.take().expect("its console");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running {
            qemu,
            lines,
            said: Vec::new(),
        }
    }

    /// What the disk holds after the power of the last started machine is gone. `random` gives numbers.
    pub fn cut(&self, running: Running, random: &mut impl FnMut() -> u64) -> Cut {
        let log = std::fs::File::open(self.dir.path().join("log")).expect("the log of writes");
        // Now the power goes: what qemu still writes while it ends, a flush of its own among it, never was.
        let count = count(&log);
        running.end();
        let disk = std::fs::File::options()
            .write(true)
            .open(self.disk())
            .expect("the disk");
        replay(&entries(&log, count), &log, &disk, random)
    }
}

impl Running {
    /// Waits until the guest has said a line that begins so; false after `longest` or its end.
    pub fn wait(&mut self, beginning: &str, longest: Duration) -> bool {
        let end = Instant::now() + longest;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                return false;
            };
            let found = line.starts_with(beginning);
            self.said.push(line);
            if found {
                return true;
            }
        }
    }

    /// As [`Running::wait`], for what must come.
    pub fn must_say(&mut self, beginning: &str) {
        let came = self.wait(beginning, LONGEST_START);
        assert!(came, "no {beginning:?} in:\n{}", self.said.join("\n"));
    }
}

impl Running {
    /// Ends qemu so that its log is whole: on this signal it hears no more of the guest and finishes what the
    /// drive was told to write. Killed outright it leaves entries that are counted and not there.
    fn end(mut self) {
        if let Some(pid) = i32::try_from(self.qemu.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + LONGEST_END;
        while matches!(self.qemu.try_wait(), Ok(None)) {
            assert!(Instant::now() < end, "qemu does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The first root of Linux is one that no process can leave by `pivot_root`: all goes on in a second one.
fn init(modules: &[(String, Vec<u8>)], script: &str) -> String {
    let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    let modules = names.join(" ");
    format!(
        "#!/bin/busybox sh\n\
         if [ ! -e /second ]; then\n\
           /bin/busybox --install -s /bin; export PATH=/bin\n\
           mkdir /new; mount -t tmpfs -o mode=755 root /new; touch /new/second\n\
           for f in /*; do [ $f = /new ] || cp -a $f /new; done\n\
           exec switch_root /new /init\n\
         fi\n\
         export PATH=/bin HOME=/root\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         for m in {modules}; do insmod /modules/$m.ko; done\n\
         mount -t ext4 /dev/vda /disk || {{ echo 'machine: no disk'; poweroff -f; }}\necho '{UP}'\n{script}\npoweroff -f\n"
    )
}

/// The modules with all that they need, each after its needs. These change within a kernel's series, so each
/// module is asked for its own.
fn in_order_of_needs(modules: &Path) -> Vec<(String, Vec<u8>)> {
    fn add(modules: &Path, name: &str, found: &mut Vec<(String, Vec<u8>)>) {
        if found.iter().any(|(known, _)| known == name) {
            return;
        }
        let path = find(modules, &format!("{name}.ko"))
            .unwrap_or_else(|| panic!("{} has no {name}.ko", modules.display()));
        let module = read(&path);
        for need in needs(&module) {
            add(modules, &need, found);
        }
        found.push((name.to_owned(), module));
    }
    let mut found = Vec::new();
    for name in MODULES {
        add(modules, name, &mut found);
    }
    found
}

/// What a module says of itself in its section `.modinfo`: words that end in a zero byte.
fn needs(module: &[u8]) -> Vec<String> {
    let word = module
        .split(|byte| *byte == 0)
        .find_map(|word| word.strip_prefix(b"depends="))
        .unwrap_or_default();
    String::from_utf8_lossy(word)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Bytes that a drive writes whole or not at all.
const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

struct Entry {
    at: u64,
    length: u64,
    flags: u64,
    /// Where its bytes are in the log.
    data: u64,
}

fn number(log: &std::fs::File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    log.read_exact_at(&mut bytes, at)
        .expect("the log of writes");
    u64::from_le_bytes(bytes)
}

/// How many entries the log has by now; it is told after each.
fn count(log: &std::fs::File) -> u64 {
    assert_eq!(number(log, 0), MAGIC, "a log of writes");
    number(log, 16)
}

/// The first entries of a log that is whole.
fn entries(log: &std::fs::File, count: u64) -> Vec<Entry> {
    let number = |at| number(log, at);
    let mut next = SECTOR;
    (0..count)
        .map(|_| {
            let (sector, sectors, flags) = (number(next), number(next + 8), number(next + 16));
            let data = next + SECTOR;
            let length = sectors * SECTOR;
            next = data + if flags & DISCARD == 0 { length } else { 0 };
            Entry {
                at: sector * SECTOR,
                length,
                flags,
                data,
            }
        })
        .collect()
}

fn replay(
    entries: &[Entry],
    log: &std::fs::File,
    disk: &std::fs::File,
    random: &mut impl FnMut() -> u64,
) -> Cut {
    let promised = entries
        .iter()
        .rposition(|entry| entry.flags & FLUSH != 0)
        .unwrap_or(0);
    let mut cut = Cut::default();
    for (index, entry) in entries.iter().enumerate() {
        if entry.length == 0 || entry.flags & DISCARD != 0 {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(entry.length).expect("a length")];
        log.read_exact_at(&mut bytes, entry.data)
            .expect("the log of writes");
        let chance = if index < promised || entry.flags & FUA != 0 {
            cut.kept += 1;
            0
        } else {
            random() % 4
        };
        match chance {
            0 | 1 => {
                cut.whole += usize::from(index >= promised);
                disk.write_all_at(&bytes, entry.at).expect("the disk");
            }
            2 => {
                cut.torn += 1;
                for (i, sector) in bytes.chunks(SECTOR as usize).enumerate() {
                    if random().is_multiple_of(2) {
                        let at = entry.at + i as u64 * SECTOR;
                        disk.write_all_at(sector, at).expect("the disk");
                    }
                }
            }
            _ => cut.lost += 1,
        }
    }
    cut
}

/// An archive that Linux unpacks as its first root ("newc").
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    count: u32,
}

impl Cpio {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.count += 1;
        let size = u32::try_from(data.len()).expect("a small file");
        let name_size = name.len() as u32 + 1;
        let numbers = [self.count, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            let _ = write!(self.bytes, "{number:08x}");
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        let whole = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(whole, 0);
    }

    fn dir(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, 0o100_755, data);
    }

    fn tree(&mut self, name: &str, path: &Path) {
        if !path.is_dir() {
            return self.file(name, &read(path));
        }
        self.dir(name);
        for entry in std::fs::read_dir(path).expect("a folder").flatten() {
            let below = format!("{name}/{}", entry.file_name().to_string_lossy());
            self.tree(&below, &entry.path());
        }
    }

    fn bytes(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes
}

fn one_in(dir: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .flatten();
    entries.next().expect("modules of a kernel").path()
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name().to_string_lossy() == name {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::needs;

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF\0\0license=GPL\0depends=virtio,virtio_ring\0name=virtio_blk\0";
        assert_eq!(needs(module), ["virtio", "virtio_ring"]);
        assert!(needs(b"\x7fELF\0depends=\0name=overlay\0").is_empty());
    }
}
