//! `gateway lock` and `gateway vendor`: what the names in a build stand for, in a file beside the build file, or saved
//! with all its bytes; and `gateway build` that uses nothing else (`--locked`, `--vendored`).

mod file;
mod rewrite;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use gateway_bridge::Collect;
use gateway_images::reference::Reference;
use gateway_solver::pins::{Pins, read_vendored};

use crate::build::args::Build;
use crate::build::{self, Purpose};
use crate::error::{CliError, UsageError};
use crate::progress::mode::Mode;
use crate::registry::settings::RegistryArgs;
use crate::text::{print, size_text};
use file::{Lock as LockFile, Role, difference};

/// What is behind the name of a build file.
const EXTENSION: &str = "lock";
const DEFAULT_FILE: &str = "Dockerfile";

/// The build whose names are meant: the flags of `gateway build` that change what it is made of.
#[derive(Debug, Args)]
pub struct Meant {
    /// Build file [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Lock file [default: the build file's name with .lock behind it]
    #[arg(long, value_name = "FILE")]
    lock_file: Option<PathBuf>,

    /// Argument of the build file, KEY=VALUE, or KEY to take it from the environment
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    build_args: Vec<String>,

    /// A further context, as for `gateway build`
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    build_contexts: Vec<String>,

    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Platforms to build for, e.g. linux/amd64,linux/arm64
    #[arg(long = "platform", value_name = "PLATFORM")]
    platforms: Vec<String>,

    /// Scanner image, as for `gateway build`
    #[arg(long, value_name = "PARAMS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<String>,

    /// Secret, as for `gateway build`: for sources that need one
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,

    /// SSH agent or keys, as for `gateway build`
    #[arg(long = "ssh", value_name = "SPEC")]
    ssh: Vec<String>,

    /// Frontend option, handed through as it is
    #[arg(long = "opt", value_name = "KEY=VALUE")]
    opts: Vec<String>,

    /// Rules about the sources that the build may use, as for `gateway build`
    #[arg(long = "source-policy", value_name = "FILE")]
    source_policies: Vec<PathBuf>,

    /// Image store and cache [default: /var/lib/gateway, or ~/.local/share/gateway for users]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    #[command(flatten)]
    registries: RegistryArgs,

    /// How progress is shown, on stderr
    #[arg(long, value_name = "MODE", default_value = "auto")]
    progress: Mode,

    /// Say more
    #[arg(short = 'D', long)]
    debug: bool,
}

/// Pin every name in a build to what it stands for now: images by digest, files by checksum, repositories by commit.
///
/// They go into a lock file beside the build file. What is pinned there already stays as it is; `gateway build --locked`
/// uses the pins and nothing else.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway lock                      write ./Dockerfile.lock, or add to it what is new
  gateway build --locked .          build with what it says and nothing else
  gateway lock --locked             has anything moved? (exit code 1: yes, and what)
  gateway lock --update             take what the names stand for now, and show the difference
  gateway lock --write              put the digests into the build file itself")]
pub struct Lock {
    /// Directory of the build, as for `gateway build`
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: PathBuf,

    /// Ask for everything again and write nothing: fails when the lock file says otherwise, and tells what moved
    #[arg(long, conflicts_with_all = ["update", "write"])]
    locked: bool,

    /// Ask for everything again, show what moved and write it
    #[arg(long)]
    update: bool,

    /// Put the digests into the build file as well
    #[arg(long)]
    write: bool,

    #[command(flatten)]
    meant: Meant,
}

/// Save all that a build takes from registries, the web and repositories as an OCI layout.
///
/// `gateway build --vendored DIR` builds from it with no registry and no network. With a lock file, what that says is
/// saved.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway vendor vendor                     save what ./Dockerfile needs into ./vendor
  gateway build --vendored vendor .         build with no network at all
  skopeo inspect oci:vendor:docker.io/library/alpine:3")]
