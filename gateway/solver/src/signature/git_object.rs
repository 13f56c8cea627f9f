//! Signed commits and tags: what of them is the signature, and what it signs.

use sha2::{Digest as _, Sha256};

use super::{SignatureError, crypto};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    Commit,
    Tag,
}

impl ObjectKind {
    fn name(self) -> &'static str {
        match self {
            ObjectKind::Commit => "commit",
            ObjectKind::Tag => "tag",
        }
    }
}

/// An object as git keeps it, read.
#[derive(Debug, PartialEq, Eq)]
pub struct GitObject<'a> {
    raw: &'a [u8],
    kind: ObjectKind,
    /// Armored.
    pub signature: Option<String>,
    /// What was signed.
    pub payload: Vec<u8>,
}

const MARKS: [&str; 2] = ["PGP SIGNATURE-----", "SSH SIGNATURE-----"];

impl<'a> GitObject<'a> {
    /// `name_length` is that of names in the repository, in hexadecimal digits: it chooses between
    /// two signatures.
    ///
    /// # Errors
    /// It is no such object.
    pub fn parse(
        raw: &'a [u8],
        kind: ObjectKind,
        name_length: usize,
    ) -> Result<GitObject<'a>, SignatureError> {
        let malformed = |why| SignatureError::malformed("git object", why);
        let head_end = raw
            .windows(2)
            .position(|pair| pair == b"\n\n")
            .ok_or_else(|| malformed("it has no message"))?;
        let (head, rest) = raw.split_at(head_end + 1);
        let mut object = GitObject {
            raw,
            kind,
            signature: None,
            payload: Vec::with_capacity(raw.len()),
        };
        let own = match name_length {
            64 => "gpgsig-sha256",
            _ => "gpgsig",
        };
        let mut fields = Vec::new();
        let mut field: &str = "";
        let mut signature: Option<Vec<u8>> = None;
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            if !line.starts_with(b" ") {
                let name = line.split(|byte| matches!(byte, b' ' | b'\n')).next();
                field = name
                    .and_then(|name| std::str::from_utf8(name).ok())
                    .unwrap_or_default();
                fields.push(field);
            }
            if !matches!(field, "gpgsig" | "gpgsig-sha256") {
                object.payload.extend_from_slice(line);
            } else if field == own {
                let text = match line.strip_prefix(own.as_bytes()) {
                    Some(text) if signature.is_none() => text,
                    Some(_) => return Err(malformed("it has two signatures")),
                    None => line,
                };
                let text = text.strip_prefix(b" ").unwrap_or(text);
                signature.get_or_insert_default().extend_from_slice(text);
            }
        }
        let needed: &[&str] = match kind {
            ObjectKind::Commit => &["tree", "author", "committer"],
            ObjectKind::Tag => &["object", "type", "tag", "tagger"],
        };
        if !needed.iter().all(|name| fields.contains(name)) {
            return Err(malformed("a header is missing"));
        }
        let (message, signed_below) = match kind {
            ObjectKind::Commit => (rest, None),
            ObjectKind::Tag => split_tag(rest).ok_or_else(|| {
                malformed("something follows the signature, which it would not cover")
            })?,
        };
        object.payload.extend_from_slice(message);
        let signature = match kind {
            ObjectKind::Commit => signature,
            ObjectKind::Tag => signed_below.map(<[u8]>::to_owned),
        };
        object.signature = signature
            .map(String::from_utf8)
            .transpose()
            .map_err(|_| malformed("its signature is no text"))?;
        Ok(object)
    }

    /// That it is the object of this name.
    ///
    /// # Errors
    /// It is another.
    pub fn verify_name(&self, name: &str) -> Result<(), SignatureError> {
        let head = format!("{} {}\0", self.kind.name(), self.raw.len());
        let found = match name.len() {
            64 => {
                let mut hasher = Sha256::new();
                hasher.update(head.as_bytes());
                hasher.update(self.raw);
                hex::encode(hasher.finalize())
            }
            _ => hex::encode(crypto::sha1(&[head.as_bytes(), self.raw])),
        };
        if found == name {
            return Ok(());
        }
        Err(SignatureError::Checksum {
            expected: name.to_owned(),
            found,
        })
    }
}

