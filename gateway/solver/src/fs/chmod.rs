//! Symbolic file modes (`u=rwX,go=rX`), as chmod(1) reads them with an umask of 0.

/// A change of permission bits, ready to be applied to many files.
#[derive(Debug, Clone)]
pub struct ModeChange {
    actions: Vec<Action>,
}

/// A mode text that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid syntax")]
pub struct InvalidMode;

#[derive(Debug, Clone)]
struct Action {
    /// The classes meant, as a mask of their bits; 0 when none is named.
    who: u32,
    op: Op,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Bits {
        bits: u32,
        /// `X`: execution only for directories and what somebody can execute already.
        search: bool,
    },
    /// The permissions of another class; its shift.
    Copy(u32),
}

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// What a `=` without classes replaces: sticky is left alone.
const ALL: u32 = SET_UID | SET_GID | 0o777;

impl ModeChange {
    /// Reads an octal or a symbolic mode.
    pub fn parse(text: &str) -> Result<Self, InvalidMode> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| InvalidMode)?;
            if bits > 0o7777 {
                return Err(InvalidMode);
            }
            let what = What::Bits {
                bits,
                search: false,
            };
            return Ok(Self {
                actions: vec![Action {
                    who: ALL | STICKY,
                    op: Op::Set,
                    what,
                }],
            });
        }
        let mut actions = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut actions)?;
        }
        Ok(Self { actions })
    }

    /// The new permission bits (with set-uid, set-gid, sticky) of a file that has `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let old = mode & 0o7777;
        let mut new = old;
        for action in &self.actions {
            let bits = match action.what {
                What::Bits { bits, search } => {
                    let search = search && (is_dir || old & 0o111 != 0);
                    bits | if search { 0o111 } else { 0 }
                }
                What::Copy(shift) => (new >> shift & 0o7) * 0o111,
            };
            let who = if action.who == 0 { ALL } else { action.who };
            let bits = match (action.who, action.what) {
                (0, _) => bits & (ALL | STICKY),
                (_, What::Copy(_)) => bits & who & 0o777,
                (_, What::Bits { .. }) => bits & (who | sticky_of(bits, who)),
            };
            match action.op {
                Op::Add => new |= bits,
                Op::Remove => new &= !bits,
                Op::Set => {
                    let cleared = match action.what {
                        What::Copy(_) => who & 0o777,
                        What::Bits { .. } => who | sticky_of(bits, who),
                    };
                    new = new & !cleared | bits;
                }
            }
        }
        new
    }
}

/// `t` belongs to no class, but is ignored when only others are meant.
fn sticky_of(bits: u32, who: u32) -> u32 {
    if who & !0o007 != 0 { bits & STICKY } else { 0 }
}

fn parse_clause(clause: &str, actions: &mut Vec<Action>) -> Result<(), InvalidMode> {
    let at = clause.find(['+', '-', '=']).ok_or(InvalidMode)?;
    let mut who = 0;
    for c in clause[..at].chars() {
        who |= match c {
            'u' => SET_UID | 0o700,
            'g' => SET_GID | 0o070,
            'o' => 0o007,
            'a' => ALL,
            _ => return Err(InvalidMode),
        };
    }
    let mut rest = &clause[at..];
    while let Some(c) = rest.chars().next() {
        let op = match c {
            '+' => Op::Add,
            '-' => Op::Remove,
            '=' => Op::Set,
            _ => return Err(InvalidMode),
        };
        let end = rest[1..]
            .find(['+', '-', '='])
            .map_or(rest.len(), |i| i + 1);
        parse_permissions(&rest[1..end], who, op, actions)?;
        rest = &rest[end..];
    }
    Ok(())
}

fn parse_permissions(
    letters: &str,
    who: u32,
    op: Op,
    actions: &mut Vec<Action>,
) -> Result<(), InvalidMode> {
    let mut bits = 0;
    let mut search = false;
    let mut copies = Vec::new();
    // Only "others" has neither set-id nor sticky.
    let special = who == 0 || who & !0o007 != 0;
    for c in letters.chars() {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            // Taking away needs no condition.
            'X' if op == Op::Remove => bits |= 0o111,
            'X' => search = true,
            's' if special => bits |= SET_UID | SET_GID,
            't' if special => bits |= STICKY,
            's' | 't' => {}
            'u' => copies.push(6),
            'g' => copies.push(3),
            'o' => copies.push(0),
            _ => return Err(InvalidMode),
        }
    }
    if bits != 0 || search || copies.is_empty() {
        let what = What::Bits { bits, search };
        actions.push(Action { who, op, what });
    }
    for shift in copies {
        let what = What::Copy(shift);
        actions.push(Action { who, op, what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn symbolic_modes_change_bits_as_chmod_does() {
        for (text, mode, is_dir, want) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("u=rwX,go=rX", 0o710, false, 0o755),
            ("u=rwX,go=", 0o666, false, 0o600),
            ("+x", 0o644, false, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("g=u", 0o640, false, 0o660),
            ("go=u-w", 0o700, false, 0o755),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o755, true, 0o1755),
            ("o+t", 0o755, true, 0o755),
            ("=r", 0o4777, false, 0o444),
            ("=", 0o777, false, 0),
            ("755", 0o600, false, 0o755),
            ("a=rx,u+w", 0o000, false, 0o755),
            ("-X", 0o755, false, 0o644),
            ("u=rw,+X", 0o644, false, 0o644),
        ] {
            let change = ModeChange::parse(text).expect(text);
            let got = change.apply(mode, is_dir);
            assert_eq!(got, want, "{text} on {mode:o}: {got:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "u", "z+x", "+q", "u=rw,", "888", "10000", "rw"] {
            let error = ModeChange::parse(text).expect_err(text);
            assert_eq!(error.to_string(), "invalid syntax");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ugoa+=rwxXst,0-9-]{0,12}", mode in 0u32..0o10000) {
            if let Ok(change) = ModeChange::parse(&text) {
                prop_assert!(change.apply(mode, false) <= 0o7777);
            }
        }

        #[test]
        fn an_octal_mode_is_taken_as_it_is(bits in 0u32..0o10000, mode in 0u32..0o10000) {
            let change = ModeChange::parse(&format!("{bits:o}")).expect("octal");
            prop_assert_eq!(change.apply(mode, true), bits);
        }
    }
}
