//! Contexts that are no directories: repositories and files of the web, images in OCI layouts.

use std::path::{Path, PathBuf};

use gateway_images::archive::Layout;
use gateway_images::digest::Digest;

use crate::error::CliError;

/// Taken when neither tag nor digest is given.
const DEFAULT_TAG: &str = "latest";
/// Schemes of addresses that the build fetches itself.
const REMOTE: [&str; 5] = ["http://", "https://", "git://", "ssh://", "git@"];
/// An address without a scheme, unless a directory has that name.
const GITHUB: &str = "github.com/";
const OCI_LAYOUT: &str = "oci-layout://";

/// The address of a context that is fetched by the build; `None` for a local one.
pub fn remote(context: &Path) -> Option<String> {
    let text = context.to_str()?;
    let is_remote = REMOTE.iter().any(|scheme| text.starts_with(scheme))
        || (text.starts_with(GITHUB) && !context.exists());
    is_remote.then(|| text.to_owned())
}

/// Whether the context is a repository that is fetched over SSH.
pub fn is_over_ssh(context: &Path) -> bool {
    let text = context.to_str().unwrap_or_default();
    text.starts_with("ssh://") || (text.starts_with("git@") && !context.exists())
}

/// An image in a layout directory of ours.
#[derive(Debug, PartialEq, Eq)]
pub struct LayoutContext {
    /// By which the build asks for the directory.
    pub store: String,
    pub dir: PathBuf,
    /// Of the image's manifest or index.
    pub digest: Digest,
}

impl LayoutContext {
    /// What the build is told.
    pub fn reference(&self) -> String {
        format!("{OCI_LAYOUT}{}@{}", self.store, self.digest)
    }
}

/// Reads `oci-layout://DIR[:TAG|@DIGEST]`. `None` when it is something else.
///
/// # Errors
/// When there is no layout, or no such image in it.
pub fn layout(source: &str) -> Option<Result<LayoutContext, CliError>> {
    source.strip_prefix(OCI_LAYOUT).map(find)
}

fn find(text: &str) -> Result<LayoutContext, CliError> {
    let wrong = |dir: &str, problem: String| CliError::Layout {
        path: PathBuf::from(dir),
        problem,
    };
    let (dir, tag, digest) = split(text);
    let path = std::path::absolute(dir).map_err(|source| CliError::Context {
        path: PathBuf::from(dir),
        source,
    })?;
    let open = || Layout::open(&path).map_err(|error| wrong(dir, error.to_string()));
    let digest = match digest {
        Some(digest) => {
            open()?;
            digest
                .parse()
                .map_err(|error| wrong(dir, format!("{digest}: {error}")))?
        }
        None => {
            let layout = open()?;
            let failed =
                |error: gateway_images::archive::ArchiveError| wrong(dir, error.to_string());
            let named = layout
                .find(Some(tag.unwrap_or(DEFAULT_TAG)))
                .map_err(failed)?;
            let found = match (named, tag) {
                // A layout with one image needs no name.
                (None, None) => layout.find(None).map_err(failed)?,
                (named, _) => named,
            };
            let tag = tag.unwrap_or(DEFAULT_TAG);
            found
                .ok_or_else(|| wrong(dir, format!("no image is called {tag:?} there")))?
                .digest
        }
    };
    let mut store = Digest::of(path.as_os_str().as_encoded_bytes()).hex();
    store.truncate(25);
    Ok(LayoutContext {
        store,
        dir: path,
        digest,
    })
}

/// Directory, tag and digest. A colon in the name of a directory that exists is no tag.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    if Path::new(text).is_dir() {
        return (text, None, None);
    }
    if let Some((dir, digest)) = text.rsplit_once('@')
        && !digest.contains('/')
    {
        let dir = match dir.rsplit_once(':') {
            Some((untagged, tag)) if !tag.contains('/') && !Path::new(dir).is_dir() => untagged,
            _ => dir,
        };
        return (dir, None, Some(digest));
    }
    match text.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag), None),
        _ => (text, None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_directories() {
        for text in [
            "https://example.com/r.git#main:sub",
            "git@example.com:r.git",
            "git://h/r",
            "github.com/a/b",
        ] {
            assert_eq!(remote(Path::new(text)).as_deref(), Some(text));
        }
        for text in [".", "/a/b", "oci-layout://x", "example.com/a"] {
            assert_eq!(remote(Path::new(text)), None);
        }
    }

    #[test]
    fn a_layout_is_named_by_tag_or_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(split("/l"), ("/l", None, None));
        assert_eq!(split("/l:v1"), ("/l", Some("v1"), None));
        assert_eq!(split("/a:b/l"), ("/a:b/l", None, None));
        let text = format!("/l:v1@{digest}");
        assert_eq!(split(&text), ("/l", None, Some(digest.as_str())));
    }

    #[test]
    fn an_image_is_found_by_its_tag_or_because_it_is_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let digest = format!("sha256:{}", "1".repeat(64));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "digest":"{digest}","size":2,
            "annotations":{{"org.opencontainers.image.ref.name":"v1"}}}}]}}"#
        );
        std::fs::write(dir.path().join("index.json"), index).unwrap();
        let path = dir.path().to_str().unwrap();
        for source in [
            format!("oci-layout://{path}"),
            format!("oci-layout://{path}:v1"),
        ] {
            let found = layout(&source).unwrap().unwrap();
            assert_eq!(found.dir, dir.path());
            assert!(found.reference().ends_with(&format!("@{digest}")));
        }
        assert!(layout(&format!("oci-layout://{path}:v2")).unwrap().is_err());
        assert!(layout("oci-layout:///no/such").unwrap().is_err());
        assert!(layout("docker-image://x").is_none());
    }
}