pub struct Vendor {
    /// Directory of the layout; made if missing, and brought up to date if not
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Directory of the build, as for `gateway build`
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: PathBuf,

    /// Images of all platforms, not only of those that the build uses
    #[arg(long)]
    all_platforms: bool,

    #[command(flatten)]
    meant: Meant,
}

impl Meant {
    /// The flags of the build.
    fn build(&self, context: &Path) -> Result<Build, CliError> {
        let Ok(mut build) = Build::of_words([Path::new("--"), context]) else {
            let problem = "is no directory or address".to_owned();
            return Err(UsageError::new("CONTEXT", context.to_string_lossy(), problem).into());
        };
        build.file = self.file.clone();
        build.lock_file = self.lock_file.clone();
        build.build_args = self.build_args.clone();
        build.build_contexts = self.build_contexts.clone();
        build.target = self.target.clone();
        build.platforms = self.platforms.clone();
        build.sbom = self.sbom.clone();
        build.secrets = self.secrets.clone();
        build.ssh = self.ssh.clone();
        build.opts = self.opts.clone();
        build.source_policies = self.source_policies.clone();
        build.root = self.root.clone();
        build.registries = self.registries.clone();
        build.progress = self.progress;
        build.debug = self.debug;
        Ok(build)
    }
}

/// Where the lock file of a build is.
fn lock_path(args: &Build) -> Result<PathBuf, CliError> {
    if let Some(path) = &args.lock_file {
        return Ok(path.clone());
    }
    let stdin = Path::new("-");
    let is_stdin = args.file.as_deref() == Some(stdin) || args.context == stdin;
    if is_stdin || (args.file.is_none() && build::is_remote(&args.context)) {
        let problem =
            "the build file is no file here: name the lock file with --lock-file".to_owned();
        return Err(UsageError::new("CONTEXT", args.context.to_string_lossy(), problem).into());
    }
    let mut path = build_file(args).into_os_string();
    path.push(format!(".{EXTENSION}"));
    Ok(path.into())
}

fn build_file(args: &Build) -> PathBuf {
    match &args.file {
        Some(file) => file.clone(),
        None if args.context == Path::new(".") => PathBuf::from(DEFAULT_FILE),
        None => args.context.join(DEFAULT_FILE),
    }
}

/// The pins that a build is asked to keep to.
pub fn pins(args: &Build) -> Result<Option<Arc<Pins>>, CliError> {
    if let Some(dir) = &args.vendored {
        let dir = std::path::absolute(dir).map_err(|source| CliError::Context {
            path: dir.clone(),
            source,
        })?;
        let saved = read_vendored(&dir).map_err(|error| CliError::Image(Box::new(error)))?;
        if args.locked {
            let (path, lock) = required(args)?;
            let found = LockFile {
                pins: saved.clone(),
                roles: lock.roles.clone(),
            };
            let drift = drifted(&lock, &found, false);
            if !drift.is_empty() {
                return Err(CliError::Drift {
                    what: format!("{} is not what {} pins", dir.display(), path.display()),
                    drift,
                    help: format!(
                        "`gateway vendor {}` saves what the lock file says",
                        dir.display()
                    ),
                });
            }
        }
        return Ok(Some(Arc::new(Pins::vendored(saved, &dir))));
    }
    if !args.locked {
        return Ok(None);
    }
    let (path, lock) = required(args)?;
    Ok(Some(Arc::new(Pins::locked(
        lock.pins,
        path.display().to_string(),
    ))))
}

fn required(args: &Build) -> Result<(PathBuf, LockFile), CliError> {
    let path = lock_path(args)?;
    match LockFile::read(&path)? {
        Some(lock) => Ok((path, lock)),
        None => Err(CliError::NoLock { path }),
    }
}

