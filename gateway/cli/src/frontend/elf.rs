//! The head of an ELF program: for which machine it is, and whether it needs a dynamic linker. All that decides
//! whether a binary can be the only file of an image.

/// What is known of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The architecture as images call it; the machine's number when it has no such name.
    pub architecture: String,
    /// The dynamic linker that it asks for.
    pub interpreter: Option<String>,
}

const MAGIC: &[u8] = b"\x7fELF";
/// Kind of a program header that names the interpreter.
const PT_INTERP: u32 = 3;
/// Program headers that are looked at: real ones have about ten.
const MAX_HEADERS: usize = 256;
/// Longest name of an interpreter.
const MAX_NAME: usize = 4096;

/// None: it is no ELF file, or its head is cut.
pub fn read(bytes: &[u8]) -> Option<Program> {
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    let wide = match bytes.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let little = match bytes.get(5)? {
        1 => true,
        2 => false,
        _ => return None,
    };
    let number = |at: usize, length: usize| -> Option<u64> {
        let field = bytes.get(at..at.checked_add(length)?)?;
        let add = |all: u64, byte: &u8| (all << 8) | u64::from(*byte);
        Some(match little {
            true => field.iter().rev().fold(0, add),
            false => field.iter().fold(0, add),
        })
    };
    let machine = number(18, 2)?;
    let (table, size, count) = match wide {
        true => (number(32, 8)?, number(54, 2)?, number(56, 2)?),
        false => (number(28, 4)?, number(42, 2)?, number(44, 2)?),
    };
    let place = |value: u64| usize::try_from(value).ok();
    let (table, size, count) = (place(table)?, place(size)?, place(count)?.min(MAX_HEADERS));
    let mut interpreter = None;
    for index in 0..count {
        let at = table.checked_add(index.checked_mul(size)?)?;
        if number(at, 4)? != u64::from(PT_INTERP) {
            continue;
        }
        let (start, length) = match wide {
            true => (
                number(at.checked_add(8)?, 8)?,
                number(at.checked_add(32)?, 8)?,
            ),
            false => (
                number(at.checked_add(4)?, 4)?,
                number(at.checked_add(16)?, 4)?,
            ),
        };
        let (start, length) = (place(start)?, place(length)?.min(MAX_NAME));
        let name = bytes.get(start..start.checked_add(length)?)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        interpreter = Some(String::from_utf8_lossy(name).into_owned());
    }
    Some(Program {
        architecture: architecture(machine, little),
        interpreter,
    })
}

fn architecture(machine: u64, little: bool) -> String {
    match (machine, little) {
        (62, _) => "amd64",
        (183, _) => "arm64",
        (3, _) => "386",
        (40, _) => "arm",
        (21, true) => "ppc64le",
        (22, _) => "s390x",
        (243, _) => "riscv64",
        (258, _) => "loong64",
        _ => return format!("machine {machine}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn a_dynamic_program_names_its_interpreter_and_a_static_one_does_not() {
        let program = read(&own()).unwrap();
        assert!(program.interpreter.unwrap().contains("ld-linux"));
        let busybox = read(&std::fs::read("/bin/busybox").unwrap()).unwrap();
        assert_eq!(busybox.interpreter, None);
        assert_eq!(busybox.architecture, program.architecture);
    }

    #[test]
    fn scripts_and_cut_heads_are_no_programs() {
        assert_eq!(read(b"#!/bin/sh\n"), None);
        assert_eq!(read(&own()[..60]), None);
    }

    proptest::proptest! {
        #[test]
        fn damaged_heads_are_read_or_refused(at in 4usize..400, byte in 0u8..) {
            let mut bytes = own();
            bytes[at] = byte;
            let _ = read(&bytes);
        }
    }
}
