//! Runs a row of steps over a path, all ways at once: one bit for each state, so that a
//! character costs one operation for 64 states, whatever the pattern and the path are.

use super::syntax::next_char;

/// What leads from one state to the next.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Consume one character of the set.
    One(Set),
    /// Consume any number of characters of the set.
    Many(Set),
    /// `(.*/)?`: nothing, or anything that ends with a slash.
    Directories,
    /// Only at the start of the path.
    Start,
}

/// Which characters a step takes.
#[derive(Debug, Clone)]
pub(super) enum Set {
    Char(u32),
    Ranges {
        negated: bool,
        ranges: Vec<(u32, u32)>,
    },
    /// Everything but a line feed, as `.` is understood.
    Any,
}

impl Set {
    fn has(&self, c: u32) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::Ranges { negated, ranges } => {
                ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c)) != *negated
            }
            Self::Any => c != u32::from('\n'),
        }
    }

    /// Whether characters outside of ASCII are told apart.
    fn splits_beyond_ascii(&self) -> bool {
        match self {
            Self::Char(c) => *c >= ASCII,
            Self::Ranges { ranges, .. } => ranges.iter().any(|(_, hi)| *hi >= ASCII),
            Self::Any => false,
        }
    }
}

/// How many ASCII characters there are: the number of the first one beyond.
const ASCII: u32 = 128;
/// The lowest character beyond ASCII that no set of a pattern is asked for by name.
const BEYOND: u32 = u32::MAX;

/// A set of states.
type Bits = Vec<u64>;

fn set_bit(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

/// The states that go on with a character: those that it leads out of, and those that it
/// leaves in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Moves {
    out: Bits,
    stay: Bits,
}

impl Moves {
    fn add(&mut self, at: usize, step: &Step, c: u32) {
        match step {
            Step::One(set) if set.has(c) => set_bit(&mut self.out, at),
            Step::Many(set) if set.has(c) => set_bit(&mut self.stay, at),
            _ => {}
        }
    }
}

/// Steps made ready to run. State `n` stands before step `n`, the last one behind them all.
#[derive(Debug, Clone)]
pub(super) struct Automaton {
    /// The moves of the ASCII characters, each kind once.
    moves: Vec<Moves>,
    /// Which of them a character has.
    kinds: Vec<u8>,
    /// The moves of all other characters, but for the steps of `exact`.
    beyond: Moves,
    /// Steps that tell characters outside of ASCII apart.
    exact: Vec<(usize, Step)>,
    /// States that are left without a character, too.
    skips: Bits,
    /// The same, before the first character.
    first_skips: Bits,
    /// States before [`Step::Directories`].
    directories: Bits,
    last: usize,
}

impl Automaton {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        let last = steps.len();
        let empty = || vec![0; last / 64 + 1];
        let none = || Moves {
            out: empty(),
            stay: empty(),
        };
        let mut moves: Vec<Moves> = Vec::new();
        let mut kinds = Vec::new();
        for c in 0..ASCII {
            let mut own = none();
            for (at, step) in steps.iter().enumerate() {
                own.add(at, step, c);
            }
            let kind = moves.iter().position(|known| *known == own);
            let kind = kind.unwrap_or_else(|| {
                moves.push(own);
                moves.len() - 1
            });
            // There are at most as many kinds as ASCII characters.
            kinds.push(kind as u8);
        }
        let mut beyond = none();
        let (mut skips, mut first_skips, mut directories) = (empty(), empty(), empty());
        let mut exact = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            match &step {
                Step::Many(_) => set_bit(&mut skips, at),
                Step::Directories => {
                    set_bit(&mut skips, at);
                    set_bit(&mut directories, at);
                }
                Step::Start => set_bit(&mut first_skips, at),
                Step::One(_) => {}
            }
            match &step {
                Step::One(set) | Step::Many(set) if set.splits_beyond_ascii() => {
                    exact.push((at, step));
                }
                _ => beyond.add(at, &step, BEYOND),
            }
        }
        for (first, always) in first_skips.iter_mut().zip(&skips) {
            *first |= always;
        }
        Self {
            moves,
            kinds,
            beyond,
            exact,
            skips,
            first_skips,
            directories,
            last,
        }
    }

    /// Whether the whole path matches or, if asked, one of its parents.
    pub(super) fn matches(&self, path: &[u8], or_parents: bool) -> bool {
        let mut run = Run {
            at: vec![0; self.skips.len()],
            inside: vec![0; self.skips.len()],
        };
        set_bit(&mut run.at, 0);
        let mut carry = false;
        for (at, skips) in run.at.iter_mut().zip(&self.first_skips) {
            *at = skip(*at, *skips, &mut carry);
        }
        let mut special = self.beyond.clone();
        let mut rest = path;
        while let Some((c, len)) = next_char(rest) {
            if or_parents && c == u32::from('/') && self.is_done(&run) {
                return true;
            }
            rest = &rest[len..];
            let moves = match self.kinds.get(c as usize) {
                Some(kind) => &self.moves[usize::from(*kind)],
                None if self.exact.is_empty() => &self.beyond,
                None => {
                    special.clone_from(&self.beyond);
                    for (at, step) in &self.exact {
                        special.add(*at, step, c);
                    }
                    &special
                }
            };
            if !self.advance(&mut run, moves, c) {
                return false;
            }
        }
        self.is_done(&run)
    }

    fn is_done(&self, run: &Run) -> bool {
        run.at
            .last()
            .is_some_and(|word| word >> (self.last % 64) & 1 == 1)
    }

    /// Consumes one character; `false` if no state is left.
    fn advance(&self, run: &mut Run, moves: &Moves, c: u32) -> bool {
        let within = if c == u32::from('\n') { 0 } else { u64::MAX };
        let ends = if c == u32::from('/') { u64::MAX } else { 0 };
        let (mut shifted_out, mut carry) = (0, false);
        let mut live = 0;
        let states = run.at.iter_mut().zip(&mut run.inside);
        let moves = moves.out.iter().zip(&moves.stay);
        let kinds = self.skips.iter().zip(&self.directories);
        for (((at, inside), (out, stay)), (skips, directories)) in states.zip(moves).zip(kinds) {
            *inside = (*inside | (*at & directories)) & within;
            let leaves = (*at & out) | (*inside & ends);
            let entered = (leaves << 1) | shifted_out | (*at & stay);
            shifted_out = leaves >> 63;
            *at = skip(entered, *skips, &mut carry);
            live |= *at | *inside;
        }
        live != 0
    }
}

