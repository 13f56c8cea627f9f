//! Base images made on the spot from Debian's busybox-static, since no registry can be reached: the
//! same content as those that the expected results were recorded with.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// mtime of every entry: 2020-01-01T00:00:00Z.
pub const BASE_TIME: u64 = 1_577_836_800;
const CREATED: &str = "2020-01-01T00:00:00Z";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An OCI layout that is being written.
pub struct Layout<'a> {
    root: &'a Path,
    manifests: Vec<Value>,
}

impl<'a> Layout<'a> {
    pub fn create(root: &'a Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(root.join("blobs/sha256"))?;
        Ok(Layout {
            root,
            manifests: Vec::new(),
        })
    }

    /// Any content. Returns its descriptor.
    pub fn blob(&self, data: &[u8], media_type: &str) -> std::io::Result<Value> {
        let hex = hex::encode(Sha256::digest(data));
        std::fs::write(self.root.join("blobs/sha256").join(&hex), data)?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": data.len()}))
    }

    /// An image of uncompressed layer tars. Returns the manifest's descriptor.
    pub fn image(&self, layers: &[Vec<u8>], config: Value, arch: &str) -> std::io::Result<Value> {
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for tar in layers {
            diff_ids.push(format!("sha256:{}", hex::encode(Sha256::digest(tar))));
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(tar)?;
            descriptors.push(self.blob(
                &gzip.finish()?,
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )?);
        }
        let history: Vec<Value> = (0..layers.len())
            .map(|i| json!({"created": CREATED, "created_by": format!("base_images.py layer {i}")}))
            .collect();
        let config = json!({
            "created": CREATED, "architecture": arch, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        let config = self.blob(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        )?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors,
        });
        self.blob(manifest.to_string().as_bytes(), MANIFEST)
    }

    /// An image of one uncompressed layer tar that says to be had from `url` only. Returns the manifest's descriptor.
    pub fn foreign_image(&self, tar: &[u8], url: &str) -> std::io::Result<Value> {
        let config = json!({"Env": ["PATH=/bin"]});
        let descriptor = self.image(&[tar.to_vec()], config, "amd64")?;
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let path = self.root.join("blobs").join(digest.replace(':', "/"));
        let mut manifest: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let layer = &mut manifest["layers"][0];
        layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
        layer["urls"] = json!([url]);
        self.blob(manifest.to_string().as_bytes(), MANIFEST)
    }

    /// An index of images for platforms of linux, given as architecture and manifest's descriptor.
    pub fn index(&self, images: &[(&str, Value)]) -> std::io::Result<Value> {
        let entries: Vec<Value> = images
            .iter()
            .map(|(arch, descriptor)| {
                let mut entry = descriptor.clone();
                entry["platform"] = json!({"architecture": arch, "os": "linux"});
                entry
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.blob(index.to_string().as_bytes(), INDEX)
    }

    pub fn name(&mut self, mut descriptor: Value, name: &str) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(descriptor);
    }

    pub fn close(self) -> std::io::Result<()> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests});
        std::fs::write(self.root.join("index.json"), index.to_string())?;
        std::fs::write(
            self.root.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
    }
}

/// A tar with fixed times, entries in the order given.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Tar(tar::Builder::new(Vec::new()))
    }
}

impl Tar {
    fn entry(
        mut self,
        kind: tar::EntryType,
        name: &str,
        data: &[u8],
        (mode, uid, gid): (u32, u64, u64),
        link: Option<&str>,
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(BASE_TIME);
        header.set_size(data.len() as u64);
        if let Some(link) = link {
            header.set_link_name(link).expect("a short link name");
        }
        header.set_path(name).expect("a short name");
        header.set_cksum();
        self.0.append(&header, data).expect("writing to memory");
        self
    }

    pub fn dir(self, name: &str, owner: (u32, u64, u64)) -> Self {
        self.entry(
            tar::EntryType::Directory,
            &format!("{name}/"),
            b"",
            owner,
            None,
        )
    }

    pub fn file(self, name: &str, data: &[u8], owner: (u32, u64, u64)) -> Self {
        self.entry(tar::EntryType::Regular, name, data, owner, None)
    }

    pub fn hard_link(self, name: &str, target: &str, mode: u32) -> Self {
        self.entry(tar::EntryType::Link, name, b"", (mode, 0, 0), Some(target))
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(
            tar::EntryType::Symlink,
            name,
            b"",
            (0o777, 0, 0),
            Some(target),
        )
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("writing to memory")
    }
}

const ROOT_DIR: (u32, u64, u64) = (0o755, 0, 0);
const ROOT_FILE: (u32, u64, u64) = (0o644, 0, 0);

