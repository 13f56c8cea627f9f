//! Signals by name, as clients send them.

use gateway_api::Error;

/// Numbers as on x86, ARM, RISC-V, POWER and s390: all that the sandbox runs on.
const SIGNALS: [(&str, i32); 37] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("RTMAX", RTMAX),
    ("RTMIN", RTMIN),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("UNUSED", 31),
];

/// The first that C libraries leave to programs.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of `TERM`, `RTMIN+3` and the like: capitals, without `SIG`.
///
/// # Errors
/// There is none of this name.
pub fn number(name: &str) -> Result<i32, Error> {
    let unknown = || Error::invalid(format!("Unknown signal {name}"));
    let named = SIGNALS.iter().find(|(known, _)| *known == name);
    if let Some((_, number)) = named {
        return Ok(*number);
    }
    let offset = |text: &str| text.parse::<u8>().ok().map(i32::from);
    let number = if let Some(above) = name.strip_prefix("RTMIN+") {
        offset(above).map(|above| RTMIN + above)
    } else if let Some(below) = name.strip_prefix("RTMAX-") {
        offset(below).map(|below| RTMAX - below)
    } else {
        None
    };
    number
        .filter(|number| (RTMIN..=RTMAX).contains(number))
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p41_names_come_without_sig_and_unknown_ones_are_refused() {
        assert_eq!(number("KILL"), Ok(9));
        assert_eq!(number("USR1"), Ok(10));
        assert_eq!(number("RTMIN+3"), Ok(37));
        assert_eq!(number("RTMAX-14"), Ok(50));
        for name in ["SIGKILL", "kill", "9", "", "RTMIN+31", "RTMAX-31", "RTMIN+"] {
            let error = number(name).unwrap_err();
            assert_eq!(error.code, gateway_api::Code::InvalidArgument);
            assert_eq!(error.message, format!("Unknown signal {name}"));
        }
    }
}
