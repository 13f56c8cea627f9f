//! The main job on real parts: a frontend image of our own in a TLS registry, a build file whose
//! `# syntax` line names it, an image that Debian's tools can read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gateway_tests::expect::Events;
use gateway_tests::image::{Image, images, read_archive};
use gateway_tests::program::{Home, binary, run, stderr, tool};
use gateway_tests::registry::Registry;

const FRONTEND: &str = "you/your-frontend:1";
/// Exists on machines that the test command set up.
const ORDINARY_USER: &str = "gateway-test";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project's folder")
        .to_owned()
}

/// A registry with base images and the frontend image, made by the project's own Dockerfile with the
/// program under test.
fn registry_with_frontend() -> Registry {
    let registry = Registry::with_base_images();
    registry.build_and_push(&project(), FRONTEND);
    registry
}

fn write_context(dir: &Path, registry: &Registry) {
    std::fs::write(dir.join("hello.txt"), "hello\n").expect("writing the context");
    let dockerfile = format!(
        "# syntax = {address}/{FRONTEND}\n\
         FROM busybox AS one\n\
         RUN echo one > /one\n\
         FROM busybox AS two\n\
         COPY hello.txt /in/\n\
         RUN tr a-z A-Z < /in/hello.txt > /two\n\
         FROM busybox\n\
         COPY --from=one /one /\n\
         COPY --from=two /two /\n\
         RUN --mount=type=cache,target=/c cat /one /two > /all\n",
        address = registry.address,
    );
    std::fs::write(dir.join("Dockerfile"), dockerfile).expect("writing the build file");
}

fn check_image(archive: &Path) {
    let images = images(&read_archive(archive));
    let [image] = images.as_slice() else {
        panic!("one image, not {}", images.len());
    };
    let text = |image: &Image, path: &str| {
        let node = image
            .files
            .get(path)
            .unwrap_or_else(|| panic!("{path} in the image"));
        String::from_utf8_lossy(&node.data).into_owned()
    };
    assert_eq!(text(image, "all"), "one\nHELLO\n");
    assert!(
        !image.files.contains_key("c"),
        "the cache mount's stub is in a layer"
    );
    // Debian's own tools read it too.
    let reference = format!("oci-archive:{}", archive.display());
    let inspected = tool(
        "skopeo",
        &["--insecure-policy", "inspect", "--config", &reference],
    );
    assert!(inspected.contains("buildkit.dockerfile.v0"), "{inspected}");
}

fn check_umoci(archive: &Path, scratch: &Path) {
    let layout = scratch.join("layout");
    tool(
        "skopeo",
        &[
            "--insecure-policy".to_owned(),
            "copy".to_owned(),
            "--quiet".to_owned(),
            format!("oci-archive:{}", archive.display()),
            format!("oci:{}:app", layout.display()),
        ],
    );
    let bundle = scratch.join("bundle");
    tool(
        "umoci",
        &[
            "unpack".to_owned(),
            "--image".to_owned(),
            format!("{}:app", layout.display()),
            bundle.display().to_string(),
        ],
    );
    let text = std::fs::read_to_string(bundle.join("rootfs/all")).expect("the file in the bundle");
    assert_eq!(text, "one\nHELLO\n");
}

#[test]
fn a_syntax_line_builds_an_image_and_a_second_build_runs_nothing() {
    let registry = registry_with_frontend();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    write_context(context.path(), &registry);
    let build = |name: &str| {
        let archive = home.dir.path().join(name);
        let output = run(home
            .build()
            .args(["--progress=rawjson", "-t", "example/app:1", "--output"])
            .arg(format!("type=oci,dest={}", archive.display()))
            .arg(context.path()));
        assert!(output.status.success(), "{}", stderr(&output));
        (archive, Events::read(&stderr(&output)))
    };
    let (archive, events) = build("first.tar");
    check_image(&archive);
    check_umoci(&archive, home.dir.path());
    let steps = |events: &Events| {
        let mut steps: Vec<(String, bool)> = events
            .vertices
            .iter()
            .filter(|(name, _)| name.contains(" RUN ") || name.contains(" COPY "))
            .map(|(name, (cached, _))| (name.clone(), *cached))
            .collect();
        steps.sort();
        steps
    };
    let first = steps(&events);
    assert_eq!(first.len(), 6, "{first:?}");
    assert!(first.iter().all(|(_, cached)| !cached), "{first:?}");

    let (archive, events) = build("second.tar");
    check_image(&archive);
    let second = steps(&events);
    assert_eq!(second.len(), 6, "{second:?}");
    assert!(second.iter().all(|(_, cached)| *cached), "{second:?}");
}

#[test]
fn an_ordinary_user_builds_the_same_without_root() {
    let registry = registry_with_frontend();
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let dir = scratch.path();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .expect("setting a mode");
    };
    open(dir, 0o755);
    // The binary, the configuration and the certificate where that user can reach them.
    std::fs::copy(binary(), dir.join("gateway")).expect("copying the binary");
    std::fs::copy(registry.ca(), dir.join("ca.crt")).expect("copying the certificate");
    let config = registry.as_docker_hub().replace(
        &registry.ca().display().to_string(),
        &dir.join("ca.crt").display().to_string(),
    );
    std::fs::write(dir.join("config.toml"), config).expect("writing configuration");
    let context = dir.join("context");
    std::fs::create_dir(&context).expect("making the context");
    write_context(&context, &registry);
    let own = dir.join("own");
    std::fs::create_dir(&own).expect("making the user's folder");
    tool("chown", &[ORDINARY_USER, &own.display().to_string()]);

    let archive = own.join("app.tar");
    let output = run(Command::new("runuser")
        .args(["-u", ORDINARY_USER, "--"])
        .arg(dir.join("gateway"))
        .arg("build")
        .arg("--root")
        .arg(own.join("store"))
        .arg("--config")
        .arg(dir.join("config.toml"))
        .arg("--output")
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(&context)
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir("/"));
    assert!(output.status.success(), "{}", stderr(&output));
    check_image(&archive);
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(&archive).expect("the archive").uid();
    let user: u32 = tool("id", &["-u", ORDINARY_USER])
        .trim()
        .parse()
        .expect("a uid");
    assert_eq!(owner, user, "the archive belongs to the user who built it");
    // Files of subordinate ids are the store's; root removes them with the folder.
}