/// A tag's message and the signature below it: the last that begins a line, as git finds it. None
/// when the signature is not the end.
fn split_tag(rest: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut at = 0;
    let mut start = None;
    for line in rest.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        if let Some(mark) = text.strip_prefix(b"-----BEGIN ")
            && MARKS.iter().any(|known| known.as_bytes() == mark)
        {
            start = Some((at, mark));
        }
        at += line.len();
    }
    let Some((start, mark)) = start else {
        return Some((rest, None));
    };
    let (message, signature) = rest.split_at_checked(start)?;
    let end = [b"-----END ", mark].concat();
    let ends = signature.trim_ascii_end().ends_with(&end);
    let once = signature.windows(end.len()).filter(|at| *at == end).count() == 1;
    (ends && once).then_some((message, Some(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "tree 1\nparent 2\nauthor a\ncommitter c\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\nencoding e\n\nmessage\n\ngpgsig none\n";

    #[test]
    fn a_commits_signature_is_taken_out_of_its_headers() {
        let object = GitObject::parse(COMMIT.as_bytes(), ObjectKind::Commit, 40).unwrap();
        assert_eq!(
            object.signature.as_deref(),
            Some("-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n")
        );
        assert_eq!(
            String::from_utf8(object.payload).unwrap(),
            "tree 1\nparent 2\nauthor a\ncommitter c\nencoding e\n\nmessage\n\ngpgsig none\n"
        );
        // The other kind of names has its own signature; neither is part of what is signed.
        let object = GitObject::parse(COMMIT.as_bytes(), ObjectKind::Commit, 64).unwrap();
        assert_eq!(object.signature, None);
    }

    #[test]
    fn a_tags_signature_stands_below_its_message_and_nothing_below_it() {
        let head = "object 1\ntype commit\ntag v1\ntagger t\n\n";
        let signature = "-----BEGIN SSH SIGNATURE-----\nx\n-----END SSH SIGNATURE-----\n";
        let raw = format!("{head}release\n{signature}");
        let object = GitObject::parse(raw.as_bytes(), ObjectKind::Tag, 40).unwrap();
        assert_eq!(object.signature.as_deref(), Some(signature));
        assert_eq!(object.payload, format!("{head}release\n").into_bytes());
        let more = format!("{raw}more\n");
        assert!(GitObject::parse(more.as_bytes(), ObjectKind::Tag, 40).is_err());
        let unsigned = format!("{head}release\n");
        let object = GitObject::parse(unsigned.as_bytes(), ObjectKind::Tag, 40).unwrap();
        assert_eq!(object.signature, None);
    }

    #[test]
    fn a_name_is_that_of_the_bytes() {
        let raw = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 0 +0000\ncommitter A <a@b> 0 +0000\n\nm\n";
        let object = GitObject::parse(raw, ObjectKind::Commit, 40).unwrap();
        let head = format!("commit {}\0", raw.len());
        let name = hex::encode(crypto::sha1(&[head.as_bytes(), raw]));
        assert_eq!(object.verify_name(&name), Ok(()));
        assert!(object.verify_name(&"0".repeat(40)).is_err());
        assert!(object.verify_name(&"0".repeat(64)).is_err());
    }

    #[test]
    fn two_signatures_or_missing_headers_are_no_object() {
        let twice = COMMIT.replace("encoding e\n", "gpgsig y\n");
        assert!(GitObject::parse(twice.as_bytes(), ObjectKind::Commit, 40).is_err());
        assert!(GitObject::parse(COMMIT.as_bytes(), ObjectKind::Tag, 40).is_err());
        assert!(GitObject::parse(b"tree 1\n", ObjectKind::Commit, 40).is_err());
    }
}