/// What of `found` the lock does not have or has otherwise; with `all` also what was not found.
fn drifted(lock: &LockFile, found: &LockFile, all: bool) -> String {
    let known: BTreeMap<String, String> = lock.lines().into_iter().collect();
    let mut expected = lock.clone();
    let asked: BTreeMap<String, String> = found.lines().into_iter().collect();
    if !all {
        expected
            .pins
            .images
            .retain(|name, _| found.pins.images.contains_key(name));
        expected
            .pins
            .files
            .retain(|url, _| found.pins.files.contains_key(url));
        expected
            .pins
            .git
            .retain(|key, _| found.pins.git.contains_key(key));
    }
    match asked.iter().all(|(name, now)| known.get(name) == Some(now)) && !all {
        true => String::new(),
        false => difference(&expected, found),
    }
}

/// Asks for everything in a build.
fn ask(args: &Build, pins: Pins, collect: Collect) -> Result<(LockFile, build::Outcome), CliError> {
    let pins = Arc::new(pins);
    let outcome = build::run_for(
        args,
        Purpose {
            pins: Some(pins.clone()),
            collect: Some(collect),
        },
    )?;
    let taken = pins.taken();
    let contexts: Vec<String> = args
        .build_contexts
        .iter()
        .filter_map(|text| text.split_once('=')?.1.strip_prefix("docker-image://"))
        .filter_map(|text| Some(Reference::parse(text).ok()?.to_string()))
        .collect();
    let frontends = pins.frontends();
    let roles = taken.images.keys().map(|name| {
        let role = match () {
            () if frontends.contains(name) => Role::Frontend,
            () if contexts.contains(name) => Role::Context,
            () => Role::Base,
        };
        (name.clone(), role)
    });
    let roles = roles.collect();
    Ok((LockFile { pins: taken, roles }, outcome))
}

pub fn lock(args: &Lock) -> Result<(), CliError> {
    let build = args.meant.build(&args.context)?;
    let path = lock_path(&build)?;
    let old = LockFile::read(&path);
    if args.locked {
        return check(
            &build,
            &path,
            &old?.ok_or(CliError::NoLock { path: path.clone() })?,
        );
    }
    // What cannot be read is written anew when that is asked for.
    let old = match (old, args.update) {
        (Ok(old), _) => old.unwrap_or_default(),
        (Err(CliError::Lock { problem, .. }), true) => {
            eprintln!("warning: the lock file cannot be used and is written anew: {problem}");
            LockFile::default()
        }
        (Err(error), _) => return Err(error),
    };
    let known = match args.update {
        true => Pins::asking(Default::default()),
        false => Pins::asking(old.pins.clone()),
    };
    let (found, _) = ask(&build, known, Collect::Resolve)?;
    let new = match args.update {
        true => found,
        // What only another target or platform needs stays.
        false => {
            let mut all = old.clone();
            all.pins.images.extend(found.pins.images);
            all.pins.files.extend(found.pins.files);
            all.pins.git.extend(found.pins.git);
            all.roles.extend(found.roles);
            all
        }
    };
    if new.text() != old.text() || !path.exists() {
        write(&path, &new.text())?;
    }
    let changed = difference(&old, &new);
    let count = new.lines().len();
    print(&match (changed.is_empty(), count) {
        (true, 0) => format!(
            "{}: the build takes nothing from elsewhere\n",
            path.display()
        ),
        (true, _) => format!("{}: {count} pinned, nothing moved\n", path.display()),
        (false, _) => format!("{changed}{}: {count} pinned\n", path.display()),
    });
    match args.write {
        true => write_into(&build, &new),
        false => Ok(()),
    }
}

fn check(build: &Build, path: &Path, old: &LockFile) -> Result<(), CliError> {
    let (found, _) = ask(build, Pins::asking(Default::default()), Collect::Resolve)?;
    let drift = drifted(old, &found, false);
    if !drift.is_empty() {
        return Err(CliError::Drift {
            what: format!("{} is not what the names in the build stand for now", path.display()),
            drift,
            help: "`gateway build --locked` goes on with the pins; `gateway lock --update` takes what is new".to_owned(),
        });
    }
    print(&format!("{}: nothing moved\n", path.display()));
    Ok(())
}

