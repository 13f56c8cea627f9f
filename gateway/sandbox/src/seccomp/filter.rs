//! Compiles the rules to a program that finds a call's rule by binary search.
//!
//! When a filter is installed the kernel runs it once for each call number,
//! so a list of comparisons, one per call, costs twenty times more than this
//! at every start of a sandbox.

use libc::sock_filter;

use super::rules::{self, Policy, Rule, Table};

/// Offsets in what the kernel hands to a filter (`struct seccomp_data`).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The low half of the first argument, on little-endian machines.
const FIRST_ARGUMENT: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_NOT_BELOW: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The filter for this machine.
pub(crate) fn compile(policy: Policy) -> Vec<sock_filter> {
    let mut program = vec![load(ARCH)];
    for table in rules::tables() {
        let body = one_architecture(policy, &table);
        // To the body if it is this architecture, else over it.
        program.push(branch(JUMP_EQUAL, table.arch, 1, 0));
        program.push(jump(body.len()));
        program.extend(body);
    }
    program.push(give(DENY));
    program
}

fn one_architecture(policy: Policy, table: &Table) -> Vec<sock_filter> {
    let mut body = vec![load(NUMBER)];
    if let Some(bit) = table.foreign_bit {
        body.push(branch(JUMP_NOT_BELOW, bit, 0, 1));
        body.push(give(DENY));
    }
    body.extend(search(&ranges(policy, table)));
    body
}

/// Neighbouring numbers with the same rule, as `(first number, rule)`. Numbers
/// past the table belong to calls newer than it.
fn ranges(policy: Policy, table: &Table) -> Vec<(u32, Rule)> {
    let allowed = rules::allowed();
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut next = 0;
    let mut push = |first, rule| {
        if ranges.last().map(|(_, last)| *last) != Some(rule) {
            ranges.push((first, rule));
        }
    };
    for (number, name) in &table.calls {
        if *number > next {
            push(next, Rule::Deny);
        }
        push(*number, rules::rule(policy, name, &allowed));
        next = number + 1;
    }
    push(next, Rule::Missing);
    ranges
}

/// A decision tree over ranges; the number is in the accumulator.
fn search(ranges: &[(u32, Rule)]) -> Vec<sock_filter> {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((pivot, rule)) = high.first() else {
        return vec![give(DENY)];
    };
    if low.is_empty() {
        return decide(*rule);
    }
    let (low, high) = (search(low), search(high));
    let mut tree = Vec::with_capacity(low.len() + high.len() + 2);
    match u8::try_from(low.len()) {
        Ok(distance) => tree.push(branch(JUMP_NOT_BELOW, *pivot, distance, 0)),
        // Conditional jumps reach 255 instructions, others any.
        Err(_) => {
            tree.push(branch(JUMP_NOT_BELOW, *pivot, 0, 1));
            tree.push(jump(low.len()));
        }
    }
    tree.extend(low);
    tree.extend(high);
    tree
}

fn decide(rule: Rule) -> Vec<sock_filter> {
    let one_of = |values: &[u32], hit, miss| {
        let mut code = vec![load(FIRST_ARGUMENT)];
        for (index, value) in values.iter().enumerate() {
            // Over the remaining comparisons and the answer for a miss.
            let distance = (values.len() - index) as u8;
            code.push(branch(JUMP_EQUAL, *value, distance, 0));
        }
        code.extend([give(miss), give(hit)]);
        code
    };
    match rule {
        Rule::Allow => vec![give(ALLOW)],
        Rule::Deny => vec![give(DENY)],
        Rule::Missing => vec![give(MISSING)],
        Rule::NoBits(bits) => vec![
            load(FIRST_ARGUMENT),
            branch(JUMP_ANY_BIT, bits, 0, 1),
            give(DENY),
            give(ALLOW),
        ],
        Rule::OneOf(values) => one_of(values, ALLOW, DENY),
        Rule::NoneOf(values) => one_of(values, DENY, ALLOW),
    }
}

fn load(offset: u32) -> sock_filter {
    instruction(LOAD, 0, 0, offset)
}

fn give(answer: u32) -> sock_filter {
    instruction(RETURN, 0, 0, answer)
}

