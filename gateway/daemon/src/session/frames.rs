//! Packets on their way to a client, many in one piece: a directory has hundreds of thousands, and handing over
//! each of them alone would cost more than what it carries.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::proto::session::Packet;

/// A piece goes when it has so many bytes; or earlier, when whoever makes it has nothing more to say.
const PIECE: usize = 64 << 10;

/// What gRPC puts before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Nobody takes pieces any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Puts packets together and hands over pieces of them.
pub struct Frames<S> {
    piece: BytesMut,
    send: S,
}

impl<S: FnMut(Bytes) -> Result<(), Gone>> Frames<S> {
    pub fn new(send: S) -> Self {
        Frames {
            piece: BytesMut::new(),
            send,
        }
    }

    /// Hands pieces over when they are full.
    ///
    /// # Errors
    /// When nobody takes them.
    pub fn put(&mut self, packet: &Packet) -> Result<(), Gone> {
        let length = packet.encoded_len();
        // Pieces of files are some hundred kilobytes.
        let Ok(prefix) = u32::try_from(length) else {
            return Err(Gone);
        };
        self.piece.reserve(PREFIX + length);
        self.piece.put_u8(0);
        self.piece.put_u32(prefix);
        packet.encode_raw(&mut self.piece);
        match self.piece.len() < PIECE {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Hands over what there is.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn flush(&mut self) -> Result<(), Gone> {
        match self.piece.is_empty() {
            true => Ok(()),
            false => (self.send)(self.piece.split().freeze()),
        }
    }
}

/// The packets of a piece; `None` if it ends within one.
pub fn packets(mut piece: Bytes) -> Option<Vec<Packet>> {
    let mut packets = Vec::new();
    while !piece.is_empty() {
        piece.try_get_u8().ok()?;
        let length = usize::try_from(piece.try_get_u32().ok()?).ok()?;
        if length > piece.len() {
            return None;
        }
        packets.push(Packet::decode(piece.split_to(length)).ok()?);
    }
    Some(packets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session::packet::PacketType;

    #[test]
    fn p15_packets_go_together_and_whole_and_in_their_order() {
        let mut pieces = Vec::new();
        let mut frames = Frames::new(|piece| {
            pieces.push(piece);
            Ok(())
        });
        let said: Vec<Packet> = (0..5000)
            .map(|id| Packet {
                r#type: PacketType::Data as i32,
                id,
                data: vec![7; id as usize % 100],
                stat: None,
            })
            .collect();
        for packet in &said {
            frames.put(packet).unwrap();
        }
        frames.flush().unwrap();
        frames.flush().unwrap();
        assert!(pieces.len() < 10, "{}", pieces.len());
        let heard: Vec<Packet> = pieces.into_iter().filter_map(packets).flatten().collect();
        assert_eq!(heard, said);
    }

    #[test]
    fn what_nobody_takes_is_told() {
        let mut frames = Frames::new(|_| Err(Gone));
        frames.put(&Packet::default()).unwrap();
        assert_eq!(frames.flush(), Err(Gone));
    }
}
