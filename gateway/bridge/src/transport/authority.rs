//! Frontends of before 2021 send an empty `:authority`, which HTTP/2 libraries refuse. It is always
//! the one byte 0x81 (entry 1 of HPACK's static table). [`AuthorityPatch`] follows the frames as
//! they come in and makes it 0x91, an empty `accept-language`: as long, in no table, of no meaning.
//! Nothing is decoded, copied or held back, so all limits stay those of the HTTP/2 library.

const FRAME_HEAD: usize = 9;
const TYPE_HEADERS: u8 = 1;
const TYPE_CONTINUATION: u8 = 9;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u32 = 5;

const EMPTY_AUTHORITY: u8 = 0x81;
const EMPTY_ACCEPT_LANGUAGE: u8 = 0x91;

/// An HPACK integer longer than this is no length of anything that we accept.
const MAX_INTEGER_SHIFT: u32 = 28;

/// Where in the sequence of frames the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Head { filled: usize },
    PadLength,
    Priority { left: u32 },
    Fragment { left: u32 },
    Skip { left: u32 },
}

/// Where in a header block the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Start,
    /// The rest of an integer after which the field ends.
    IndexRest,
    /// The rest of the integer that names an indexed name; a value follows.
    NameIndexRest,
    NameLength,
    NameLengthRest(Integer),
    Name {
        left: u32,
    },
    ValueLength,
    ValueLengthRest(Integer),
    Value {
        left: u32,
    },
    /// Not HPACK: left as it is, the HTTP/2 library says what is wrong.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Integer {
    value: u32,
    shift: u32,
}

/// Follows the frames after the connection preface, resumable at any byte.
#[derive(Debug)]
pub struct AuthorityPatch {
    frame: Frame,
    head: [u8; FRAME_HEAD],
    /// What is left of the frame's payload, its padding included.
    payload: u32,
    padding: u32,
    field: Field,
    patched: bool,
}

impl Default for AuthorityPatch {
    fn default() -> Self {
        AuthorityPatch {
            frame: Frame::Head { filled: 0 },
            head: [0; FRAME_HEAD],
            payload: 0,
            padding: 0,
            field: Field::Start,
            patched: false,
        }
    }
}