fn jump(distance: usize) -> sock_filter {
    instruction(JUMP, 0, 0, distance as u32)
}

fn branch(code: u16, value: u32, yes: u8, no: u8) -> sock_filter {
    instruction(code, yes, no, value)
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    /// Runs the program as the kernel would.
    fn answer(program: &[sock_filter], arch: u32, number: u32, argument: u64) -> u32 {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let i = program[at];
            at += 1;
            let jump = |condition: bool| usize::from(if condition { i.jt } else { i.jf });
            match i.code {
                LOAD => {
                    value = match i.k {
                        NUMBER => number,
                        ARCH => arch,
                        FIRST_ARGUMENT => argument as u32,
                        other => panic!("load from {other}"),
                    };
                }
                RETURN => return i.k,
                JUMP => at += i.k as usize,
                JUMP_EQUAL => at += jump(value == i.k),
                JUMP_NOT_BELOW => at += jump(value >= i.k),
                JUMP_ANY_BIT => at += jump(value & i.k != 0),
                other => panic!("instruction {other}"),
            }
        }
    }

    #[test]
    fn every_call_of_every_table_gets_the_answer_of_its_rule() {
        let allowed = rules::allowed();
        for (policy, table) in [Policy::Step, Policy::Frontend]
            .into_iter()
            .flat_map(|policy| {
                rules::tables()
                    .into_iter()
                    .map(move |table| (policy, table))
            })
        {
            let program = compile(policy);
            for (number, name) in &table.calls {
                let expected = match rules::rule(policy, name, &allowed) {
                    Rule::Allow => ALLOW,
                    Rule::Deny => DENY,
                    Rule::Missing => MISSING,
                    _ => continue,
                };
                let given = answer(&program, table.arch, *number, 0);
                assert_eq!(given, expected, "{name} ({number})");
            }
        }
    }

    #[test]
    fn arguments_decide_about_clone_socket_and_personality() {
        let program = compile(Policy::Step);
        let ask = |number, argument| answer(&program, X86_64, number, argument);
        assert_eq!(ask(56, 0x11), ALLOW);
        for namespace in [0x2_0000, 0x0200_0000, 0x1000_0000, 0x4000_0000] {
            assert_eq!(ask(56, namespace | 0x11), DENY);
        }
        assert_eq!(
            [ask(41, 1), ask(41, 38), ask(41, 39), ask(41, 40)],
            [ALLOW, DENY, ALLOW, DENY]
        );
        assert_eq!(
            [ask(135, 0), ask(135, 0xffff_ffff), ask(135, 0x4_0000)],
            [ALLOW, ALLOW, DENY]
        );
    }

    #[test]
    fn unknown_calls_are_missing_and_unknown_abis_denied() {
        let program = compile(Policy::Step);
        assert_eq!(answer(&program, X86_64, 1000, 0), MISSING);
        assert_eq!(answer(&program, I386, 1000, 0), MISSING);
        assert_eq!(answer(&program, X86_64, 0x4000_0000, 0), DENY);
        assert_eq!(answer(&program, 0xc000_00b7, 64, 0), DENY);
    }

    #[test]
    fn the_calls_that_make_and_enter_namespaces_are_denied() {
        let program = compile(Policy::Step);
        for (number, name) in [
            (272, "unshare"),
            (308, "setns"),
            (165, "mount"),
            (321, "bpf"),
        ] {
            assert_eq!(answer(&program, X86_64, number, 0), DENY, "{name}");
        }
    }

    #[test]
    fn the_program_stays_short() {
        assert!(
            compile(Policy::Step).len() < 600,
            "{}",
            compile(Policy::Step).len()
        );
    }

    #[test]
    fn a_frontend_has_unix_sockets_only_and_cannot_trace() {
        let program = compile(Policy::Frontend);
        let ask = |number, argument| answer(&program, X86_64, number, argument);
        assert_eq!([ask(41, 1), ask(41, 2), ask(41, 16)], [ALLOW, DENY, DENY]);
        assert_eq!([ask(101, 0), ask(0, 0)], [DENY, ALLOW]);
    }
}
