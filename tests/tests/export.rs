//! Every kind of output, read back with tools of others: skopeo, umoci, tar.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::image::{Image, images, read_archive};
use gateway_tests::program::{Home, binary, run, stderr, tool};
use gateway_tests::registry::Registry;
use serde_json::Value;
use sha2::{Digest, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry, a store and a context on busybox, or on the base of two platforms.
struct Stage {
    registry: Registry,
    home: Home,
    context: tempfile::TempDir,
}

const ON_BUSYBOX: &str =
    "FROM busybox\nCOPY hello.txt /in/\nRUN echo ran > /ran && ln /ran /hard\n";
const ON_TWO: &str = "FROM test/multi\nCOPY hello.txt /in/\n";

impl Stage {
    fn new(dockerfile: &str) -> Stage {
        let registry = Registry::with_base_images();
        let home = Home::new(&registry.as_docker_hub());
        let context = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(context.path().join("hello.txt"), "hello\n").expect("writing the context");
        std::fs::write(context.path().join("Dockerfile"), dockerfile)
            .expect("writing the build file");
        Stage {
            registry,
            home,
            context,
        }
    }

    fn try_build<S: AsRef<std::ffi::OsStr>>(&self, flags: &[S]) -> Output {
        run(self
            .home
            .build()
            .env_remove("SOURCE_DATE_EPOCH")
            .args(["--progress=plain", "--metadata-file"])
            .arg(self.path("metadata.json"))
            .args(flags)
            .arg(self.context.path()))
    }

    /// Builds; gives progress and what the exporters said.
    fn build<S: AsRef<std::ffi::OsStr>>(&self, flags: &[S]) -> (String, Value) {
        let output = self.try_build(flags);
        assert!(output.status.success(), "{}", stderr(&output));
        let said = std::fs::read(self.path("metadata.json")).expect("the metadata file");
        (stderr(&output), json(&said))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.dir.path().join(name)
    }

    fn at_registry(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address)
    }

    /// Another command of the program on the same store.
    fn gateway(&self, words: &[&str]) -> Output {
        run(Command::new(binary())
            .args(words)
            .arg("--root")
            .arg(self.home.store())
            .arg("--config")
            .arg(self.path("config.toml")))
    }

    /// What the registry holds under a name, as skopeo gets it.
    fn raw(&self, name: &str) -> Value {
        json(self.skopeo(&["inspect", "--raw"], name).as_bytes())
    }

    fn skopeo(&self, words: &[&str], name: &str) -> String {
        let certificates = self.registry.certificate_dir().display().to_string();
        let mut args = words.to_vec();
        let reference = format!("docker://{}", self.at_registry(name));
        args.extend(["--cert-dir", &certificates, &reference]);
        tool("skopeo", &args)
    }

    /// Pulls an image to an archive and reads its files.
    fn pulled(&self, name: &str) -> BTreeMap<String, String> {
        let archive = self.path("pulled.tar");
        // skopeo adds to an archive that is there.
        let _ = std::fs::remove_file(&archive);
        tool(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                "--quiet",
                "--src-cert-dir",
                &self.registry.certificate_dir().display().to_string(),
                &format!("docker://{}", self.at_registry(name)),
                &format!("oci-archive:{}", archive.display()),
            ],
        );
        files(&archive)
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Regular files of the only image of an archive.
fn files(archive: &Path) -> BTreeMap<String, String> {
    let images = images(&read_archive(archive));
    let [image] = images.as_slice() else {
        panic!("one image, not {}", images.len());
    };
    let files = image.files.iter().filter(|(_, node)| node.kind == "file");
    files
        .map(|(path, node)| {
            let text = String::from_utf8_lossy(&node.data).into_owned();
            (path.clone(), text)
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

fn names_of_outputs(stage: &Stage) -> Vec<String> {
    let mut names = names(stage.home.dir.path());
    names.retain(|name| !["config.toml", "store", "metadata.json"].contains(&name.as_str()));
    names
}

#[test]
fn a_pushed_image_is_pulled_by_others() {
    let stage = Stage::new(ON_BUSYBOX);
    let name = stage.at_registry("me/app:1");
    let (progress, said) = stage.build(&["-t", &name, "--push"]);
    for part in ["pushing layers", "pushing manifest for "] {
        assert!(progress.contains(part), "{part} in\n{progress}");
    }
    assert_eq!(stage.pulled("me/app:1")["ran"], "ran\n");
    let manifest = stage.raw("me/app:1");
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(said["containerimage.descriptor"]["mediaType"], MANIFEST);
    assert_eq!(
        said["containerimage.config.digest"],
        manifest["config"]["digest"]
    );
    assert_eq!(said["image.name"], name);
    let digest = stage.skopeo(&["inspect", "--format", "{{.Digest}}"], "me/app:1");
    assert_eq!(said["containerimage.digest"], digest.trim());
    let listed = stage.gateway(&["images"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        !listed.contains("me/app"),
        "only pushed, not kept: {listed}"
    );
}

#[test]
fn a_base_layer_that_no_step_needs_is_not_fetched_for_a_push() {
    let stage = Stage::new("");
    let base = stage.at_registry("library/busybox");
    std::fs::write(
        stage.context.path().join("Dockerfile"),
        format!("FROM {base}\nCOPY --link hello.txt /\n"),
    )
    .expect("writing the build file");
    let name = stage.at_registry("me/lazy:1");
    let manifest = stage.raw("library/busybox:latest");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    stage.build(&["-t", &name, "--push"]);
    let blob = |store: &Path| store.join("blobs/sha256").join(&layer["sha256:".len()..]);
    assert!(
        !blob(&stage.home.store()).exists(),
        "the registry was to take it from the other repository"
    );
    assert_eq!(stage.pulled("me/lazy:1")["hello.txt"], "hello\n");
}

#[test]
fn a_base_layer_reaches_a_registry_that_lacks_it() {
    let stage = Stage::new("FROM busybox\nCOPY hello.txt /\n");
    let other = Registry::start();
    let mut config = stage.registry.as_docker_hub();
    config += &format!(
        "\n[registry.\"{}\"]\nca = [\"{}\"]\n",
        other.address,
        other.ca().display()
    );
    std::fs::write(stage.path("config.toml"), config).expect("writing configuration");
    stage.build(&["-t", &format!("{}/me/app:1", other.address), "--push"]);
    let stage = Stage {
        registry: other,
        ..stage
    };
    assert!(stage.pulled("me/app:1").contains_key("bin/busybox"));
}

#[test]
fn a_push_by_digest_leaves_no_tag() {
    let stage = Stage::new("FROM scratch\nCOPY hello.txt /\n");
    let output = format!(
        "type=image,name={},push=true,push-by-digest=true",
        stage.at_registry("me/digest")
    );
    let (_, said) = stage.build(&["-o", &output]);
    let digest = said["containerimage.digest"].as_str().expect("a digest");
    let manifest = stage.raw(&format!("me/digest@{digest}"));
    assert_eq!(manifest["mediaType"], MANIFEST);
    let certificates = stage.registry.certificate_dir().display().to_string();
    let tags = Command::new("skopeo")
        .args(["list-tags", "--cert-dir", &certificates])
        .arg(format!("docker://{}", stage.at_registry("me/digest")))
        .output()
        .expect("skopeo");
    let tags = String::from_utf8_lossy(&tags.stdout).into_owned();
    assert!(!tags.contains("latest"), "{tags}");

    let tagged = format!(
        "type=registry,name={},push-by-digest=true",
        stage.at_registry("me/digest:1")
    );
    let refused = stage.try_build(&["-o", &tagged]);
    assert!(!refused.status.success());
    let text = stderr(&refused);
    assert!(text.contains("can't push tagged ref"), "{text}");
}

#[test]
fn an_image_of_two_platforms_is_one_index_with_annotations() {
    let stage = Stage::new(ON_TWO);
    stage.build(&[
        "--platform",
        "linux/amd64,linux/arm64",
        "-t",
        &stage.at_registry("me/multi:1"),
        "--push",
        "--annotation",
        "index:for.index=i",
        "--annotation",
        "for.all=m",
        "--annotation",
        "manifest-descriptor[linux/arm64]:for.arm=d",
    ]);
    let index = stage.raw("me/multi:1");
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(index["annotations"]["for.index"], "i");
    let platforms: Vec<&Value> = index["manifests"]
        .as_array()
        .expect("manifests")
        .iter()
        .map(|manifest| &manifest["platform"]["architecture"])
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    assert_eq!(index["manifests"][1]["annotations"]["for.arm"], "d");
    assert!(index["manifests"][0]["annotations"]["for.arm"].is_null());
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let manifest = stage.raw(&format!("me/multi@{digest}"));
    assert_eq!(manifest["annotations"]["for.all"], "m");

    let archive = format!("type=oci,dest={}", stage.path("o.tar").display());
    let refused = stage.try_build(&[
        "--platform",
        "linux/amd64,linux/arm64",
        "-o",
        &archive,
        "--annotation",
        "manifest[linux/s390x]:k=v",
    ]);
    assert!(!refused.status.success());
    let text = stderr(&refused);
    let words = "invalid annotation: no platform linux/s390x found in source";
    assert!(text.contains(words), "{text}");
}

#[test]
fn a_layer_that_its_image_leaves_elsewhere_comes_along() {
    let stage = Stage::new("FROM base\nCOPY hello.txt /in/\n");
    let dir = stage.path("base");
    std::fs::create_dir(&dir).expect("a folder");
    let mut layout = Layout::create(&dir).expect("a layout");
    let tar = Tar::default()
        .file("kept", b"elsewhere", (0o644, 0, 0))
        .bytes();
    let image = layout
        .foreign_image(&tar, "https://elsewhere.example/layer")
        .expect("an image");
    layout.name(image, "x");
    layout.close().expect("closing the layout");
    let base = format!("base=oci-layout://{}:x", dir.display());
    let archive = stage.path("o.tar");
    let output = format!("type=oci,dest={}", archive.display());
    stage.build(&["--build-context", &base, "-o", &output]);
    assert_eq!(files(&archive)["kept"], "elsewhere");
    let archive = read_archive(&archive);
    let index = json(&archive["index.json"]);
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let manifest = json(&archive[&format!("blobs/{}", digest.replace(':', "/"))]);
    for layer in manifest["layers"].as_array().expect("layers") {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(layer["mediaType"], media_type);
        assert!(layer["urls"].is_null());
    }
    // The other way is refused by name.
    let wish = format!("{output},prefer-nondist-layers=true");
    let refused = stage.try_build(&["--build-context", &base, "-o", &wish]);
    assert!(!refused.status.success());
    let text = stderr(&refused);
    assert!(
        text.contains("prefer-nondist-layers is not supported"),
        "{text}"
    );
}

#[test]
fn an_image_of_the_store_is_unpacked_at_once_on_wish() {
    let stage = Stage::new("FROM busybox\n");
    let layers = || {
        let dir = std::fs::read_dir(stage.home.store().join("layers"));
        dir.expect("the layers").count()
    };
    let (text, _) = stage.build(&["-o", "type=image,name=me/packed"]);
    assert!(!text.contains("unpacking to"), "{text}");
    let before = layers();
    let (text, _) = stage.build(&["-o", "type=image,name=me/unpacked,unpack=true"]);
    assert!(
        text.contains("unpacking to docker.io/me/unpacked:latest"),
        "{text}"
    );
    assert_eq!(layers(), before + 1);
}

#[test]
fn outputs_of_one_build_agree() {
    let stage = Stage::new(ON_BUSYBOX);
    let at = |name: &str| stage.path(name).display().to_string();
    let (_, said) = stage.build(&[
        "-t",
        "me/app:1",
        "-o",
        &format!("type=oci,dest={}", at("oci.tar")),
        "-o",
        &format!("type=oci,tar=false,dest={}", at("layout")),
        "-o",
        &format!("type=docker,dest={}", at("docker.tar")),
        "-o",
        &format!("type=tar,dest={}", at("files.tar")),
        "-o",
        &format!("type=local,dest={}", at("files")),
        "-o",
        "type=image",
    ]);
    assert_eq!(said["image.name"], "me/app:1", "the last output's answer");
    assert_eq!(
        names_of_outputs(&stage),
        ["docker.tar", "files", "files.tar", "layout", "oci.tar"]
    );
    for archive in ["oci.tar", "docker.tar"] {
        assert_eq!(files(&stage.path(archive))["ran"], "ran\n");
    }
    let docker = json(&read_archive(&stage.path("docker.tar"))["manifest.json"]);
    assert_eq!(docker[0]["RepoTags"][0], "me/app:1");
    tool(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{}:1", at("layout")),
            &at("bundle"),
        ],
    );
    let unpacked = stage.path("bundle/rootfs/ran");
    assert_eq!(std::fs::read(unpacked).expect("the file"), b"ran\n");
    let listed = tool("tar", &["-tvf", &at("files.tar")]);
    assert!(listed.contains("in/hello.txt"), "{listed}");
    assert!(listed.contains("ran link to hard"), "{listed}");
    assert_eq!(
        std::fs::read(stage.path("files/in/hello.txt")).expect("the file"),
        b"hello\n"
    );
    let owner = std::fs::metadata(stage.path("files/home/app")).expect("the folder");
    assert_eq!(
        owner.uid(),
        rustix::process::geteuid().as_raw(),
        "files belong to who asked for them"
    );
}

#[test]
fn platforms_get_a_directory_each_and_mode_delete_cleans_up() {
    let stage = Stage::new(ON_TWO);
    let (dir, tar) = (stage.path("out"), stage.path("out.tar"));
    std::fs::create_dir_all(dir.join("linux_amd64/old")).expect("making a folder");
    std::fs::write(dir.join("stray"), "").expect("writing a file");
    let local = format!("type=local,dest={}", dir.display());
    let both = ["--platform", "linux/amd64,linux/arm64"];
    let flags = [
        &both[..],
        &[
            "-o",
            &local,
            "-o",
            &format!("type=tar,dest={}", tar.display()),
        ],
    ];
    stage.build(&flags.concat());
    let text = |arch: &str| {
        std::fs::read_to_string(dir.join(format!("linux_{arch}/platform"))).expect("the file")
    };
    assert_eq!(
        (text("amd64").as_str(), text("arm64").as_str()),
        ("linux/amd64\n", "linux/arm64\n")
    );
    assert!(dir.join("stray").exists());
    let listed = tool("tar", &["-tf".to_owned(), tar.display().to_string()]);
    for path in ["linux_amd64/in/hello.txt", "linux_arm64/in/hello.txt"] {
        assert!(
            listed.lines().any(|line| line == path),
            "{path} in {listed}"
        );
    }
    let merged = format!("{local},platform-split=false");
    let refused = stage.try_build(&[&both[..], &["-o", &merged]].concat());
    let said = stderr(&refused);
    assert!(said.contains("when split option is disabled"), "{said}");
    stage.build(
        &[
            &both[..],
            &[
                "--allow",
                "buildx.local.delete",
                "-o",
                &format!("{local},mode=delete"),
            ],
        ]
        .concat(),
    );
    assert_eq!(names(&dir), ["linux_amd64", "linux_arm64"]);
    assert!(!dir.join("linux_amd64/old").exists());
    assert_eq!(text("arm64"), "linux/arm64\n");
}

#[test]
fn a_forced_compression_packs_base_layers_anew_with_the_same_diff_ids() {
    let stage = Stage::new("FROM test/layers\nCOPY hello.txt /\n");
    let export = |name: &str, more: &str| {
        let archive = stage.path(name);
        stage.build(&["-o", &format!("type=oci,dest={}{more}", archive.display())]);
        let mut found = images(&read_archive(&archive));
        found.remove(0)
    };
    let plain = export("gzip.tar", "");
    let kinds = |manifest: &Value| -> Vec<String> {
        let layers = manifest["layers"].as_array().expect("layers");
        let kind = |layer: &Value| {
            let text = layer["mediaType"].as_str().expect("a media type");
            text.rsplit('.').next().unwrap_or_default().to_owned()
        };
        layers.iter().map(kind).collect()
    };
    let mixed = export("mixed.tar", ",compression=uncompressed");
    let kept = kinds(&plain.manifest);
    assert_eq!(kinds(&mixed.manifest)[..4], kept[..4], "base layers stay");
    assert_eq!(kinds(&mixed.manifest)[4], "tar");
    let forced = export(
        "tar.tar",
        ",compression=uncompressed,force-compression=true",
    );
    assert_eq!(kinds(&forced.manifest), ["tar"; 5]);
    assert_eq!(forced.config["rootfs"], plain.config["rootfs"]);
    stage.build(&[
        "-o",
        &format!(
            "type=oci,dest={},compression=zstd,force-compression=true,compression-level=3",
            stage.path("zstd.tar").display()
        ),
    ]);
    let reference = format!("oci-archive:{}", stage.path("zstd.tar").display());
    let raw = json(tool("skopeo", &["inspect", "--raw", &reference]).as_bytes());
    assert_eq!(kinds(&raw), ["tar+zstd"; 5]);
}

/// Bytes of one gzip member that begins at `at`.
fn member(blob: &[u8], at: usize, most: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut member = flate2::bufread::GzDecoder::new(&blob[at..]).take(most);
    member.read_to_end(&mut out).expect("a gzip member");
    out
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[test]
fn estargz_layers_have_each_file_where_their_table_says_and_are_gzip_for_all_others() {
    let stage = Stage::new(
        "FROM test/layers\nCOPY hello.txt /in/\nRUN head -c 9000000 /dev/zero | tr '\\0' x > /large\n",
    );
    let export = |name: &str, more: &str| {
        let archive = stage.path(name);
        stage.build(&["-o", &format!("type=oci,dest={}{more}", archive.display())]);
        read_archive(&archive)
    };
    let wish = ",compression=estargz,force-compression=true";
    let plain = images(&export("gzip.tar", "")).remove(0);
    let archive = export("estargz.tar", wish);
    // Digests, sizes and diffIDs are checked where images are read.
    let image = images(&archive).remove(0);
    assert_eq!(image.files, plain.files);
    assert_eq!(image.layers, plain.layers);
    let mut seen = Vec::new();
    for layer in image.manifest["layers"].as_array().expect("layers") {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        let digest = layer["digest"].as_str().expect("a digest");
        let blob = &archive[&format!("blobs/{}", digest.replace(':', "/"))];
        let mut whole = Vec::new();
        let mut gzip = flate2::read::MultiGzDecoder::new(&blob[..]);
        gzip.read_to_end(&mut whole).expect("gzip");
        let annotations = &layer["annotations"];
        assert_eq!(
            annotations["io.containers.estargz.uncompressed-size"],
            whole.len().to_string()
        );
        let footer = &blob[blob.len() - 51..];
        assert_eq!(&footer[32..38], b"STARGZ");
        let digits = std::str::from_utf8(&footer[16..32]).expect("digits");
        let at = usize::from_str_radix(digits, 16).expect("an offset");
        let table = member(blob, at, u64::MAX);
        let mut tar = tar::Archive::new(&table[..]);
        let mut entry = tar
            .entries()
            .expect("a tar")
            .next()
            .expect("a file")
            .expect("read");
        assert_eq!(entry.path_bytes().as_ref(), b"stargz.index.json");
        let mut text = Vec::new();
        entry.read_to_end(&mut text).expect("the table");
        assert_eq!(
            annotations["containerd.io/snapshot/stargz/toc.digest"],
            sha256(&text)
        );
        let mut size = 0;
        for entry in json(&text)["entries"].as_array().expect("entries") {
            let number = |key: &str| entry[key].as_u64().unwrap_or(0);
            size = if entry["type"] == "reg" {
                number("size")
            } else {
                size
            };
            let length = match number("chunkSize") {
                0 => size - number("chunkOffset"),
                length => length,
            };
            if length > 0 && ["reg", "chunk"].iter().any(|kind| entry["type"] == *kind) {
                let content = member(blob, number("offset") as usize, length);
                assert_eq!(content.len() as u64, length);
                assert_eq!(entry["chunkDigest"], sha256(&content));
                seen.push(entry["name"].as_str().expect("a name").to_owned());
            }
        }
    }
    assert!(seen.contains(&"in/hello.txt".to_owned()), "{seen:?}");
    assert_eq!(seen.iter().filter(|name| *name == "large").count(), 3);
    assert_eq!(export("again.tar", wish), archive, "the same again");

    // Without force, layers of the base stay as their image has them.
    let own = images(&export("own.tar", ",compression=estargz")).remove(0);
    let annotated = |layer: &&Value| layer["annotations"].is_object();
    let layers = own.manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.iter().filter(annotated).count(), 2);
    // Nor do those of a base that is eStargz lose what makes them it, fetched or not.
    let source = format!("oci-archive:{}", stage.path("estargz.tar").display());
    stage.registry.skopeo_push(&source, "test/estargz:latest");
    std::fs::write(
        stage.context.path().join("Dockerfile"),
        "FROM test/estargz\nRUN echo more > /more\n",
    )
    .expect("writing the build file");
    let told = |image: &Image| -> Vec<Value> {
        let layers = image.manifest["layers"].as_array().expect("layers");
        layers.iter().map(|l| l["annotations"].clone()).collect()
    };
    let on_top = told(&images(&export("on-top.tar", "")).remove(0));
    let base = told(&image);
    assert_eq!(on_top[..base.len()], base);
    assert_eq!(on_top[base.len()..], [Value::Null]);
    let docker = stage.path("docker.tar").display().to_string();
    let refused = stage.try_build(&[
        "-o",
        &format!("type=docker,dest={docker},compression=estargz"),
    ]);
    let words = "exporter option \"compression=estargz\" conflicts with \"oci-mediatypes=false\"";
    assert!(stderr(&refused).contains(words), "{}", stderr(&refused));
}

#[test]
fn the_same_input_gives_the_same_digest_in_another_store_at_another_time() {
    let stage = Stage::new(ON_BUSYBOX);
    let build = |home: &Home, name: &str| {
        let archive = stage.path(name);
        let output = run(home
            .build()
            .env("SOURCE_DATE_EPOCH", "1600000000")
            .arg("-o")
            .arg(format!(
                "type=oci,dest={},rewrite-timestamp=true",
                archive.display()
            ))
            .arg(stage.context.path()));
        assert!(output.status.success(), "{}", stderr(&output));
        archive
    };
    let first = build(&stage.home, "first.tar");
    // Times are whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let other = Home::new(&stage.registry.as_docker_hub());
    let second = build(&other, "second.tar");
    assert_eq!(
        std::fs::read(&first).expect("the archive"),
        std::fs::read(&second).expect("the archive")
    );
    let images = images(&read_archive(&first));
    assert_eq!(images[0].config["created"], "2020-09-13T12:26:40Z");
    assert_eq!(images[0].files["ran"].mtime, 1_600_000_000);
}

#[test]
fn a_failed_build_or_push_leaves_destinations_as_they_were() {
    let stage = Stage::new("FROM busybox\nRUN false\n");
    let archive = stage.path("app.tar");
    std::fs::write(&archive, "before").expect("writing a file");
    let output = format!("type=oci,dest={}", archive.display());
    assert!(!stage.try_build(&["-o", &output]).status.success());
    assert_eq!(std::fs::read(&archive).expect("the file"), b"before");
    assert_eq!(names_of_outputs(&stage), ["app.tar"]);

    std::fs::write(
        stage.context.path().join("Dockerfile"),
        "FROM scratch\nCOPY hello.txt /\n",
    )
    .expect("writing the build file");
    // A port that was free a moment ago: nobody listens.
    let gone = {
        let registry = Registry::start();
        registry.address
    };
    let name = format!("{gone}/me/app:1");
    let refused = stage.try_build(&["-t", &name, "--push"]);
    assert!(!refused.status.success());
    let text = stderr(&refused);
    assert!(text.contains(&format!("failed to push {name}")), "{text}");
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn a_registry_with_an_unknown_certificate_is_explained_and_can_be_believed() {
    let stage = Stage::new("FROM scratch\nCOPY hello.txt /\n");
    let stranger = Registry::start();
    // Nothing is configured for it but that it speaks TLS.
    let config = stage.registry.as_docker_hub()
        + &format!("\n[registry.\"{}\"]\nhttp = false\n", stranger.address);
    std::fs::write(stage.path("config.toml"), config).expect("writing configuration");
    let name = format!("{}/me/app:1", stranger.address);
    let refused = stage.try_build(&["-o", &format!("type=registry,name={name}")]);
    assert!(!refused.status.success());
    let text = stderr(&refused);
    assert!(text.contains("failed to push"), "{text}");
    assert!(
        text.contains("gateway test authority"),
        "who signed it: {text}"
    );
    assert!(text.contains("ca = "), "what to configure: {text}");
    stage.build(&[
        "-o",
        &format!("type=registry,name={name},registry.insecure=true"),
    ]);
}

#[test]
fn a_stored_image_is_listed_saved_pushed_and_the_base_of_the_next_build() {
    let stage = Stage::new(ON_BUSYBOX);
    let name = stage.at_registry("never/pushed:1");
    let (_, said) = stage.build(&["-t", &name]);
    let digest = said["containerimage.digest"].as_str().expect("a digest");
    let text = |output: &Output| {
        assert!(output.status.success(), "{}", stderr(output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listed = text(&stage.gateway(&["images"]));
    let line = listed.lines().find(|line| line.starts_with(&name));
    assert!(line.is_some_and(|line| line.contains(digest)), "{listed}");

    let archive = stage.path("saved.tar");
    text(&stage.gateway(&["save", &name, "-o", &archive.display().to_string()]));
    assert_eq!(files(&archive)["ran"], "ran\n");
    let missing = stage.gateway(&["save", "no/such", "-o", &archive.display().to_string()]);
    assert!(!missing.status.success());
    assert!(stderr(&missing).contains("no/such"), "{}", stderr(&missing));

    let pushed = text(&stage.gateway(&["push", &name, &stage.at_registry("me/copy:2")]));
    assert!(pushed.contains(digest), "{pushed}");
    assert_eq!(stage.pulled("me/copy:2")["ran"], "ran\n");

    std::fs::write(
        stage.context.path().join("Dockerfile"),
        format!("FROM {name}\nRUN cat /ran > /again\n"),
    )
    .expect("writing the build file");
    let next = stage.path("next.tar");
    stage.build(&[
        "--opt",
        "image-resolve-mode=local",
        "-o",
        &format!("type=oci,dest={}", next.display()),
    ]);
    assert_eq!(files(&next)["again"], "ran\n");
}

#[test]
fn streams_go_to_devices_standard_output_and_programs() {
    let stage = Stage::new("FROM scratch\nCOPY hello.txt /\n");
    stage.build(&["-o", "type=oci,dest=/dev/null"]);
    assert!(
        std::fs::metadata("/dev/null")
            .expect("the device")
            .file_type()
            .is_char_device()
    );
    let output = stage.try_build(&["-o", "-"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let archive = stage.path("stdout.tar");
    std::fs::write(&archive, &output.stdout).expect("writing what came");
    let listed = tool("tar", &["-tf".to_owned(), archive.display().to_string()]);
    assert_eq!(listed, "hello.txt\n");

    // A stand-in for docker that keeps what it is to load.
    let bin = stage.path("bin");
    std::fs::create_dir(&bin).expect("making a folder");
    let loaded = stage.path("loaded.tar");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = load ] && cat > {} && echo Loaded image: me/app:1\n",
        loaded.display()
    );
    std::fs::write(bin.join("docker"), script).expect("writing the program");
    tool(
        "chmod",
        &["+x".to_owned(), bin.join("docker").display().to_string()],
    );
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = run(stage
        .home
        .build()
        .env("PATH", path)
        .args(["--progress=plain", "-t", "me/app:1", "--load"])
        .arg(stage.context.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("Loaded image: me/app:1"));
    assert_eq!(files(&loaded)["hello.txt"], "hello\n");
}