/// The root file system of busybox: the binary, its applets as hard links, users and groups.
fn busybox_root(os_id: &str) -> Vec<u8> {
    let busybox =
        std::fs::read("/bin/busybox").expect("/bin/busybox, of the package busybox-static");
    let list = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("running busybox");
    let applets: BTreeSet<String> = String::from_utf8_lossy(&list.stdout)
        .split_whitespace()
        .filter(|applet| *applet != "busybox")
        .map(str::to_owned)
        .collect();
    let mut tar = Tar::default();
    for dir in [
        "bin", "dev", "etc", "home", "lib", "proc", "sys", "usr", "usr/bin", "usr/sbin", "sbin",
        "var", "var/lib",
    ] {
        tar = tar.dir(dir, ROOT_DIR);
    }
    tar = tar
        .dir("root", (0o700, 0, 0))
        .dir("tmp", (0o1777, 0, 0))
        .dir("var/tmp", (0o1777, 0, 0))
        .dir("home/app", (0o755, 1000, 1000))
        .dir("var/www", (0o755, 33, 33))
        .file("bin/busybox", &busybox, (0o755, 0, 0));
    for applet in applets {
        tar = tar.hard_link(&format!("bin/{applet}"), "bin/busybox", 0o755);
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\n\
        daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
        www-data:x:33:33:www-data:/var/www:/bin/false\n\
        app:x:1000:1000:app:/home/app:/bin/sh\n\
        nobody:x:65534:65534:nobody:/home:/bin/false\n";
    let group = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nstaff:x:50:app\napp:x:1000:\n\
        nogroup:x:65534:\n";
    tar.file("etc/passwd", passwd.as_bytes(), ROOT_FILE)
        .file("etc/group", group.as_bytes(), ROOT_FILE)
        .file("etc/shadow", b"root:*:::::::\n", (0o600, 0, 0))
        .file(
            "etc/os-release",
            format!("ID={os_id}\nNAME=\"{os_id} stand-in\"\n").as_bytes(),
            ROOT_FILE,
        )
        .bytes()
}

/// Writes all base images into one OCI layout at `root`; returns their names (`library/busybox:latest`).
pub fn write_layout(root: &Path) -> std::io::Result<Vec<String>> {
    let mut layout = Layout::create(root)?;
    let base = busybox_root("busybox");
    let alpine = busybox_root("alpine");
    let simple = json!({"Env": [PATH], "Cmd": ["sh"]});

    let busybox = layout.image(std::slice::from_ref(&base), simple.clone(), "amd64")?;
    layout.name(busybox, "library/busybox:latest");
    let alpine = layout.image(
        &[alpine],
        json!({"Env": [PATH], "Cmd": ["/bin/sh"]}),
        "amd64",
    )?;
    layout.name(alpine, "library/alpine:latest");
    let full = json!({
        "User": "app", "Env": [PATH, "BASE=from-base", "LANG=C.UTF-8"], "WorkingDir": "/home/app",
        "Entrypoint": ["/bin/busybox"], "Cmd": ["sh", "-c", "echo base"],
        "Labels": {"base.label": "one", "both": "base"}, "Volumes": {"/data": {}},
        "ExposedPorts": {"8080/tcp": {}}, "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64},
        "Shell": ["/bin/sh", "-ec"],
    });
    let config = layout.image(std::slice::from_ref(&base), full, "amd64")?;
    layout.name(config, "test/config:latest");
    let triggers = json!({"Env": [PATH], "Cmd": ["sh"], "OnBuild": [
        "COPY onbuild.txt /from-onbuild.txt", "RUN echo onbuild > /ran-onbuild.txt",
        "ENV ONBUILT=yes"]});
    let onbuild = layout.image(std::slice::from_ref(&base), triggers, "amd64")?;
    layout.name(onbuild, "test/onbuild:latest");

    let layers = layout.image(&layered(&base), simple.clone(), "amd64")?;
    layout.name(layers, "test/layers:latest");

    let platform = |arch: &str| {
        Tar::default()
            .file("platform", format!("linux/{arch}\n").as_bytes(), ROOT_FILE)
            .bytes()
    };
    let mut manifests = Vec::new();
    for (arch, layers) in [
        ("amd64", vec![base.clone(), platform("amd64")]),
        ("arm64", vec![platform("arm64")]),
    ] {
        let mut descriptor = layout.image(&layers, simple.clone(), arch)?;
        descriptor["platform"] = json!({"os": "linux", "architecture": arch});
        manifests.push(descriptor);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let index = layout.blob(index.to_string().as_bytes(), INDEX)?;
    layout.name(index, "test/multi:latest");
    layout.close()?;
    Ok([
        "library/busybox",
        "library/alpine",
        "test/config",
        "test/onbuild",
        "test/layers",
        "test/multi",
    ]
    .map(|name| format!("{name}:latest"))
    .to_vec())
}

/// Four layers: files, a whiteout and a hard link, an opaque directory.
fn layered(base: &[u8]) -> [Vec<u8>; 4] {
    let two = Tar::default()
        .dir("a", ROOT_DIR)
        .file("a/one", b"1\n", ROOT_FILE)
        .file("a/two", b"2\n", ROOT_FILE)
        .dir("b", ROOT_DIR)
        .dir("b/sub", ROOT_DIR)
        .file("b/sub/x", b"x\n", ROOT_FILE)
        .file("b/y", b"y\n", ROOT_FILE)
        .bytes();
    let three = Tar::default()
        .dir("a", ROOT_DIR)
        .file("a/.wh.one", b"", ROOT_FILE)
        .file("a/three", b"3\n", ROOT_FILE)
        .hard_link("a/hard", "a/three", 0o644)
        .symlink("sym", "a/three")
        .bytes();
    let four = Tar::default()
        .dir("b", (0o750, 1, 1))
        .file("b/.wh..wh..opq", b"", ROOT_FILE)
        .file("b/new", b"new\n", (0o640, 1000, 1000))
        .bytes();
    [base.to_vec(), two, three, four]
}

/// The files of busybox, from a layout that is written into `dir`.
pub fn busybox_files(dir: &Path) -> std::collections::BTreeMap<String, crate::image::Node> {
    write_layout(dir).expect("writing base images");
    let archive = dir.join("busybox.tar");
    crate::program::tool(
        "skopeo",
        &[
            "--insecure-policy".to_owned(),
            "copy".to_owned(),
            "--quiet".to_owned(),
            format!("oci:{}:library/busybox:latest", dir.display()),
            format!("oci-archive:{}", archive.display()),
        ],
    );
    let images = crate::image::images(&crate::image::read_archive(&archive));
    images.into_iter().next().expect("the image").files
}
