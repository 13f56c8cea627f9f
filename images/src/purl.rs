//! Package URLs of images, by which statements name what they are about.

use std::fmt::Write as _;

use crate::platform::Platform;
use crate::reference::Reference;

/// `pkg:docker/NAMESPACE/NAME@TAG?platform=linux%2Famd64`, with the digest if the reference has one.
pub fn image(reference: &Reference, platform: &Platform) -> String {
    let (mut url, separator) = named(reference);
    let platform = escaped(&platform.normalized().to_string());
    let _ = write!(url, "{separator}platform={platform}");
    url
}

/// The same of a single blob in the image's repository.
pub fn blob(reference: &Reference) -> String {
    let (url, separator) = named(reference);
    format!("{url}{separator}ref_type=blob")
}

/// Without a platform, and what separates the next qualifier.
fn named(reference: &Reference) -> (String, char) {
    let familiar = reference.familiar();
    let name = familiar.split('@').next().unwrap_or_default();
    // A colon before the last slash belongs to a port.
    let name = match (name.rfind(':'), name.rfind('/')) {
        (Some(colon), slash) if slash.is_none_or(|slash| slash < colon) => {
            name.get(..colon).unwrap_or(name)
        }
        _ => name,
    };
    let parts: Vec<String> = name.split('/').map(escaped).collect();
    let mut url = format!("pkg:docker/{}", parts.join("/"));
    if let Some(tag) = reference.tag() {
        let _ = write!(url, "@{tag}");
    }
    let mut separator = '?';
    if let Some(digest) = reference.digest() {
        let _ = write!(url, "?digest={}", escaped(&digest.to_string()));
        separator = '&';
    }
    (url, separator)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_its_parts_and_platform() {
        let zeros = "0".repeat(64);
        for (name, wanted) in [
            ("alpine", "pkg:docker/alpine@latest".to_owned()),
            ("a/b:1.2", "pkg:docker/a/b@1.2".to_owned()),
            (
                "localhost:5000/a/b",
                "pkg:docker/localhost%3A5000/a/b@latest".to_owned(),
            ),
            (
                &format!("h.example/b@sha256:{zeros}"),
                format!("pkg:docker/h.example/b?digest=sha256%3A{zeros}"),
            ),
        ] {
            let reference = Reference::parse(name).unwrap();
            let url = image(&reference, &Platform::new("linux", "arm", "v7"));
            let separator = if wanted.contains('?') { '&' } else { '?' };
            assert_eq!(url, format!("{wanted}{separator}platform=linux%2Farm%2Fv7"));
        }
    }
}
