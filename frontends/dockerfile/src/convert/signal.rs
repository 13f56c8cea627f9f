//! Names of signals, for STOPSIGNAL.

const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

/// The highest offset from `RTMIN` and to `RTMAX` that has a name.
const RT_UP: u32 = 15;
const RT_DOWN: u32 = 14;

/// A number other than 0, or a name with or without `SIG` in any case.
pub fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if NAMES.contains(&name) || name == "RTMAX" {
        return true;
    }
    let offset = |prefix: &str| {
        name.strip_prefix(prefix)
            .and_then(|n| n.parse::<u32>().ok())
    };
    offset("RTMIN+").is_some_and(|n| (1..=RT_UP).contains(&n))
        || offset("RTMAX-").is_some_and(|n| (1..=RT_DOWN).contains(&n))
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn names_and_numbers_are_signals() {
        for good in ["SIGINT", "int", "9", "99", "SIGRTMIN+3", "RTMAX"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["SIGFOO", "0", "", "RTMIN+40"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
