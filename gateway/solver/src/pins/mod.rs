//! Pins: what the names in a build stand for, known before it is asked (a lock file, a vendored layout), and taken down
//! while it is asked. Images, files of the web and git repositories look here first; it is the one place where names
//! become digests.

mod collect;
mod vendor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_api::{Code, Error};
use gateway_images::digest::Digest;
use gateway_images::reference::Reference;
use gateway_images::registry::shown_url;

pub use vendor::{VendorReport, read_vendored};
pub(crate) use vendor::{saved_blob, saved_checkout};

/// What an image's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePin {
    /// Of the manifest or index that the name leads to.
    pub digest: Digest,
    /// Which images of it were used, in the usual spelling (`linux/amd64`). Not needed to use the pin.
    pub platforms: BTreeSet<String>,
}

/// What an address of the web gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilePin {
    pub checksum: String,
    /// What the server calls it.
    pub filename: Option<String>,
    /// As HTTP writes dates.
    pub last_modified: Option<String>,
}

/// What a name in a repository stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitPin {
    /// The full name, e.g. `refs/heads/main`.
    pub reference: String,
    /// The object: a commit, or an annotated tag.
    pub checksum: String,
    /// The commit behind an annotated tag.
    pub commit: Option<String>,
}

/// Names and what they stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinSet {
    /// By reference in full (`docker.io/library/alpine:3`).
    pub images: BTreeMap<String, ImagePin>,
    /// By address, without a login.
    pub files: BTreeMap<String, FilePin>,
    /// By address without a login and name in it; an empty name is the default branch.
    pub git: BTreeMap<(String, String), GitPin>,
}

/// What is done about a name without a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unknown {
    Ask,
    /// The text says whose pins they are, e.g. the lock file's path.
    Refuse(String),
}

/// The pins of one build.
#[derive(Debug)]
pub struct Pins {
    known: PinSet,
    unknown: Unknown,
    vendored: Option<PathBuf>,
    taken: Mutex<PinSet>,
    frontends: Mutex<BTreeSet<String>>,
}

/// The name of an image as pins have it: in full, with a tag or a digest.
pub fn image_name(reference: &Reference) -> String {
    reference.to_string()
}

impl Pins {
    /// `known` hold, all else is asked for.
    pub fn asking(known: PinSet) -> Pins {
        Pins {
            known,
            unknown: Unknown::Ask,
            vendored: None,
            taken: Mutex::default(),
            frontends: Mutex::default(),
        }
    }

    /// `known` hold, all else is refused. `origin` says in error texts where they are written.
    pub fn locked(known: PinSet, origin: impl Into<String>) -> Pins {
        Pins {
            unknown: Unknown::Refuse(origin.into()),
            ..Pins::asking(known)
        }
    }

    /// The same, with everything in the layout at `dir`: nobody is asked for anything.
    pub fn vendored(known: PinSet, dir: &Path) -> Pins {
        Pins {
            vendored: Some(dir.to_owned()),
            ..Pins::locked(known, dir.display().to_string())
        }
    }

    /// The layout that has everything, if there is one.
    pub fn layout(&self) -> Option<&Path> {
        self.vendored.as_deref()
    }

    /// All that was asked for so far.
    pub fn taken(&self) -> PinSet {
        self.lock().clone()
    }

    /// The images among them that are frontends, by their names.
    pub fn frontends(&self) -> BTreeSet<String> {
        let frontends = self.frontends.lock();
        frontends.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This image is a frontend.
    pub fn is_frontend(&self, reference: &Reference) {
        let frontends = self.frontends.lock();
        let mut frontends = frontends.unwrap_or_else(PoisonError::into_inner);
        frontends.insert(image_name(reference));
    }

    fn lock(&self) -> MutexGuard<'_, PinSet> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, what: &str) -> Result<(), Error> {
        let Unknown::Refuse(origin) = &self.unknown else {
            return Ok(());
        };
        let error = Error::new(
            Code::FailedPrecondition,
            format!("{what} is not pinned in {origin}"),
        );
        Err(error.with_help(match self.vendored {
            None => format!(
                "The build asks for something that its lock file does not know, so nothing was asked for it.\n\
                 `gateway lock` with the flags of this build adds it to {origin}.\n"
            ),
            Some(_) => format!(
                "The build asks for something that was not saved, and no network may be used.\n\
                 `gateway vendor {origin}` with the flags of this build saves it.\n"
            ),
        }))
    }