/// Adds the states that are reached from `at` without a character. A run of states that may
/// be skipped is a run of ones, and adding the entered state to it carries a one to its end.
fn skip(at: u64, skips: u64, carry: &mut bool) -> u64 {
    let (sum, over) = skips.overflowing_add(at & skips);
    let (sum, over_again) = sum.overflowing_add(u64::from(*carry));
    *carry = over || over_again;
    at | (sum ^ skips)
}

/// The states that the characters read so far can have led to.
struct Run {
    at: Bits,
    /// Within the consumed part of a `Directories` step.
    inside: Bits,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Tries one way after the other.
    fn slowly(steps: &[Step], path: &[char], start: bool) -> bool {
        let after = |set: &Set| {
            path.first()
                .filter(|c| set.has(**c as u32))
                .map(|_| &path[1..])
        };
        match steps.split_first() {
            None => path.is_empty(),
            Some((Step::One(set), next)) => {
                after(set).is_some_and(|path| slowly(next, path, false))
            }
            Some((Step::Many(set), next)) => {
                slowly(next, path, start)
                    || after(set).is_some_and(|path| slowly(steps, path, false))
            }
            Some((Step::Directories, next)) => {
                slowly(next, path, start)
                    || (0..path.len())
                        .take_while(|i| path[*i] != '\n')
                        .filter(|i| path[*i] == '/')
                        .any(|i| slowly(next, &path[i + 1..], false))
            }
            Some((Step::Start, next)) => start && slowly(next, path, start),
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let set = prop_oneof![
            prop::char::ranges(vec!['a'..='b', '/'..='/', 'é'..='é'].into())
                .prop_map(|c| Set::Char(c as u32)),
            any::<bool>().prop_map(|negated| Set::Ranges {
                negated,
                ranges: vec![('b' as u32, 'é' as u32)]
            }),
            any::<bool>().prop_map(|negated| Set::Ranges {
                negated,
                ranges: vec![('/' as u32, '/' as u32)]
            }),
            Just(Set::Any),
        ];
        prop_oneof![
            3 => set.clone().prop_map(Step::One),
            3 => set.prop_map(Step::Many),
            2 => Just(Step::Directories),
            1 => Just(Step::Start),
        ]
    }

    proptest! {
        #[test]
        fn all_ways_at_once_find_what_one_after_the_other_finds(
            steps in prop::collection::vec(step(), 0..7),
            path in "[abé/\n]{0,6}",
        ) {
            let chars: Vec<char> = path.chars().collect();
            let want = slowly(&steps, &chars, true);
            prop_assert_eq!(Automaton::new(steps).matches(path.as_bytes(), false), want);
        }

        #[test]
        fn states_beyond_one_word_work_as_those_within(
            steps in prop::collection::vec(step(), 1..5),
            fill in 55_usize..135,
            path in "[abé/]{0,5}",
        ) {
            // Steps that take nothing move the others over the edge of a word.
            let nothing = Step::Many(Set::Char(u32::from('z')));
            let mut moved = vec![nothing; fill];
            moved.extend(steps.iter().cloned());
            let want = Automaton::new(steps).matches(path.as_bytes(), false);
            prop_assert_eq!(Automaton::new(moved).matches(path.as_bytes(), false), want);
        }
    }
}
