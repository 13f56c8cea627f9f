//! Inputs from seeds, the same ones for the same number: no coverage guides them, but a promise that
//! was broken by a small change of a seed is not broken again unseen.

/// Bytes that readers treat specially somewhere.
const SPECIAL: &[u8] = b"\0\n\r\t \"'#$%&()*,-./0:;<=>?@[\\]^`{|}~\x7f\x80\xff";

/// What stands for other things in text, or makes numbers overflow.
const WORDS: &[&[u8]] = &[
    b"..",
    b"/../",
    b"\\\n",
    b"${",
    b"<<",
    b"null",
    b"true",
    b"-1",
    b"18446744073709551616",
    b"9223372036854775807",
    b"1e999",
    b"sha256:",
    b"\xef\xbb\xbf",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xe2\x80\xae",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
];

/// Longest input that is made: what a parser does with more it does with this.
const MOST_BYTES: usize = 64 << 10;

/// Makes inputs from seeds.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The same number makes the same inputs.
    pub fn new(number: u64) -> Self {
        Mutator { state: number }
    }

    /// Below `end`, which must not be zero. (SplitMix64: all numbers come, in an order without pattern.)
    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    /// One of the seeds with one to eight changes.
    pub fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = match seeds.len() {
            0 => Vec::new(),
            count => seeds[self.below(count)].clone(),
        };
        for _ in 0..=self.below(8) {
            self.change(&mut input, seeds);
        }
        input.truncate(MOST_BYTES);
        input
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        // Mostly short ones: long ones leave nothing of the seed.
        let longest = if self.below(4) == 0 { length } else { 16 };
        let end = start + self.below(longest.min(length - start) + 1);
        start..end
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            2 if at < input.len() => input[at] = SPECIAL[self.below(SPECIAL.len())],
            3 => input.insert(at, SPECIAL[self.below(SPECIAL.len())]),
            4 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            5 => {
                let range = self.range(input.len());
                input.drain(range);
            }
            6 => {
                let range = self.range(input.len());
                let again = input[range].to_vec();
                let times = 1 + self.below(8);
                input.splice(at..at, again.repeat(times));
            }
            7 if !seeds.is_empty() => {
                let other = &seeds[self.below(seeds.len())];
                let range = self.range(other.len());
                input.splice(at..at, other[range].iter().copied());
            }
            8 => input.truncate(at),
            _ => input.push(self.below(256) as u8),
        }
    }
}