    /// What the reference stands for; none: it has to be asked.
    ///
    /// # Errors
    /// It is not pinned, and asking is not allowed; or it names another digest than its pin.
    pub(crate) fn image(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        if let Some(pin) = self.known.images.get(&image_name(reference)) {
            return Ok(Some(pin.digest.clone()));
        }
        let Some(digest) = reference.digest() else {
            self.refused(&image_name(reference))?;
            return Ok(None);
        };
        // By digest, as frontends write what they resolved: any pin of that repository with this digest has it.
        let mut of_repository = self.known.images.iter().filter(|(name, _)| {
            Reference::parse(name).is_ok_and(|known| known.name() == reference.name())
        });
        if of_repository.clone().any(|(_, pin)| pin.digest == *digest) {
            return Ok(Some(digest.clone()));
        }
        if let (Unknown::Refuse(origin), Some((name, pin))) = (
            &self.unknown,
            of_repository.find(|(name, _)| {
                Reference::parse(name).is_ok_and(|known| known.tag() == reference.tag())
            }),
        ) {
            return Err(Error::new(
                Code::FailedPrecondition,
                format!(
                    "{reference} is not what {origin} pins: it has {name} at {}",
                    pin.digest
                ),
            )
            .with_help(format!(
                "The build file or a frontend names another digest than {origin}.\n\
                 `gateway lock --update` shows the difference and writes it anew.\n"
            )));
        }
        self.refused(&image_name(reference))?;
        Ok(None)
    }

    /// An image was found.
    pub(crate) fn took_image(&self, reference: &Reference, root: &Digest, platform: &str) {
        let mut taken = self.lock();
        // What a frontend pinned itself after asking is the same image.
        let name = match reference.digest() {
            Some(digest) => taken
                .images
                .iter()
                .find(|(name, pin)| {
                    pin.digest == *digest
                        && Reference::parse(name).is_ok_and(|r| r.name() == reference.name())
                })
                .map(|(name, _)| name.clone()),
            None => None,
        };
        let name = name.unwrap_or_else(|| image_name(reference));
        let pin = taken.images.entry(name).or_insert_with(|| ImagePin {
            digest: root.clone(),
            platforms: BTreeSet::new(),
        });
        pin.platforms.insert(platform.to_owned());
    }

    /// What an address gives; none: it has to be asked.
    ///
    /// # Errors
    /// It is not pinned, and asking is not allowed.
    pub(crate) fn file(&self, url: &str) -> Result<Option<&FilePin>, Error> {
        let name = shown_url(url);
        match self.known.files.get(&name) {
            Some(pin) => Ok(Some(pin)),
            None => self.refused(&name).map(|()| None),
        }
    }

    pub(crate) fn took_file(&self, url: &str, pin: FilePin) {
        let name = shown_url(url);
        let mut taken = self.lock();
        let known = taken.files.entry(name).or_default();
        // The checksum alone, written in a build file, says less than a server's answer.
        if known.checksum != pin.checksum || pin.filename.is_some() {
            *known = pin;
        }
    }

    /// What a name in a repository stands for; none: it has to be asked.
    ///
    /// # Errors
    /// It is not pinned, and asking is not allowed.
    pub(crate) fn git(&self, remote: &str, reference: &str) -> Result<Option<&GitPin>, Error> {
        let key = (shown_remote(remote), reference.to_owned());
        match self.known.git.get(&key) {
            Some(pin) => Ok(Some(pin)),
            None => self
                .refused(&format!("{}#{reference}", key.0))
                .map(|()| None),
        }
    }

