//! `gateway frontend build`: a static binary for each platform, compiled by cargo or given, and an image around each:
//! from scratch, one layer, one file.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use gateway_images::archive::{Family, Image, NEVER, make_index, write_layout_as};
use gateway_images::layer::{
    CompressOptions, Compression, END, Header, Kind, padding, write_layer,
};
use gateway_images::platform::Platform;
use gateway_images::store::BlobStore;
use serde_json::{Value, json};

use super::elf;
use super::subject::{
    LABEL_CAPS, LABEL_DETERMINISTIC, LABEL_NETWORK, LAYOUT_DIR, Subject, VERSION,
};
use crate::error::{CliError, UsageError};
use crate::registry::platform;
use crate::text::{print, size_text};

/// Where the program is in the image.
const PROGRAM: &str = "frontend";
/// Larger than any frontend of the project's SDK; every build of its users waits for these bytes once.
const LARGE: u64 = 6_000_000;
/// The time of everything in the image: the same binary gives the same digest.
const EPOCH: &str = "1970-01-01T00:00:00Z";
const LATEST: &str = "latest";

/// Platforms and what rustc calls them. All link with rust's own linker.
const TARGETS: [(&str, &str); 5] = [
    ("linux/amd64", "x86_64-unknown-linux-musl"),
    ("linux/arm64", "aarch64-unknown-linux-musl"),
    ("linux/386", "i686-unknown-linux-musl"),
    ("linux/arm/v7", "armv7-unknown-linux-musleabihf"),
    ("linux/riscv64", "riscv64gc-unknown-linux-musl"),
];

/// Make the image of a frontend: from scratch, one layer, one static binary.
#[derive(Debug, Args)]
#[command(after_help = "\
The crate says in Cargo.toml what its labels are:
  [package.metadata.frontend]
  caps = [\"moby.buildkit.frontend.subrequests\"]   # what callers may require of it
  network = false                                 # true: it needs the network
  deterministic = true                            # its answers may be used again for the same input

Examples:
  gateway frontend build                                        the crate here, for this machine
  gateway frontend build --platform linux/amd64,linux/arm64     for two platforms
  gateway frontend build --binary linux/amd64=out/frontend      a program in any language")]
pub struct Make {
    /// Folder of the crate
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,

    /// Platforms, e.g. linux/amd64,linux/arm64 [default: this machine's]
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub platforms: Vec<String>,

    /// A program that is compiled already, instead of a crate (may be repeated)
    #[arg(long = "binary", value_name = "PLATFORM=FILE")]
    pub binaries: Vec<String>,

    /// Label of the image; those of the crate come first
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,

    /// Folder of the OCI layout that is written [default: DIR/target/frontend-image]
    #[arg(short, long, value_name = "LAYOUT")]
    pub output: Option<PathBuf>,

    /// For cargo, e.g. -- --offline --features x
    #[arg(last = true, value_name = "CARGO_FLAGS")]
    pub cargo: Vec<String>,
}

fn wrong(problem: String) -> CliError {
    CliError::Frontend(problem)
}

pub fn run(args: &Make) -> Result<(), CliError> {
    let (subject, dir) = make(args, &[])?;
    for image in &subject.images {
        let size = image.size();
        print(&format!(
            "{}  {}  {}\n",
            image.platform,
            image.descriptor.digest,
            size_text(size)
        ));
        if size > LARGE {
            eprintln!(
                "warning: {} is larger than {}: every user's first build waits for it; strip the binary, and build it for size",
                image.platform,
                size_text(LARGE)
            );
        }
    }
    print(&format!(
        "{}@{}\n",
        dir.display(),
        subject.root.descriptor.digest
    ));
    Ok(())
}

/// What cargo says of the crate.
struct Crate {
    name: String,
    version: String,
    description: String,
    target_dir: PathBuf,
    labels: BTreeMap<String, String>,
}

/// Makes the image; gives it, and where it is. `default` are the platforms when none are named.
pub fn make(args: &Make, default: &[&str]) -> Result<(Subject, PathBuf), CliError> {
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| args.dir.join(LAYOUT_DIR));
    let mut labels = BTreeMap::from([(LABEL_NETWORK.to_owned(), "true".to_owned())]);
    let mut programs: Vec<(Platform, PathBuf)> = Vec::new();
    for text in &args.binaries {
        let pair = text.split_once('=').filter(|(_, file)| !file.is_empty());
        let Some((name, file)) = pair else {
            return Err(UsageError::new("--binary", text, "write PLATFORM=FILE".into()).into());
        };
        programs.push((platform(Some(name))?, PathBuf::from(file)));
    }
    if programs.is_empty() {
        let package = package(&args.dir, &args.cargo)?;
        labels = package.labels.clone();
        labels.insert(
            "org.opencontainers.image.title".into(),
            package.name.clone(),
        );
        if !package.description.is_empty() {
            let key = "org.opencontainers.image.description";
            labels.insert(key.into(), package.description.clone());
        }
        labels.insert(VERSION.into(), package.version.clone());
        let mut wanted: Vec<String> = args.platforms.clone();
        if wanted.is_empty() {
            wanted.extend(default.iter().map(|text| (*text).to_owned()));
        }
        if wanted.is_empty() {
            wanted.push(platform(None)?.to_string());
        }
        for name in &wanted {
            let platform = platform(Some(name))?;
            let program = compile(&args.dir, &package, &platform, &args.cargo)?;
            programs.push((platform, program));
        }
    }
    for text in &args.labels {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        labels.insert(key.to_owned(), value.to_owned());
    }
    let version = labels.get(VERSION).cloned();
    assemble(&programs, &labels, version.as_deref(), &output).map(|subject| (subject, output))
}

