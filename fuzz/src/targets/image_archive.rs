//! Images in archives and layout directories. In the contents `@0` to `@9` stand for the digest of an
//! earlier file and `#0` to `#9` for its size, so that documents can lead to each other.

use std::fs;

use arbitrary::Arbitrary;
use gateway_images::archive::{ArchiveLimits, Image, Layout, blobs_below, read_archive};
use gateway_images::digest::Digest;
use gateway_images::layer::{END, Header, Kind, padding};
use gateway_images::store::BlobStore;

const LIMITS: ArchiveLimits = ArchiveLimits {
    bytes: 1 << 20,
    entries: 50,
};

#[derive(Arbitrary, Debug)]
pub struct File {
    name: Name,
    content: Content,
}

#[derive(Arbitrary, Debug)]
pub enum Name {
    Index,
    DockerManifest,
    Blob,
    Layer,
    /// A symbolic link to `layer.tar`.
    Link,
    Any(String),
}

#[derive(Arbitrary, Debug)]
pub enum Content {
    Index,
    IndexOfIndex,
    Manifest,
    Config,
    DockerManifest,
    Any(Vec<u8>),
}

impl Content {
    fn template(&self) -> &[u8] {
        match self {
            Content::Index => br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"@1","size":#1}]}"#,
            Content::IndexOfIndex => br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"@2","size":#2}]}"#,
            Content::Manifest => br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@0","size":#0},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@0","size":#0}]}"#,
            Content::Config => br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["@0"]}}"#,
            Content::DockerManifest => br#"[{"Config":"config.json","RepoTags":["a:b"],"Layers":["layer.tar"]}]"#,
            Content::Any(bytes) => bytes,
        }
    }
}

/// One run with one input.
pub fn run(files: &[File]) {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = dir.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).expect("made");
    let mut tar = Vec::new();
    let mut done: Vec<Vec<u8>> = Vec::new();
    for file in files.iter().take(16) {
        let content = filled(file.content.template(), &done);
        let digest = Digest::of(&content);
        let (name, kind) = match &file.name {
            Name::Index => ("index.json".to_owned(), Kind::File),
            Name::DockerManifest => ("manifest.json".to_owned(), Kind::File),
            Name::Blob => (format!("blobs/sha256/{}", digest.hex()), Kind::File),
            Name::Layer => ("layer.tar".to_owned(), Kind::File),
            Name::Link => ("config.json".to_owned(), Kind::Symlink),
            Name::Any(name) => (name.replace('\0', ""), Kind::File),
        };
        let mut header = Header::new(kind, name.clone());
        if kind == Kind::Symlink {
            header.link = b"layer.tar".to_vec();
            tar.extend(header.encode());
        } else {
            header.size = content.len() as u64;
            tar.extend(header.encode());
            tar.extend(&content);
            tar.extend(padding(header.size));
            if matches!(file.name, Name::Index | Name::Blob) {
                fs::write(layout.join(&name), &content).expect("written");
            }
        }
        done.push(content);
    }
    tar.extend(END);

    let store = BlobStore::open(dir.path().join("store")).expect("a store");
    if let Ok(images) = read_archive(&store, &tar[..], &LIMITS) {
        for image in images {
            let _ = Image::load(&store, &image.descriptor);
            let _ = blobs_below(&store, &image.descriptor);
        }
    }
    let copies = BlobStore::open(dir.path().join("copies")).expect("a store");
    let Ok(layout) = Layout::open(&layout) else {
        return;
    };
    let _ = layout.find(Some("a:b"));
    for top in layout.index().into_iter().flat_map(|index| index.manifests) {
        if layout
            .copy_all(&copies, &top, gateway_images::archive::NEVER)
            .is_ok()
        {
            let below = blobs_below(&copies, &top).expect("all that was copied");
            for blob in below {
                assert!(copies.contains(&blob.digest) || blob.embedded().is_some());
            }
        }
    }
}

fn filled(template: &[u8], done: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = template.iter().peekable();
    while let Some(byte) = bytes.next() {
        let number = bytes
            .peek()
            .map(|next| usize::from(next.wrapping_sub(b'0')));
        match (byte, number.and_then(|n| done.get(n))) {
            (b'@', Some(content)) => {
                bytes.next();
                out.extend(Digest::of(content).to_string().into_bytes());
            }
            (b'#', Some(content)) => {
                bytes.next();
                out.extend(content.len().to_string().into_bytes());
            }
            _ => out.push(*byte),
        }
    }
    out
}
