//! The words of SOCKS 5 (RFC 1928, logins as RFC 1929) for the staged connection; requests speak it through the HTTP
//! client. The proxy gets the name: with a tunnel out of a network the names of that network are its own.

use std::io::{self, Read, Write};

use percent_encoding::percent_decode_str;
use reqwest::Url;

/// Schemes of such proxies.
const SCHEMES: [&str; 2] = ["socks5", "socks5h"];
/// The port where the proxy's URL has none.
pub(crate) const PORT: u16 = 1080;

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const NAME: u8 = 3;

/// Why there is no connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The proxy wants a login, or another one.
    Login,
    Other(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Other(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the proxy's answer breaks off".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// Whether a proxy is one of these.
pub(crate) fn is_socks(proxy: &str) -> bool {
    let scheme = proxy.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| SCHEMES.iter().any(|s| s.eq_ignore_ascii_case(scheme)))
}

/// Part of a URL's login as it was meant.
pub(crate) fn decoded(part: &str) -> Vec<u8> {
    percent_decode_str(part).collect()
}

/// Asks for a connection to a host; the stream leads there afterwards.
pub(super) fn open(
    stream: &mut (impl Read + Write),
    proxy: &str,
    (host, port): (&str, u16),
) -> Result<(), Refusal> {
    let login = Url::parse(proxy)
        .ok()
        .filter(|url| !url.username().is_empty());
    let login = login.map(|url| {
        let password = url.password().unwrap_or_default();
        (decoded(url.username()), decoded(password))
    });
    let methods: &[u8] = match login {
        Some(_) => &[VERSION, 2, NO_LOGIN, LOGIN],
        None => &[VERSION, 1, NO_LOGIN],
    };
    stream.write_all(methods)?;
    match (read::<2>(stream)?, login) {
        ([VERSION, NO_LOGIN], _) => {}
        ([VERSION, LOGIN], Some((name, password))) => {
            let mut words = vec![LOGIN_VERSION];
            for part in [name, password] {
                words.push(length(part.len(), "login")?);
                words.extend(part);
            }
            stream.write_all(&words)?;
            if read::<2>(stream)?[1] != 0 {
                return Err(Refusal::Login);
            }
        }
        // No method that was offered, or one that was not.
        ([VERSION, _], _) => return Err(Refusal::Login),
        _ => {
            return Err(Refusal::Other(
                "the proxy does not speak SOCKS 5".to_owned(),
            ));
        }
    }
    let mut words = vec![VERSION, CONNECT, 0, NAME, length(host.len(), "name")?];
    words.extend(host.as_bytes());
    words.extend(port.to_be_bytes());
    stream.write_all(&words)?;
    let [_, code, _, kind] = read::<4>(stream)?;
    if code != 0 {
        return Err(Refusal::Other(refused(code)));
    }
    // The address that it has there, of no use here.
    let size = match kind {
        1 => 4,
        NAME => usize::from(read::<1>(stream)?[0]),
        4 => 16,
        _ => return Err(Refusal::Other("the proxy's answer has no form".to_owned())),
    };
    stream.read_exact(&mut vec![0; size + 2])?;
    Ok(())
}

fn read<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn length(size: usize, what: &str) -> Result<u8, Refusal> {
    u8::try_from(size).map_err(|_| Refusal::Other(format!("a {what} of more than 255 bytes")))
}

fn refused(code: u8) -> String {
    let known = match code {
        1 => "general server failure",
        2 => "connection not allowed",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "ttl expired",
        7 => "command not supported",
        8 => "address type not supported",
        code => return format!("the proxy answered {code}"),
    };
    format!("the proxy answered: {known}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read, and what was written.
    struct Both<'a>(&'a [u8], Vec<u8>);

    impl Read for Both<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Both<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn opened(answers: &[u8], proxy: &str) -> (Result<(), Refusal>, Vec<u8>) {
        let mut both = Both(answers, Vec::new());
        let opened = open(&mut both, proxy, ("r.a", 443));
        (opened, both.1)
    }

    #[test]
    fn a_name_is_asked_for_with_the_login_that_the_proxy_wants() {
        let asked = b"\x05\x01\0\x03\x03r.a\x01\xbb";
        let (done, said) = opened(b"\x05\0\x05\0\0\x01\x7f\0\0\x01\0\x50", "socks5://p:1080");
        assert_eq!(done, Ok(()));
        assert_eq!(said, [b"\x05\x01\0".as_slice(), asked].concat());
        let answers = b"\x05\x02\x01\0\x05\0\0\x03\x01x\0\x50";
        let (done, said) = opened(answers, "socks5h://u:p%40s@p");
        assert_eq!(done, Ok(()));
        let login = b"\x05\x02\0\x02\x01\x01u\x03p@s";
        assert_eq!(said, [login.as_slice(), asked].concat());
    }

    #[test]
    fn refusals_are_told_apart() {
        let other = |text: &str| Err(Refusal::Other(text.to_owned()));
        for (answers, expected) in [
            (b"\x05\xff".as_slice(), Err(Refusal::Login)),
            (b"\x05\x02", Err(Refusal::Login)),
            (b"HT", other("the proxy does not speak SOCKS 5")),
            (b"\x05", other("the proxy's answer breaks off")),
            (
                b"\x05\0\x05\x05\0\x01",
                other("the proxy answered: connection refused"),
            ),
            (b"\x05\0\x05\x63\0\x01", other("the proxy answered 99")),
            (
                b"\x05\0\x05\0\0\x09",
                other("the proxy's answer has no form"),
            ),
            (
                b"\x05\0\x05\0\0\x04\0",
                other("the proxy's answer breaks off"),
            ),
        ] {
            assert_eq!(opened(answers, "socks5://p").0, expected, "{answers:?}");
        }
        let wrong = opened(b"\x05\x02\x01\x01", "socks5://u@p").0;
        assert_eq!(wrong, Err(Refusal::Login));
    }

    proptest::proptest! {
        #[test]
        fn any_answer_ends(answers in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let _ = opened(&answers, "socks5://u:p@p");
        }
    }

    #[test]
    fn schemes_are_known() {
        for (proxy, socks) in [
            ("socks5://p", true),
            ("SOCKS5h://p", true),
            ("socks4://p", false),
            ("http://p", false),
            ("p:1080", false),
        ] {
            assert_eq!(is_socks(proxy), socks, "{proxy}");
        }
    }
}
