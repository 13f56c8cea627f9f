//! The name that a downloaded file gets.

/// When nothing says a usable one.
const DEFAULT: &str = "download";

/// The given name, else that of the `Content-Disposition` header, else the last part of the URL's
/// path.
pub fn file_name(url: &str, given: &str, disposition: Option<&str>) -> String {
    if !given.is_empty() {
        return safe(given);
    }
    if let Some(name) = disposition.and_then(disposition_name)
        && !name.is_empty()
        && !name.ends_with('/')
    {
        return safe(&name);
    }
    safe(path(url).trim_end_matches('/'))
}

/// One component of a path that means a file.
pub fn safe(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or_default();
    let usable = !matches!(base, "" | "." | "..") && !base.chars().any(char::is_control);
    match usable {
        true => base.to_owned(),
        false => DEFAULT.to_owned(),
    }
}

/// The decoded path of a URL.
fn path(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    decode(path).unwrap_or_else(|| path.to_owned())
}

/// The host of a URL, without port and user.
pub fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.to_owned()
}

/// `%41` is `A`. `None` when it is no UTF-8 or cut short.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

/// The `filename` parameter of a `Content-Disposition`; the encoded form wins (RFC 6266).
fn disposition_name(header: &str) -> Option<String> {
    let (kind, mut rest) = header.split_once(';')?;
    let is_token = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    if !is_token(kind.trim()) {
        return None;
    }
    let (mut plain, mut encoded) = (None, None);
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        if rest.is_empty() {
            break;
        }
        let (key, after) = rest.split_once('=')?;
        let key = key.trim().to_ascii_lowercase();
        if !is_token(&key) {
            return None;
        }
        let (value, after) = value(after.trim_start())?;
        match key.as_str() {
            "filename" => plain = Some(value),
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                let charset = parts.next().unwrap_or_default();
                let text = parts.nth(1).unwrap_or_default();
                if charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii")
                {
                    encoded = decode(text);
                }
            }
            _ => {}
        }
        rest = after;
    }
    encoded.or(plain)
}

/// A token or a quoted string, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return Some((token.trim().to_owned(), rest));
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, quoted.get(at + 1..)?)),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_comes_from_the_first_that_says_one() {
        let url = "https://u@example.com:8443/a/b%20c.tar?sig=/x#f";
        assert_eq!(
            file_name(url, "given", Some("attachment; filename=d")),
            "given"
        );
        assert_eq!(file_name(url, "", Some("attachment; filename=d")), "d");
        assert_eq!(file_name(url, "", None), "b c.tar");
        assert_eq!(file_name("https://example.com/a/", "", None), "a");
        assert_eq!(file_name("https://example.com", "", None), "download");
        assert_eq!(
            file_name("https://example.com/%2e%2e", "", None),
            "download"
        );
        assert_eq!(host(url), "example.com");
        assert_eq!(host("http://[::1]:80/x"), "::1");
    }

    #[test]
    fn a_content_disposition_is_read_with_quotes_and_encoding() {
        for (header, name) in [
            (
                "attachment; filename=\"a b; c.txt\"; x=y",
                Some("a b; c.txt"),
            ),
            ("inline;FILENAME=x.txt", Some("x.txt")),
            (
                "attachment; filename=e.txt; filename*=UTF-8''%e2%82%ac.txt",
                Some("€.txt"),
            ),
            ("attachment; filename=\"q\\\"q\"", Some("q\"q")),
            ("attachment; filename=\"open", None),
            ("attachment", None),
        ] {
            assert_eq!(disposition_name(header).as_deref(), name, "{header}");
        }
        let climbing = Some("attachment; filename=\"../../etc/passwd\"");
        assert_eq!(file_name("http://h/x", "", climbing), "passwd");
    }

    proptest! {
        #[test]
        fn a_name_is_always_one_component(url in ".*", given in ".*", header in ".*") {
            for name in [
                file_name(&url, &given, Some(&header)),
                file_name(&format!("http://h/{url}"), "", Some(&format!("a; filename={header}"))),
            ] {
                prop_assert!(!name.is_empty() && name != "." && name != "..");
                prop_assert!(!name.contains('/') && !name.contains('\0'));
            }
        }
    }
}
