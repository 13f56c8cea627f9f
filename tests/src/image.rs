//! Reads images back from OCI archives and flattens their layers, with code of the tests' own.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// All files of a tar archive by name.
pub type Archive = BTreeMap<String, Vec<u8>>;

/// One image of an archive.
pub struct Image {
    pub name: Option<String>,
    pub platform: String,
    pub manifest: Value,
    pub config: Value,
    pub files: BTreeMap<String, Node>,
    pub layers: usize,
}

impl Image {
    pub fn without_layers(config: Value) -> Image {
        assemble(config, Vec::new(), Value::Null, None)
    }
}

/// A path of a flattened root file system.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub kind: &'static str,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub data: Vec<u8>,
    pub target: String,
    pub hard: bool,
}

/// A symbolic link in it stands for the file that it names.
pub fn read_archive(path: &Path) -> Archive {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut archive = tar::Archive::new(file);
    let mut files = Archive::new();
    let mut links = Vec::new();
    for entry in archive.entries().expect("a tar archive") {
        let mut entry = entry.expect("a tar entry");
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type().is_symlink() {
            let target = entry.link_name_bytes().expect("a link's target");
            let target = String::from_utf8_lossy(&target).into_owned();
            links.push((name, target.trim_start_matches("../").to_owned()));
            continue;
        }
        let mut data = Vec::new();
        entry.read_to_end(&mut data).expect("an entry's data");
        files.insert(name, data);
    }
    for (name, target) in links {
        if let Some(data) = files.get(&target).cloned() {
            files.insert(name, data);
        }
    }
    files
}

/// Every image of an archive that `docker save` wrote.
pub fn saved_images(archive: &Archive) -> Vec<Image> {
    let member = |path: &Value| {
        let path = path.as_str().expect("a path");
        let found = archive.get(path);
        found.unwrap_or_else(|| panic!("{path} is missing from the archive"))
    };
    let manifest = parse(archive.get("manifest.json").expect("manifest.json"));
    let images = manifest.as_array().expect("a list of images").iter();
    images
        .map(|entry| {
            let config = parse(member(&entry["Config"]));
            let layers = entry["Layers"].as_array().into_iter().flatten();
            let layers = layers.map(|path| member(path).clone()).collect();
            assemble(config, layers, entry.clone(), entry["RepoTags"][0].as_str())
        })
        .collect()
}

/// Every image of an archive's index, nested indexes followed, attestations left out.
pub fn images(archive: &Archive) -> Vec<Image> {
    let index: Value = parse(archive.get("index.json").expect("index.json"));
    let mut out = Vec::new();
    collect(archive, &index, None, &mut out);
    out
}

fn collect(archive: &Archive, index: &Value, name: Option<&str>, out: &mut Vec<Image>) {
    for descriptor in index["manifests"].as_array().into_iter().flatten() {
        let own = descriptor["annotations"]["io.containerd.image.name"].as_str();
        let document = parse(blob(archive, descriptor));
        if document["manifests"].is_array() {
            collect(archive, &document, own.or(name), out);
        } else if descriptor["platform"]["os"] != "unknown" {
            out.push(image(archive, document, own.or(name)));
        }
    }
}

fn image(archive: &Archive, manifest: Value, name: Option<&str>) -> Image {
    let config = parse(blob(archive, &manifest["config"]));
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let layers = layers
        .map(|layer| uncompressed(blob(archive, layer)))
        .collect();
    assemble(config, layers, manifest, name)
}

/// An image of its parts; `layers` are uncompressed.
fn assemble(config: Value, layers: Vec<Vec<u8>>, manifest: Value, name: Option<&str>) -> Image {
    let mut files = BTreeMap::new();
    for (position, tar) in layers.iter().enumerate() {
        assert_eq!(
            config["rootfs"]["diff_ids"][position],
            format!("sha256:{}", hex::encode(Sha256::digest(tar))),
            "diffID of layer {position}"
        );
        apply(&mut files, tar);
    }
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    let variant = text("variant");
    let mut platform = format!("{}/{}", text("os"), text("architecture"));
    if !variant.is_empty() {
        platform = format!("{platform}/{variant}");
    }
    Image {
        name: name.map(str::to_owned),
        platform,
        config,
        files,
        layers: layers.len(),
        manifest,
    }
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// The blob of a descriptor, its size and digest checked.
fn blob<'a>(archive: &'a Archive, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let path = format!("blobs/{}", digest.replace(':', "/"));
    let bytes = archive
        .get(&path)
        .unwrap_or_else(|| panic!("{path} is missing from the archive"));
    assert_eq!(descriptor["size"], bytes.len(), "size of {digest}");
    assert_eq!(
        digest,
        format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
    );
    bytes
}

fn uncompressed(bytes: &[u8]) -> Vec<u8> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .read_to_end(&mut out)
        .expect("gzip");
    out
}

/// Puts a layer over what is there, whiteouts included.
pub fn apply(files: &mut BTreeMap<String, Node>, tar: &[u8]) {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().expect("a layer") {
        let mut entry = entry.expect("a layer's entry");
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = raw
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned();
        if name.is_empty() {
            continue;
        }
        let (parent, base) = name.rsplit_once('/').unwrap_or(("", &name));
        if base == ".wh..wh..opq" {
            remove_below(files, parent);
            continue;
        }
        if let Some(removed) = base.strip_prefix(".wh.") {
            let path = format!("{parent}/{removed}");
            let path = path.trim_start_matches('/');
            remove_below(files, path);
            files.remove(path);
            continue;
        }
        let node = node(files, &mut entry);
        if node.kind != "dir" {
            remove_below(files, &name);
        }
        files.insert(name, node);
    }
}

fn remove_below(files: &mut BTreeMap<String, Node>, dir: &str) {
    let prefix = format!("{dir}/");
    files.retain(|path, _| !path.starts_with(&prefix));
}

fn node(files: &BTreeMap<String, Node>, entry: &mut tar::Entry<'_, &[u8]>) -> Node {
    let target = entry
        .link_name_bytes()
        .map(|name| String::from_utf8_lossy(&name).into_owned())
        .unwrap_or_default();
    let kind = entry.header().entry_type();
    if kind == tar::EntryType::Link {
        let target = target.trim_start_matches('/').trim_start_matches("./");
        let mut node = files
            .get(target)
            .unwrap_or_else(|| panic!("hard link to {target}, which is not there"))
            .clone();
        node.hard = true;
        return node;
    }
    let mut data = Vec::new();
    let header = entry.header().clone();
    entry.read_to_end(&mut data).expect("an entry's data");
    Node {
        kind: match kind {
            tar::EntryType::Directory => "dir",
            tar::EntryType::Symlink => "link",
            tar::EntryType::Fifo => "fifo",
            tar::EntryType::Char => "char",
            tar::EntryType::Block => "block",
            _ => "file",
        },
        mode: header.mode().expect("a mode") & 0o7777,
        uid: header.uid().expect("a uid"),
        gid: header.gid().expect("a gid"),
        mtime: header.mtime().expect("an mtime"),
        data,
        target,
        hard: false,
    }
}
