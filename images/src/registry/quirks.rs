//! What a registry does otherwise than it should, and what this client does about it. Each is remembered with the host
//! and told once.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

/// One way in which a host is odd. The order is that of a pull.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quirk {
    /// TLS was tried and plain HTTP is what answers; allowed by configuration.
    Plain,
    /// A manifest HEAD failed where its GET does not.
    HeadFails(u16),
    /// HEAD says no digest.
    HeadSaysNothing,
    /// Several `Accept` lines are not understood, one with a list is.
    AcceptInOneLine,
    /// Only a single type in `Accept` is understood.
    AcceptOneType,
    /// A Content-Type that says nothing about a manifest.
    ContentType(String),
    /// Body and Content-Type name different types of the same kind.
    MediaType(String),
    /// A `Docker-Content-Digest` that is no digest.
    DigestHeader,
    /// Says how to log in only at `/v2/`; the request itself was answered with this.
    LoginAtRootOnly(u16),
    /// Refuses without asking for a login; the login was sent unasked.
    LoginUnasked(u16),
    /// The token service answered the usual request so; the other verb works.
    TokenVerb(&'static str, u16),
    /// A token that was just issued was refused at first.
    TokenTooNew,
    /// Bodies come encoded although that was not asked for.
    Encoded(String),
    /// `Range` is ignored or answered with other bytes.
    Ranges,
    /// Blobs cannot be asked for with HEAD.
    BlobHead(u16),
    /// Taking a blob from another repository was refused.
    Mount(u16),
    /// An upload's address is plain HTTP on a host that speaks TLS.
    UploadAddress,
    /// The digest in an upload's address must be written with its colon.
    DigestColon,
    /// A blob in one piece was refused.
    UploadInPieces(u16),
    /// An upload was answered "accepted", not "created".
    UploadAccepted,
    /// Says of a manifest that it is not what its digest says, and takes it when it is put again.
    ManifestMisread,
    /// The registry's list of referrers is missing; a tag stands in for it.
    Referrers,
}

impl Quirk {
    /// What was seen, and what is done about it.
    pub fn describe(&self) -> (String, &'static str) {
        let (seen, done) = match self {
            Quirk::Plain => (
                "does not speak TLS".into(),
                "plain HTTP is used, as configured",
            ),
            Quirk::HeadFails(status) => (
                format!("answers HEAD of a manifest with {status}"),
                "GET is used instead",
            ),
            Quirk::HeadSaysNothing => (
                "answers HEAD of a manifest without a digest".into(),
                "GET is used instead",
            ),
            Quirk::AcceptInOneLine => (
                "does not understand several Accept lines".into(),
                "the types are sent in one line",
            ),
            Quirk::AcceptOneType => (
                "does not understand several types in Accept".into(),
                "only Docker's manifest type is asked for",
            ),
            Quirk::ContentType(said) => (
                format!("serves a manifest as {said:?}"),
                "the type is taken from the document",
            ),
            Quirk::MediaType(said) => (said.clone(), "the document is believed"),
            Quirk::DigestHeader => (
                "sends a Docker-Content-Digest that is no digest".into(),
                "the digest is computed",
            ),
            Quirk::LoginAtRootOnly(status) => (
                format!("answers {status} without saying how to log in"),
                "/v2/ was asked for that",
            ),
            Quirk::LoginUnasked(status) => (
                format!("answers {status} and does not ask for a login"),
                "the login was sent unasked",
            ),
            Quirk::TokenVerb(verb, status) => (
                format!("its token service answers {verb} with {status}"),
                "the other way of asking is used",
            ),
            Quirk::TokenTooNew => (
                "refused a token that was just issued".into(),
                "it was tried again after a pause",
            ),
            Quirk::Encoded(coding) => (
                format!("sends bodies encoded as {coding}, unasked"),
                "they are decoded before they are verified",
            ),
            Quirk::Ranges => (
                "does not serve the rest of a blob".into(),
                "an interrupted blob is read again from its start",
            ),
            Quirk::BlobHead(status) => (
                format!("answers HEAD of a blob with {status}"),
                "blobs are uploaded without asking",
            ),
            Quirk::Mount(status) => (
                format!("answers {status} to taking a blob from another repository"),
                "the blob is sent",
            ),
            Quirk::UploadAddress => (
                "gives an upload address with http although it speaks TLS".into(),
                "https is used; X-Forwarded-Proto is probably missing in its proxy",
            ),
            Quirk::DigestColon => (
                "does not understand an encoded colon in a digest".into(),
                "it is sent as it is",
            ),
            Quirk::UploadInPieces(status) => (
                format!("answers a blob in one piece with {status}"),
                "it is sent in pieces; a limit of a front end is likely (nginx: client_max_body_size)",
            ),
            Quirk::UploadAccepted => (
                "accepts uploads without saying that they are stored".into(),
                "it is asked whether they are",
            ),
            Quirk::ManifestMisread => (
                "says that a manifest does not match its digest, which it does".into(),
                "it was put again; another push to the repository was probably under way",
            ),
            Quirk::Referrers => ("has no list of referrers".into(), "a tag stands in for it"),
        };
        (seen, done)
    }

    /// The line for the user.
    pub(crate) fn notice(&self, host: &str) -> String {
        let (seen, done) = self.describe();
        format!("{host} {seen}: {done}")
    }

    /// Told in the progress. What costs nothing and means nothing is left to the doctor.
    pub(crate) fn is_told(&self) -> bool {
        !matches!(
            self,
            Quirk::HeadSaysNothing | Quirk::BlobHead(_) | Quirk::Mount(_) | Quirk::Referrers
        )
    }
}

/// The oddities of one host.
#[derive(Default)]
pub(crate) struct Quirks(Mutex<BTreeSet<Quirk>>);

impl Quirks {
    pub(crate) fn add(&self, quirk: Quirk) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(quirk);
    }

    pub(crate) fn all(&self) -> Vec<Quirk> {
        let quirks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        quirks.iter().cloned().collect()
    }
}

/// Lines for the user, each told once.
#[derive(Default)]
pub(crate) struct Notices(Mutex<Told>);

#[derive(Default)]
struct Told {
    waiting: Vec<String>,
    /// Of those told or waiting.
    known: HashSet<String>,
}

/// Different lines that are told; a registry must not fill the screen with warnings of its own.
const MOST_NOTICES: usize = 100;

impl Notices {
    pub(crate) fn add(&self, line: String) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.known.len() < MOST_NOTICES && told.known.insert(line.clone()) {
            told.waiting.push(line);
        }
    }

    /// Takes back a line that could not be told after all.
    pub(crate) fn put_back(&self, line: String) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.waiting.push(line);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut told.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_2_a_notice_is_told_once() {
        let notices = Notices::default();
        notices.add("a".into());
        notices.add("a".into());
        assert_eq!(notices.take(), ["a"]);
        notices.add("a".into());
        assert!(notices.take().is_empty());
    }
}