    pub(crate) fn took_git(&self, remote: &str, reference: &str, pin: GitPin) {
        let key = (shown_remote(remote), reference.to_owned());
        self.lock().git.insert(key, pin);
    }

    /// What to do when a pinned thing turns out to be another one or to be gone.
    pub(crate) fn drifted(&self, error: Error, name: &str, pinned: &str) -> Error {
        if error.code == Code::Canceled {
            return error;
        }
        let help = match (&self.vendored, &self.unknown) {
            (Some(dir), _) => format!(
                "{name} was saved in {dir} as {pinned}; what is there now is incomplete or damaged.\n\
                 `gateway vendor {dir}` on a machine with network saves it again.\n",
                dir = dir.display()
            ),
            (None, Unknown::Refuse(origin)) => format!(
                "{origin} pins {name} to {pinned}.\n\
                 If what it names has gone for good, or the file was edited by hand, `gateway lock --update` writes it anew.\n"
            ),
            (None, Unknown::Ask) => return error,
        };
        error.with_help(help)
    }
}

fn shown_remote(remote: &str) -> String {
    match remote.starts_with("http") {
        true => shown_url(remote),
        false => remote.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: &str) -> Digest {
        format!("sha256:{}", byte.repeat(32)).parse().unwrap()
    }

    fn known(name: &str, byte: &str) -> PinSet {
        let pin = ImagePin {
            digest: digest(byte),
            platforms: BTreeSet::new(),
        };
        PinSet {
            images: BTreeMap::from([(name.to_owned(), pin)]),
            ..PinSet::default()
        }
    }

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn a_locked_name_is_its_digest_and_any_other_is_refused() {
        let pins = Pins::locked(known("docker.io/library/alpine:3", "ab"), "the lock");
        assert_eq!(
            pins.image(&reference("alpine:3")).unwrap(),
            Some(digest("ab"))
        );
        let error = pins.image(&reference("alpine:4")).unwrap_err();
        assert_eq!(
            error.message,
            "docker.io/library/alpine:4 is not pinned in the lock"
        );
        let asking = Pins::asking(PinSet::default());
        assert_eq!(asking.image(&reference("alpine:4")).unwrap(), None);
    }

    #[test]
    fn what_a_frontend_pinned_is_the_locked_image_and_another_digest_is_not() {
        let pins = Pins::locked(known("docker.io/library/alpine:3", "ab"), "the lock");
        let same = format!("alpine:3@{}", digest("ab"));
        assert_eq!(pins.image(&reference(&same)).unwrap(), Some(digest("ab")));
        let other = format!("alpine:3@{}", digest("cd"));
        let error = pins.image(&reference(&other)).unwrap_err().message;
        assert!(error.contains("is not what the lock pins"), "{error}");
        let elsewhere = format!("busybox@{}", digest("ab"));
        assert!(pins.image(&reference(&elsewhere)).is_err());
    }

    #[test]
    fn an_image_is_taken_down_once_with_all_its_platforms() {
        let pins = Pins::asking(PinSet::default());
        pins.took_image(&reference("alpine:3"), &digest("ab"), "linux/amd64");
        let by_digest = reference(&format!("alpine:3@{}", digest("ab")));
        pins.took_image(&by_digest, &digest("ab"), "linux/arm64");
        let taken = pins.taken().images;
        assert_eq!(taken.len(), 1);
        let pin = &taken["docker.io/library/alpine:3"];
        let platforms: Vec<_> = pin.platforms.iter().map(String::as_str).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    }

    #[test]
    fn logins_in_addresses_are_not_taken_down() {
        let pins = Pins::asking(PinSet::default());
        let pin = FilePin {
            checksum: "sha256:x".into(),
            ..FilePin::default()
        };
        pins.took_file("https://user:pw@example.com/f", pin);
        let names: Vec<_> = pins.taken().files.into_keys().collect();
        assert_eq!(names, ["https://example.com/f"]);
    }
}