impl AuthorityPatch {
    /// Patches the next bytes of the stream in place.
    pub fn apply(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let used = self.step(bytes);
            // `step` never uses more than it was given.
            bytes = bytes.get_mut(used..).unwrap_or_default();
        }
    }

    /// Whether all frames so far are whole.
    pub fn is_between_frames(&self) -> bool {
        self.frame == Frame::Head { filled: 0 }
    }

    /// Whether there was anything to patch.
    pub fn has_patched(&self) -> bool {
        self.patched
    }

    /// Handles a first part of `bytes`; how many bytes that was, at least one.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        match self.frame {
            Frame::Head { filled } => self.take_head(filled, bytes),
            Frame::PadLength => {
                self.padding = u32::from(bytes.first().copied().unwrap_or_default());
                self.payload = self.payload.saturating_sub(1);
                self.after_pad_length();
                1
            }
            Frame::Priority { left } => {
                let used = part(left, bytes.len());
                self.payload = self.payload.saturating_sub(used as u32);
                match left - used as u32 {
                    0 => self.begin_fragment(),
                    left => self.frame = Frame::Priority { left },
                }
                used
            }
            Frame::Fragment { left } => {
                let used = part(left, bytes.len());
                for byte in bytes.iter_mut().take(used) {
                    self.header_byte(byte);
                }
                match left - used as u32 {
                    0 => self.skip(self.padding),
                    left => self.frame = Frame::Fragment { left },
                }
                used
            }
            Frame::Skip { left } => {
                let used = part(left, bytes.len());
                self.skip(left - used as u32);
                used
            }
        }
    }

    fn take_head(&mut self, filled: usize, bytes: &[u8]) -> usize {
        let used = (FRAME_HEAD - filled).min(bytes.len());
        for (to, from) in self.head.iter_mut().skip(filled).zip(bytes) {
            *to = *from;
        }
        if filled + used < FRAME_HEAD {
            self.frame = Frame::Head {
                filled: filled + used,
            };
            return used;
        }
        let [a, b, c, kind, flags, ..] = self.head;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        self.padding = 0;
        match kind {
            TYPE_HEADERS => {
                self.field = Field::Start;
                if flags & FLAG_PADDED == 0 {
                    self.after_pad_length();
                } else if self.payload == 0 {
                    self.skip(0);
                } else {
                    self.frame = Frame::PadLength;
                }
            }
            TYPE_CONTINUATION => self.begin_fragment(),
            _ => self.skip(self.payload),
        }
        used
    }

    fn after_pad_length(&mut self) {
        let [.., flags, _, _, _, _] = self.head;
        if flags & FLAG_PRIORITY == 0 {
            self.begin_fragment();
        } else if self.payload < PRIORITY_BYTES {
            self.skip(self.payload);
        } else {
            self.frame = Frame::Priority {
                left: PRIORITY_BYTES,
            };
        }
    }

    fn begin_fragment(&mut self) {
        match self.payload.checked_sub(self.padding) {
            // More padding than payload: a broken frame.
            None => self.skip(self.payload),
            Some(0) => self.skip(self.padding),
            Some(left) => self.frame = Frame::Fragment { left },
        }
    }

    fn skip(&mut self, left: u32) {
        self.frame = match left {
            0 => Frame::Head { filled: 0 },
            left => Frame::Skip { left },
        };
    }

    fn header_byte(&mut self, byte: &mut u8) {
        let read = *byte;
        self.field = match self.field {
            Field::Start => {
                if read == EMPTY_AUTHORITY {
                    *byte = EMPTY_ACCEPT_LANGUAGE;
                    self.patched = true;
                }
                field_start(read)
            }
            Field::IndexRest if read & 0x80 != 0 => Field::IndexRest,
            Field::IndexRest => Field::Start,
            Field::NameIndexRest if read & 0x80 != 0 => Field::NameIndexRest,
            Field::NameIndexRest => Field::ValueLength,
            Field::NameLength => length(read, name_of, Field::NameLengthRest),
            Field::NameLengthRest(integer) => more(integer, read, name_of, Field::NameLengthRest),
            Field::Name { left: 0 | 1 } => Field::ValueLength,
            Field::Name { left } => Field::Name { left: left - 1 },
            Field::ValueLength => length(read, value_of, Field::ValueLengthRest),
            Field::ValueLengthRest(integer) => {
                more(integer, read, value_of, Field::ValueLengthRest)
            }
            Field::Value { left: 0 | 1 } => Field::Start,
            Field::Value { left } => Field::Value { left: left - 1 },
            Field::Lost => Field::Lost,
        };
    }
}

fn part(left: u32, available: usize) -> usize {
    available.min(usize::try_from(left).unwrap_or(usize::MAX))
}

/// The first byte of a field: its kind by the leading bits, and an integer in the rest.
fn field_start(byte: u8) -> Field {
    if byte & 0x80 != 0 {
        return match byte & 0x7f == 0x7f {
            true => Field::IndexRest,
            false => Field::Start,
        };
    }
    let (mask, size_update) = match byte {
        0x40.. => (0x3f, false),
        0x20.. => (0x1f, true),
        _ => (0x0f, false),
    };
    match (byte & mask, size_update) {
        (index, true) if index == mask => Field::IndexRest,
        (_, true) => Field::Start,
        (0, false) => Field::NameLength,
        (index, false) if index == mask => Field::NameIndexRest,
        _ => Field::ValueLength,
    }
}

/// The first byte of a string: a flag (Huffman) and its length in seven bits.
fn length(byte: u8, string: fn(u32) -> Field, rest: fn(Integer) -> Field) -> Field {
    match u32::from(byte & 0x7f) {
        0x7f => rest(Integer {
            value: 0x7f,
            shift: 0,
        }),
        value => string(value),
    }
}

