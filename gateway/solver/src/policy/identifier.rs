//! The one spelling of an identifier that rules are compared with: a rule about
//! `docker-image://docker.io/library/alpine:*` means that image however a frontend writes it.

use std::collections::BTreeMap;

use gateway_images::reference::Reference;
use gateway_llb::{GitRemote, pb};

use crate::ops::git::Git;

const FULL_URL: &str = "git.fullurl";

/// As it would be fetched; as it is given when it cannot be.
pub fn normalized(source: &pb::SourceOp) -> String {
    let given = || source.identifier.clone();
    let Some((scheme, rest)) = source.identifier.split_once("://") else {
        return given();
    };
    match scheme {
        "docker-image" | "oci-layout" | "docker-image+blob" | "oci-layout+blob" => {
            match Reference::parse(rest) {
                Ok(reference) => format!("{scheme}://{reference}"),
                Err(_) => given(),
            }
        }
        // Where it really comes from may be said beside the identifier.
        "git" => match Git::of(source) {
            Ok(git) => git_identifier(&git),
            Err(_) => given(),
        },
        _ => given(),
    }
}

fn git_identifier(git: &Git) -> String {
    let place = match GitRemote::parse(&git.remote) {
        Ok(remote) => format!("{}/{}", remote.host, remote.path.trim_matches('/')),
        Err(_) => git.remote.clone(),
    };
    let mut text = format!("git://{place}");
    if !git.reference.is_empty() || !git.subdir.is_empty() {
        text = format!("{text}#{}", git.reference);
    }
    if !git.subdir.is_empty() {
        text = format!("{text}:{}", git.subdir);
    }
    text
}

/// Gives the source another identifier. A git source may carry its address as an attribute too,
/// which would win over the identifier: it goes, unless the rule set it or it means the same.
pub fn replace(source: &mut pb::SourceOp, identifier: String, set: &BTreeMap<String, String>) {
    source.identifier = identifier;
    if source.attrs.contains_key(FULL_URL) && !set.contains_key(FULL_URL) {
        let with = normalized(source);
        let address = source.attrs.remove(FULL_URL);
        if let (true, Some(address)) = (normalized(source) == with, address) {
            source.attrs.insert(FULL_URL.to_owned(), address);
        }
    }
    source.identifier = normalized(source);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(identifier: &str, url: Option<&str>) -> pb::SourceOp {
        pb::SourceOp {
            identifier: identifier.into(),
            attrs: url
                .map(|url| (FULL_URL.to_owned(), url.to_owned()))
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn each_source_has_one_spelling() {
        for (given, url, wanted) in [
            (
                "docker-image://alpine",
                None,
                "docker-image://docker.io/library/alpine:latest",
            ),
            (
                "docker-image://index.docker.io/a/b:1",
                None,
                "docker-image://docker.io/a/b:1",
            ),
            ("docker-image://No Name", None, "docker-image://No Name"),
            (
                "https://example.com/a?b#c",
                None,
                "https://example.com/a?b#c",
            ),
            ("local://context", None, "local://context"),
            (
                "git://example.com/r.git#v1:/sub/",
                None,
                "git://example.com/r.git#v1:sub",
            ),
            (
                "git://example.com/r.git#v1",
                Some("git@evil.example:x/r.git"),
                "git://evil.example/x/r.git#v1",
            ),
            ("nothing", None, "nothing"),
        ] {
            assert_eq!(normalized(&op(given, url)), wanted, "{given}");
        }
    }

    #[test]
    fn an_address_beside_the_identifier_does_not_outlive_a_conversion() {
        let mut source = op("git://a.example/r.git", Some("git@a.example:r.git"));
        replace(
            &mut source,
            "git://a.example/r.git#v2".into(),
            &BTreeMap::new(),
        );
        assert_eq!(source.attrs[FULL_URL], "git@a.example:r.git");
        replace(
            &mut source,
            "git://b.example/r.git#v2".into(),
            &BTreeMap::new(),
        );
        assert!(source.attrs.is_empty());
        assert_eq!(source.identifier, "git://b.example/r.git#v2");
    }
}
