//! The words of COPY and ADD: destinations, modes, digests, addresses.

use gateway_api::Error;
use gateway_llb::Chmod;

use crate::parse::quote::go_quote;
use gateway_frontend::conventions::git_ref::GitRef;

/// An empty destination and `.` mean the working directory, not a file of its name.
pub fn relative_dest(dest: &str) -> &str {
    match dest {
        "" | "." => "./",
        other => other,
    }
}

/// Octal or symbolic permissions.
pub fn chmod(text: &str) -> Result<Chmod, Error> {
    let refuse = || {
        Error::unknown(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        ))
    };
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let bits = u32::from_str_radix(text, 8).map_err(|_| refuse())?;
        return if bits > 0o7777 {
            Err(refuse())
        } else {
            Ok(Chmod::Bits(bits))
        };
    }
    // What begins like a number was meant as one.
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refuse());
    }
    if is_symbolic_mode(text) {
        return Ok(Chmod::Symbolic(text.to_owned()));
    }
    Err(Error::unknown(format!(
        "invalid syntax: chmod {}",
        go_quote(text)
    )))
}

/// `[ugoa]*([-+=]([rwxXstugo]*))+`, comma separated.
fn is_symbolic_mode(text: &str) -> bool {
    text.split(',').all(|clause| {
        let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        rest.starts_with(['+', '-', '='])
            && rest.chars().all(|c| {
                matches!(
                    c,
                    '+' | '-' | '=' | 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o'
                )
            })
    })
}

/// A digest of a known algorithm; empty for none.
pub fn digest(text: Option<&str>) -> Result<String, Error> {
    let Some(text) = text else {
        return Ok(String::new());
    };
    let (algorithm, hex) = text
        .split_once(':')
        .ok_or_else(|| Error::unknown("invalid checksum digest format"))?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Error::unknown("unsupported digest algorithm")),
    };
    if hex.len() != length {
        return Err(Error::unknown("invalid checksum digest length"));
    }
    if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Error::unknown("invalid checksum digest format"));
    }
    Ok(text.to_owned())
}

/// An address of a file of the web, not of a repository.
pub fn is_http(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://"))
        && GitRef::parse(source).is_none()
}

/// The name of a downloaded file: the last part of its address.
pub fn url_filename(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let name = rest
        .split_once('/')
        .map_or("", |(_, path)| path.trim_end_matches('/'))
        .rsplit('/')
        .next()
        .unwrap_or_default();
    if name.is_empty() {
        return "__unnamed__".to_owned();
    }
    percent_decode(name)
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(value) if *first == b'%' => {
                out.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a path is a pattern.
pub fn has_wildcard(name: &str) -> bool {
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        assert_eq!(chmod("0644").unwrap(), Chmod::Bits(0o644));
        assert_eq!(
            chmod("u=rwX,go=").unwrap(),
            Chmod::Symbolic("u=rwX,go=".into())
        );
        for bad in ["99999", "17777", "8"] {
            assert!(
                chmod(bad)
                    .unwrap_err()
                    .message
                    .starts_with("invalid chmod parameter")
            );
        }
        assert!(chmod("zz").unwrap_err().message.contains("invalid syntax"));
    }

    #[test]
    fn downloads_are_named_after_their_address() {
        assert_eq!(url_filename("http://h/a/b%20c.txt?x#y"), "b c.txt");
        assert_eq!(url_filename("http://h"), "__unnamed__");
        assert_eq!(url_filename("http://h/"), "__unnamed__");
    }
}