fn more(integer: Integer, byte: u8, string: fn(u32) -> Field, rest: fn(Integer) -> Field) -> Field {
    if integer.shift >= MAX_INTEGER_SHIFT {
        return Field::Lost;
    }
    let Some(value) = (u32::from(byte & 0x7f) << integer.shift).checked_add(integer.value) else {
        return Field::Lost;
    };
    if byte & 0x80 == 0 {
        return string(value);
    }
    rest(Integer {
        value,
        shift: integer.shift + 7,
    })
}

fn name_of(length: u32) -> Field {
    match length {
        0 => Field::ValueLength,
        left => Field::Name { left },
    }
}

fn value_of(length: u32) -> Field {
    match length {
        0 => Field::Start,
        left => Field::Value { left },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn integer(prefix_bits: u32, flags: u8, mut value: u32, out: &mut Vec<u8>) {
        let max = (1u32 << prefix_bits) - 1;
        if value < max {
            out.push(flags | value as u8);
            return;
        }
        out.push(flags | max as u8);
        value -= max;
        while value >= 0x80 {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    /// A header field in one of HPACK's representations.
    #[derive(Debug, Clone)]
    enum TestField {
        Indexed(u32),
        Literal {
            bits: u32,
            flags: u8,
            name_index: u32,
            name: Vec<u8>,
            value: Vec<u8>,
            huffman: bool,
        },
        SizeUpdate(u32),
    }

    impl TestField {
        /// `expected` differs from `sent` in nothing but empty authorities.
        fn encode(&self, sent: &mut Vec<u8>, expected: &mut Vec<u8>) {
            let mut bytes = Vec::new();
            match self {
                TestField::Indexed(1) => {
                    sent.push(0x81);
                    expected.push(0x91);
                    return;
                }
                TestField::Indexed(index) => integer(7, 0x80, *index, &mut bytes),
                TestField::SizeUpdate(size) => integer(5, 0x20, *size, &mut bytes),
                TestField::Literal {
                    bits,
                    flags,
                    name_index,
                    name,
                    value,
                    huffman,
                } => {
                    let flag = if *huffman { 0x80 } else { 0 };
                    integer(*bits, *flags, *name_index, &mut bytes);
                    if *name_index == 0 {
                        integer(7, flag, name.len() as u32, &mut bytes);
                        bytes.extend(name);
                    }
                    integer(7, flag, value.len() as u32, &mut bytes);
                    bytes.extend(value);
                }
            }
            sent.extend(&bytes);
            expected.extend(&bytes);
        }
    }

    fn field() -> impl Strategy<Value = TestField> {
        let string = || {
            prop_oneof![
                prop::collection::vec(prop_oneof![Just(0x81u8), any::<u8>()], 0..40),
                prop::collection::vec(Just(0x81u8), 100..400),
            ]
        };
        let kind = prop_oneof![Just((6u32, 0x40u8)), Just((4, 0x00)), Just((4, 0x10))];
        let literal = (kind, 0u32..300, string(), string(), any::<bool>()).prop_map(
            |((bits, flags), name_index, name, value, huffman)| TestField::Literal {
                bits,
                flags,
                name_index,
                name,
                value,
                huffman,
            },
        );
        prop_oneof![
            2 => Just(TestField::Indexed(1)),
            2 => (1u32..400).prop_map(TestField::Indexed),
            1 => (0u32..5000).prop_map(TestField::SizeUpdate),
            4 => literal,
        ]
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    /// A header block in a HEADERS frame and CONTINUATIONs, cut at `cuts`.
    fn block(
        fields: &[TestField],
        cuts: &[usize],
        pad: Option<u8>,
        priority: bool,
    ) -> (Vec<u8>, Vec<u8>) {
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for field in fields {
            field.encode(&mut sent, &mut expected);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (sent.len() + 1)).collect();
        cuts.extend([0, sent.len()]);
        cuts.sort_unstable();
        let build = |bytes: &[u8]| {
            let mut frames = Vec::new();
            for (number, cut) in cuts.windows(2).enumerate() {
                let fragment = &bytes[cut[0]..cut[1]];
                if number > 0 {
                    frames.extend(frame(TYPE_CONTINUATION, 4, fragment));
                    continue;
                }
                let (mut payload, mut flags) = (Vec::new(), 0);
                if let Some(pad) = pad {
                    flags |= FLAG_PADDED;
                    payload.push(pad);
                }
                if priority {
                    flags |= FLAG_PRIORITY;
                    payload.extend([0x81; 5]);
                }
                payload.extend(fragment);
                payload.extend(vec![0x81; usize::from(pad.unwrap_or(0))]);
                frames.extend(frame(TYPE_HEADERS, flags, &payload));
            }
            frames
        };
        (build(&sent), build(&expected))
    }

    fn frames() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let headers = (
            prop::collection::vec(field(), 0..8),
            prop::collection::vec(any::<usize>(), 0..4),
            prop::option::of(any::<u8>()),
            any::<bool>(),
        )
            .prop_map(|(fields, cuts, pad, priority)| block(&fields, &cuts, pad, priority));
        let other = (
            prop_oneof![Just(0u8), Just(2), Just(4), Just(6), Just(77)],
            prop::collection::vec(Just(0x81u8), 0..300),
        )
            .prop_map(|(kind, payload)| {
                let frame = frame(kind, 0xff, &payload);
                (frame.clone(), frame)
            });
        prop::collection::vec(prop_oneof![2 => headers, 1 => other], 0..12).prop_map(|parts| {
            parts.into_iter().fold(
                (Vec::new(), Vec::new()),
                |(mut sent, mut expected), (a, b)| {
                    sent.extend(a);
                    expected.extend(b);
                    (sent, expected)
                },
            )
        })
    }

    fn apply_in_chunks(bytes: &mut [u8], chunks: &[usize]) {
        let mut patch = AuthorityPatch::default();
        let mut rest = bytes;
        let mut sizes = chunks.iter().cycle();
        while !rest.is_empty() {
            let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
            let (now, later) = rest.split_at_mut(size);
            patch.apply(now);
            rest = later;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn exactly_the_empty_authorities_change_however_the_bytes_arrive(
            (mut sent, expected) in frames(),
            chunks in prop::collection::vec(1usize..200, 1..8),
        ) {
            apply_in_chunks(&mut sent, &chunks);
            prop_assert_eq!(sent, expected);
        }

        #[test]
        fn garbage_is_never_more_than_patched_and_chunks_do_not_matter(
            bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..2000),
            chunks in prop::collection::vec(1usize..50, 1..8),
        ) {
            let (mut whole, mut parts) = (bytes.clone(), bytes.clone());
            AuthorityPatch::default().apply(&mut whole);
            apply_in_chunks(&mut parts, &chunks);
            prop_assert_eq!(&whole, &parts);
            for (before, after) in bytes.iter().zip(&whole) {
                prop_assert!(before == after || (*before == 0x81 && *after == 0x91));
            }
        }
    }

    #[test]
    fn p01_the_request_of_a_2018_frontend_gets_an_accept_language() {
        let path = b"/moby.buildkit.v1.frontend.LLBBridge/Ping";
        let mut payload = vec![0x83, 0x86, 0x44, path.len() as u8];
        payload.extend(path);
        let at = FRAME_HEAD + payload.len();
        payload.extend([0x81, 0x40, 1, 0x81, 1, 0x81]);
        let mut bytes = frame(TYPE_HEADERS, 4, &payload);
        AuthorityPatch::default().apply(&mut bytes);
        assert_eq!(bytes[at], 0x91);
        assert_eq!(bytes[at + 1..], [0x40, 1, 0x81, 1, 0x81]);
    }
}