fn package(dir: &Path, flags: &[String]) -> Result<Crate, CliError> {
    let mut command = Command::new("cargo");
    command.args([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--manifest-path",
    ]);
    command.arg(dir.join("Cargo.toml")).stdin(Stdio::null());
    command.args(
        flags
            .iter()
            .filter(|flag| matches!(flag.as_str(), "--offline" | "--locked")),
    );
    let output = command.output().map_err(|error| {
        wrong(format!("cannot run cargo: {error}. Install Rust (https://rustup.rs), or give a program with --binary"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(wrong(format!(
            "{} is no crate that cargo can read:\n{}",
            dir.display(),
            said.trim_end()
        )));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| wrong(format!("cargo metadata: {error}")))?;
    let manifest =
        std::fs::canonicalize(dir.join("Cargo.toml")).map_err(|source| CliError::ReadFile {
            path: dir.join("Cargo.toml"),
            source,
        })?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let own = packages.iter().find(|package| {
        let path = package["manifest_path"].as_str().map(Path::new);
        path.and_then(|path| std::fs::canonicalize(path).ok()) == Some(manifest.clone())
    });
    let Some(package) = own else {
        return Err(wrong(format!(
            "{} has no package: name the folder of the frontend's crate",
            manifest.display()
        )));
    };
    let bins: Vec<&str> = package["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|target| {
            target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.contains(&json!("bin")))
        })
        .filter_map(|target| target["name"].as_str())
        .collect();
    let said = &package["metadata"]["frontend"];
    let name = match (bins.as_slice(), said["bin"].as_str()) {
        (_, Some(name)) if bins.contains(&name) => name,
        ([name], None) => name,
        ([], _) => {
            return Err(wrong(format!(
                "{} has no program (src/main.rs)",
                manifest.display()
            )));
        }
        (several, _) => {
            return Err(wrong(format!(
                "{} has several programs ({}): say which by bin = \"...\" in [package.metadata.frontend]",
                manifest.display(),
                several.join(", ")
            )));
        }
    };
    let mut labels = BTreeMap::new();
    let caps: Vec<&str> = said["caps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !caps.is_empty() {
        labels.insert(LABEL_CAPS.to_owned(), caps.join(","));
    }
    if said["network"].as_bool() != Some(true) {
        labels.insert(LABEL_NETWORK.to_owned(), "true".to_owned());
    }
    if said["deterministic"].as_bool() == Some(true) {
        labels.insert(LABEL_DETERMINISTIC.to_owned(), "true".to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Crate {
        name: name.to_owned(),
        version: text(&package["version"]),
        description: text(&package["description"]),
        target_dir: PathBuf::from(text(&metadata["target_directory"])),
        labels,
    })
}

/// Compiles the crate, statically and with Rust's own linker: no C toolchain is needed, whatever the platform.
fn compile(
    dir: &Path,
    package: &Crate,
    platform: &Platform,
    flags: &[String],
) -> Result<PathBuf, CliError> {
    let shown = platform.to_string();
    let known = TARGETS.iter().find(|(name, _)| {
        name.parse::<Platform>()
            .is_ok_and(|known| known.normalized() == platform.normalized())
    });
    let Some((_, target)) = known else {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        return Err(wrong(format!(
            "no Rust target is known for {shown}: known are {}. Compile it yourself and give it with --binary {shown}=FILE",
            names.join(", ")
        )));
    };
    if !has_target(target) {
        return Err(wrong(format!(
            "the Rust target {target} is not installed, so {shown} cannot be compiled for. `rustup target add {target}` installs it"
        )));
    }
    let variable = format!(
        "CARGO_TARGET_{}_LINKER",
        target.to_uppercase().replace('-', "_")
    );
    let mut command = Command::new("cargo");
    command.args([
        "build",
        "--release",
        "--target",
        target,
        "--bin",
        &package.name,
        "--manifest-path",
    ]);
    command
        .arg(dir.join("Cargo.toml"))
        .args(flags)
        .stdin(Stdio::null());
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    if std::env::var_os(&variable).is_none() {
        command.env(&variable, "rust-lld");
    }
    // What cargo says is for the user; stdout stays ours.
    let status = command.stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => {
            return Err(wrong(format!(
                "the frontend does not compile for {shown}: cargo said why above"
            )));
        }
        Err(error) => return Err(wrong(format!("cannot run cargo: {error}"))),
    }
    Ok(package
        .target_dir
        .join(target)
        .join("release")
        .join(&package.name))
}

fn has_target(target: &str) -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output();
    output.is_ok_and(|output| {
        let dir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&dir).is_dir()
    })
}

