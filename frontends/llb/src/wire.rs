//! `prost`, with maps as Go writes them: every entry has its key and its value.
//!
//! The package leaves out keys and values that are the default. Readers take the one for the other, with two exceptions
//! that count here: the bytes of an op are its digest, so an attribute with an empty value would be another vertex than
//! the reference's; and BuildKit's reader makes no message of a value that is not there, but nothing at all, which its
//! server does not survive. Generated messages take this module for the package.

pub use ::prost::*;

/// The package's own, but for maps.
pub mod encoding {
    pub use ::prost::encoding::*;

    /// Maps of messages and scalars; none of these messages has a map of enumerations.
    pub mod btree_map {
        use std::collections::BTreeMap;

        use ::prost::bytes::BufMut;
        pub use ::prost::encoding::btree_map::merge;
        use ::prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

        /// Writes a map, its entries sorted by their keys.
        pub fn encode<K, V, B, KE, KL, VE, VL>(
            key_encode: KE,
            key_encoded_len: KL,
            val_encode: VE,
            val_encoded_len: VL,
            tag: u32,
            values: &BTreeMap<K, V>,
            buf: &mut B,
        ) where
            B: BufMut,
            KE: Fn(u32, &K, &mut B),
            KL: Fn(u32, &K) -> usize,
            VE: Fn(u32, &V, &mut B),
            VL: Fn(u32, &V) -> usize,
        {
            for (key, value) in values {
                let len = key_encoded_len(1, key) + val_encoded_len(2, value);
                encode_key(tag, WireType::LengthDelimited, buf);
                encode_varint(len as u64, buf);
                key_encode(1, key, buf);
                val_encode(2, value, buf);
            }
        }

        /// How many bytes [`encode`] writes.
        pub fn encoded_len<K, V, KL, VL>(
            key_encoded_len: KL,
            val_encoded_len: VL,
            tag: u32,
            values: &BTreeMap<K, V>,
        ) -> usize
        where
            KL: Fn(u32, &K) -> usize,
            VL: Fn(u32, &V) -> usize,
        {
            let entry = |(key, value)| {
                let len = key_encoded_len(1, key) + val_encoded_len(2, value);
                encoded_len_varint(len as u64) + len
            };
            key_len(tag) * values.len() + values.iter().map(entry).sum::<usize>()
        }
    }
}
