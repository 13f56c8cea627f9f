//! Memory that builds took and nobody needs any more goes back to the machine. By itself the C library keeps it for
//! later, and hundreds of builds at once would be seen in the daemon for ever; so would the code that they ran.

use std::ops::Range;
use std::path::Path;

/// Gives back what is free, and what can be had again.
pub fn give_back() {
    trim();
    let_go_of_code();
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes a number and touches nothing but the allocator's own lists, under their locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries do so by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// The program's code is tens of MiB, of which an idle daemon runs next to nothing. Pages that are let go stay in the
/// kernel's cache of the file, and those that are run again are mapped again from there, many at a time.
fn let_go_of_code() {
    let (Ok(maps), Ok(program)) = (
        std::fs::read_to_string("/proc/self/smaps"),
        std::fs::read_link("/proc/self/exe"),
    ) else {
        return;
    };
    for range in code(&maps, &program) {
        let start = std::ptr::without_provenance_mut::<libc::c_void>(range.start);
        // SAFETY: the range is one mapping of this program's file, for reading and running only, and the kernel has
        // told that no page of it differs from the file: whoever reads or runs one next finds what was there before.
        // When it fails, the pages stay.
        unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings of a program's file that are code as it is in the file; of `/proc/self/smaps`.
fn code(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in maps.lines() {
        if let Some(pages) = line.strip_prefix("Anonymous:") {
            // A page that was written is not in the file any more: a debugger's, or relocated.
            let unchanged = pages.split_whitespace().next() == Some("0");
            found.extend(current.take().filter(|_| unchanged));
        } else if let Some(header) = header(line, program) {
            current = header;
        }
    }
    found
}

/// `None` of lines that begin no mapping; of others the range, if it is such a one.
fn header(line: &str, program: &Path) -> Option<Option<Range<usize>>> {
    let (addresses, rest) = line.split_once(' ')?;
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    // Mode, offset, device, inode, and the path with all its blanks.
    let mut fields = rest.splitn(5, ' ');
    let mode = fields.next();
    let path = fields.nth(3).map(str::trim_start);
    let is_code = mode == Some("r-xp") && path.is_some_and(|path| Path::new(path) == program);
    Some(is_code.then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f00-7f10 r--p 00000000 fe:00 42       /opt/a b/gateway
Rss:                  64 kB
Anonymous:             0 kB
7f10-7f90 r-xp 00010000 fe:00 42                         /opt/a b/gateway
Rss:                 512 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f90-7fa0 rw-p 00090000 fe:00 42       /opt/a b/gateway
Anonymous:            16 kB
8000-8100 r-xp 00000000 fe:00 43       /lib/other.so
Anonymous:             0 kB
8100-8200 r-xp 00000000 fe:00 42       /opt/a b/gateway
Anonymous:             4 kB
8200-8300 r-xp 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn code_is_what_the_program_may_run_and_nobody_wrote() {
        let program = Path::new("/opt/a b/gateway");
        assert_eq!(code(MAPS, program), vec![0x7f10..0x7f90]);
        assert!(code(MAPS, Path::new("/opt/a")).is_empty());
        assert!(code("", program).is_empty());
    }

    #[test]
    fn a_program_that_lets_go_of_its_code_runs_on_with_less_of_it_in_memory() {
        let resident = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let program = std::fs::read_link("/proc/self/exe").unwrap();
            let of_program = maps
                .lines()
                .skip_while(|line| header(line, &program).flatten().is_none())
                .find_map(|line| line.strip_prefix("Rss:"));
            let size = of_program.and_then(|size| size.split_whitespace().next());
            size.unwrap().parse::<usize>().unwrap()
        };
        // Much of it is run or read once.
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let range = code(&maps, &program).remove(0);
        for page in range.step_by(4096) {
            let byte = std::ptr::without_provenance::<u8>(page);
            // SAFETY: it is mapped for reading as long as the program runs.
            std::hint::black_box(unsafe { byte.read_volatile() });
        }
        let before = resident();
        give_back();
        let after = resident();
        assert!(after < before, "{before} kB, then {after} kB");
    }
}