fn write_into(build: &Build, lock: &LockFile) -> Result<(), CliError> {
    let path = build_file(build);
    let text = std::fs::read_to_string(&path).map_err(|source| CliError::BuildFile {
        path: path.clone(),
        source,
    })?;
    let rewritten = rewrite::rewrite(&text, lock);
    if rewritten.text != text {
        write(&path, &rewritten.text)?;
    }
    let written = rewritten.written;
    print(&format!(
        "{}: {written} pinned in the file itself\n",
        path.display()
    ));
    for name in &rewritten.elsewhere {
        eprintln!(
            "note: {name} does not stand in {} as a name; only the lock file pins it",
            path.display()
        );
    }
    Ok(())
}

pub fn vendor(args: &Vendor) -> Result<(), CliError> {
    let mut build = args.meant.build(&args.context)?;
    let dir = std::path::absolute(&args.dir).map_err(|source| CliError::Write {
        path: args.dir.clone(),
        source,
    })?;
    let known = match lock_path(&build) {
        Ok(path) => LockFile::read(&path)?.map(|lock| (lock, path)),
        Err(_) => None,
    };
    let pins = match known {
        Some((lock, path)) => {
            build.locked = true;
            Pins::locked(lock.pins, path.display().to_string())
        }
        None => Pins::asking(Default::default()),
    };
    let collect = Collect::Vendor {
        dir: dir.clone(),
        all_platforms: args.all_platforms,
    };
    let (found, outcome) = ask(&build, pins, collect)?;
    for (name, pinned) in found.lines() {
        print(&format!("{name}\n    {pinned}\n"));
    }
    let report = outcome.response.vendored.unwrap_or_default();
    let counted = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    print(&format!(
        "{}: {}, {}, {}; {}\n",
        args.dir.display(),
        counted(report.images, "image", "images"),
        counted(report.files, "file", "files"),
        counted(report.repositories, "checkout", "checkouts"),
        size_text(report.bytes)
    ));
    Ok(())
}

/// Appears when it is complete.
fn write(path: &Path, text: &str) -> Result<(), CliError> {
    use std::io::Write as _;
    let failed = |source| CliError::Write {
        path: path.to_owned(),
        source,
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file =
        tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode());
    let permissions = std::fs::Permissions::from_mode(mode);
    file.as_file()
        .set_permissions(permissions)
        .map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(words: &[&str]) -> Build {
        Build::of_words(words).unwrap()
    }

    #[test]
    fn the_lock_file_lies_beside_the_build_file() {
        let of = |words: &[&str]| lock_path(&build(words)).unwrap();
        assert_eq!(of(&["ctx"]), Path::new("ctx/Dockerfile.lock"));
        assert_eq!(
            of(&["-f", "a/my.Dockerfile", "ctx"]),
            Path::new("a/my.Dockerfile.lock")
        );
        assert_eq!(of(&["--lock-file", "x", "-"]), Path::new("x"));
        assert!(lock_path(&build(&["-"])).is_err());
        assert!(lock_path(&build(&["https://example.com/r.git"])).is_err());
    }

    #[test]
    fn without_the_flags_a_build_has_no_pins() {
        assert!(pins(&build(&["."])).unwrap().is_none());
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().to_str().unwrap();
        let error = pins(&build(&["--locked", context])).unwrap_err();
        assert!(matches!(error, CliError::NoLock { .. }), "{error}");
        let vendored = dir.path().join("no");
        let vendored = vendored.to_str().unwrap();
        let error = pins(&build(&["--vendored", vendored, context])).unwrap_err();
        assert!(error.page().contains("gateway vendor"), "{}", error.page());
    }
}
