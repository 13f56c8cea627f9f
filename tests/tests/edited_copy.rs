//! A copy of many files of which some are edited, from build to registry: the new layer is made of the
//! last one, and is byte for byte what a build from nothing makes. Read back by skopeo and umoci.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_tests::program::{Home, run, stderr, tool};
use gateway_tests::registry::Registry;
use serde_json::Value;

/// Longer than the clock of any file system ticks: what was changed before is known to be settled.
const SETTLED: Duration = Duration::from_millis(250);

struct Project {
    registry: Registry,
    context: tempfile::TempDir,
}

impl Project {
    fn new() -> Project {
        let project = Project {
            registry: Registry::with_base_images(),
            context: tempfile::tempdir().expect("a temporary folder"),
        };
        project.write("Dockerfile", "FROM busybox\nCOPY app /app\nRUN true\n");
        for dir in 0..20 {
            for file in 0..10 {
                project.write(&format!("app/d{dir}/f{file}"), &format!("{dir} {file}\n"));
            }
        }
        let long = format!("app/{}/{}", "long".repeat(30), "name".repeat(30));
        project.write(&long, "long\n");
        project.write("app/d1/ünicode name", "name\n");
        project.write("app/run.sh", "#!/bin/sh\n");
        project.mode("app/run.sh", 0o755);
        project.mode("app/d2/f2", 0o600);
        std::fs::create_dir(project.path("app/empty")).expect("a folder");
        symlink("d1/f1", project.path("app/link")).expect("a link");
        symlink("nowhere", project.path("app/d3/dangling")).expect("a link");
        std::thread::sleep(SETTLED);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.context.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("making a folder");
        std::fs::write(path, text).expect("writing a file");
    }

    fn mode(&self, name: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(name), mode).expect("changing a mode");
    }

    /// Every kind of change that a copy can meet.
    fn edit(&self) {
        self.write("app/d3/f3", "edited\n");
        self.write("app/d4/f4", "grown\n".repeat(1000).as_str());
        self.write("app/d5/f5", "");
        self.write("app/d6/new", "new\n");
        self.write("app/d6/a dir/below/new", "new\n");
        self.mode("app/d7/f7", 0o751);
        std::fs::remove_file(self.path("app/d8/f8")).expect("removing a file");
        std::fs::remove_dir_all(self.path("app/d9")).expect("removing a folder");
        std::fs::remove_file(self.path("app/link")).expect("removing a link");
        symlink("d2/f1", self.path("app/link")).expect("a link");
        std::fs::rename(self.path("app/d10/f1"), self.path("app/d10/moved")).expect("renaming");
        std::thread::sleep(SETTLED);
    }

    fn push(&self, home: &Home, name: &str) {
        let reference = format!("{}/{name}", self.registry.address);
        let output = run(home
            .build()
            .env_remove("SOURCE_DATE_EPOCH")
            .arg("--output")
            .arg(format!("type=image,name={reference},push=true"))
            .arg(self.context.path()));
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// The image as a layout, its diff ids, and its files as umoci unpacks them.
    fn pulled(&self, name: &str, into: &Path) -> (Vec<String>, PathBuf) {
        let layout = into.join(name.replace([':', '/'], "-"));
        let reference = format!("docker://{}/{name}", self.registry.address);
        let certificates = self.registry.certificate_dir().display().to_string();
        tool(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                "--quiet",
                "--src-cert-dir",
                &certificates,
                &reference,
                &format!("oci:{}:image", layout.display()),
            ],
        );
        let config = tool(
            "skopeo",
            &[
                "inspect",
                "--config",
                "--raw",
                &format!("oci:{}:image", layout.display()),
            ],
        );
        let config: Value = serde_json::from_str(&config).expect("an image config");
        let ids = config["rootfs"]["diff_ids"].as_array().expect("diff ids");
        let ids = ids.iter().map(|id| id.as_str().expect("text").to_owned());
        let bundle = into.join(format!("{}-bundle", name.replace([':', '/'], "-")));
        tool(
            "umoci",
            &[
                "unpack",
                "--image",
                &format!("{}:image", layout.display()),
                &bundle.display().to_string(),
            ],
        );
        (ids.collect(), bundle.join("rootfs/app"))
    }
}

/// Everything below a directory that a layer can tell, beside owners: those are root's.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in std::fs::read_dir(&at).expect("a folder").flatten() {
            let path = entry.path();
            let meta = path.symlink_metadata().expect("its stat");
            let content = if meta.is_dir() {
                waiting.push(path.clone());
                "a folder".to_owned()
            } else if meta.is_symlink() {
                format!("-> {}", path.read_link().expect("its target").display())
            } else {
                String::from_utf8(std::fs::read(&path).expect("its content")).expect("text")
            };
            let mode = meta.mode() & 0o7777;
            let name = path.strip_prefix(dir).expect("below").to_owned();
            found.insert(name, format!("{mode:o} {content}"));
        }
    }
    found
}

#[test]
fn an_edited_copy_is_pushed_as_the_layer_that_a_build_from_nothing_makes() {
    let project = Project::new();
    let home = Home::new(&project.registry.as_docker_hub());
    let scratch = tempfile::tempdir().expect("a temporary folder");
    project.push(&home, "me/app:1");
    let (first, files) = project.pulled("me/app:1", scratch.path());
    assert_eq!(tree(&files), tree(&project.path("app")));

    // A file that nobody edits, spoiled where the store keeps it: who made the layer's tar from the files
    // anew would show it.
    let spoiled = kept_file(&home.store(), "app/d12/f3");
    let times = std::fs::metadata(&spoiled).expect("its stat");
    std::fs::write(&spoiled, "12 X\n").expect("spoiling a file");
    let handle = std::fs::File::options().write(true).open(&spoiled);
    handle
        .and_then(|file| file.set_modified(times.modified().expect("its time")))
        .expect("setting its time");

    project.edit();
    project.push(&home, "me/app:2");
    let layers = std::fs::read_dir(home.store().join("layers")).expect("the layers");
    let derived = |name: &std::ffi::OsStr| name.to_string_lossy().contains('+');
    assert!(
        layers.flatten().any(|layer| derived(&layer.file_name())),
        "the whole was copied again"
    );
    let (second, files) = project.pulled("me/app:2", scratch.path());
    assert_ne!(first, second);
    assert_eq!(tree(&files), tree(&project.path("app")));

    let other = Home::new(&project.registry.as_docker_hub());
    project.push(&other, "me/app:3");
    let (whole, _) = project.pulled("me/app:3", scratch.path());
    assert_eq!(second[..2], whole[..2]);
}

/// The file of the copy's layer in a store.
fn kept_file(store: &Path, name: &str) -> PathBuf {
    let layers = std::fs::read_dir(store.join("layers")).expect("the layers");
    let mut files = layers.flatten().map(|layer| layer.path().join(name));
    files.find(|path| path.exists()).expect("the copy's layer")
}