/// The images and their index, as a layout.
fn assemble(
    programs: &[(Platform, PathBuf)],
    labels: &BTreeMap<String, String>,
    version: Option<&str>,
    output: &Path,
) -> Result<Subject, CliError> {
    let failed = |error: &dyn std::fmt::Display| wrong(format!("cannot make the image: {error}"));
    let dir = tempfile::tempdir().map_err(CliError::Runtime)?;
    let blobs = BlobStore::open(dir.path()).map_err(|e| failed(&e))?;
    let mut entries = Vec::new();
    for (platform, path) in programs {
        let program = std::fs::read(path).map_err(|source| CliError::ReadFile {
            path: path.clone(),
            source,
        })?;
        check_program(&program, path, platform)?;
        let mut header = Header::new(Kind::File, PROGRAM);
        header.mode = 0o755;
        header.size = program.len() as u64;
        let options = CompressOptions::new(Compression::Gzip);
        let written = write_layer(&blobs, &options, |out| {
            for part in [&header.encode(), &program[..], padding(header.size), &END] {
                out.write_all(part)?;
            }
            Ok::<(), std::io::Error>(())
        });
        let (layer, ()) = written.map_err(|e| failed(&e))?;
        let mut config = json!({
            "created": EPOCH,
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {"Entrypoint": [format!("/{PROGRAM}")], "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created": EPOCH, "created_by": "gateway frontend build"}],
        });
        if !platform.variant.is_empty() {
            config["variant"] = json!(platform.variant);
        }
        let config = serde_json::to_vec(&config).map_err(|e| failed(&e))?;
        let image = Image::assemble(config, &[layer.descriptor], Family::Oci, BTreeMap::new());
        let image = image.map_err(|e| failed(&e))?;
        image.save(&blobs).map_err(|e| failed(&e))?;
        let mut entry = image.descriptor().clone();
        entry.platform = Some(platform.clone());
        entries.push(entry);
    }
    let annotations = version.map(|version| (VERSION.to_owned(), version.to_owned()));
    let index = make_index(entries, Family::Oci, annotations.into_iter().collect());
    let index = index.map_err(|e| failed(&e))?;
    blobs.put(&index.bytes).map_err(|e| failed(&e))?;
    std::fs::create_dir_all(output).map_err(|source| CliError::Write {
        path: output.to_owned(),
        source,
    })?;
    write_layout_as(&blobs, &index.descriptor, LATEST, output, NEVER).map_err(|e| failed(&e))?;
    // Of builds before this one; blobs that others put there are theirs to lose.
    let layout = gateway_images::archive::Layout::open(output).map_err(|e| failed(&e))?;
    layout.remove_unnamed().map_err(|e| failed(&e))?;
    let place = super::subject::Place::Layout(output.to_owned(), Some(LATEST.to_owned()));
    Subject::of_layout(&place)
}

/// One static program for this platform.
fn check_program(bytes: &[u8], path: &Path, platform: &Platform) -> Result<(), CliError> {
    let shown = path.display();
    let Some(program) = elf::read(bytes) else {
        return Err(wrong(format!(
            "{shown} is no ELF program, and an image from scratch has nothing else that could run it"
        )));
    };
    if program.architecture != platform.architecture {
        return Err(wrong(format!(
            "{shown} is a program for {}, not for {platform}: compile it for that platform, or name the right one",
            program.architecture
        )));
    }
    match program.interpreter {
        None => Ok(()),
        Some(interpreter) => Err(wrong(format!(
            "{shown} is linked dynamically: it needs {interpreter}, and an image from scratch has no such file. \
             Link it statically (Rust: a musl target, or -C target-feature=+crt-static; Go: CGO_ENABLED=0; C: -static)"
        ))),
    }
}
