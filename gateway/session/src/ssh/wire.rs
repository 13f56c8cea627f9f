//! The messages of the agent protocol, as far as listing keys and signing need them
//! (<https://datatracker.ietf.org/doc/html/draft-ietf-sshm-ssh-agent>).

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest message: what OpenSSH's own agent takes.
pub const MAX_MESSAGE: usize = 256 * 1024;

pub const FAILURE: u8 = 5;
pub const REQUEST_IDENTITIES: u8 = 11;
pub const IDENTITIES_ANSWER: u8 = 12;
pub const SIGN_REQUEST: u8 = 13;
pub const SIGN_RESPONSE: u8 = 14;

/// The next message, its type first; `None` when the other side has hung up.
///
/// # Errors
/// For a message that is empty or too large, and when reading fails.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > MAX_MESSAGE {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("an agent message of {length} bytes"),
        ));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

pub async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(message.len() + 4);
    put_length(&mut bytes, message.len());
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // No message or key here is near 4 GiB.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// A string of the protocol: its length, then its bytes.
pub fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_length(out, text.len());
    out.extend_from_slice(text);
}

/// Takes a string off the front.
pub fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let text = after.get(..length)?;
    *rest = after.get(length..)?;
    Some(text)
}

/// What a sign request asks: the public key, the data, the flags.
pub fn sign_request(message: &[u8]) -> Option<(&[u8], &[u8], u32)> {
    let mut rest = message.strip_prefix(&[SIGN_REQUEST])?;
    let key = take_string(&mut rest)?;
    let data = take_string(&mut rest)?;
    let flags = rest
        .first_chunk::<4>()
        .map_or(0, |b| u32::from_be_bytes(*b));
    Some((key, data, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_request_is_read_and_a_cut_one_is_not() {
        let mut message = vec![SIGN_REQUEST];
        put_string(&mut message, b"key");
        put_string(&mut message, b"data");
        message.extend_from_slice(&4_u32.to_be_bytes());
        assert_eq!(sign_request(&message), Some((&b"key"[..], &b"data"[..], 4)));
        for end in 0..message.len() - 4 {
            assert_eq!(sign_request(&message[..end]), None, "{end}");
        }
    }

    #[tokio::test]
    async fn a_message_larger_than_any_is_refused() {
        let mut huge: &[u8] = &u32::MAX.to_be_bytes();
        assert!(read(&mut huge).await.is_err());
        let mut empty: &[u8] = &[0; 4];
        assert!(read(&mut empty).await.is_err());
        let mut closed: &[u8] = &[];
        assert!(read(&mut closed).await.unwrap().is_none());
    }
}
