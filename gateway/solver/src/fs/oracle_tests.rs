//! Builds of the reference that need nothing but a context and copies, done again with the
//! functions of this room: the context is filtered and copied, each copy applied, and the
//! files compared with what the reference made.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use gateway_llb::pb;
use gateway_llb::pb::file_action::Action;
use serde_json::Value;

use super::hash::{ChecksumOptions, ContentHasher, HashOptions};
use super::{ActionInputs, CopyOptions, Filter, Root, SyncOptions, apply, copy, sync_into};

/// The second in which every file of a context was changed: 2021-01-01T00:00:00Z.
const CONTEXT_TIME: u64 = 1_609_459_200;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle/cases")
}

/// Lays out the context of a case file.
fn lay_out(case: &str, root: &Path) {
    let mut files: Vec<(Vec<&str>, String)> = Vec::new();
    for line in case.lines() {
        if let Some(head) = line.strip_prefix("--- ") {
            files.push((head.split(' ').collect(), String::new()));
        } else if let Some((_, text)) = files.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    let mut made = vec![root.to_owned()];
    for (head, text) in &files {
        let path = root.join(head[0]);
        for dir in path.strip_prefix(root).expect("below").ancestors().skip(1) {
            made.push(root.join(dir));
        }
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        let words = head.get(1..).unwrap_or_default();
        let mode = words.iter().find_map(|w| u32::from_str_radix(w, 8).ok());
        if let Some(target) = words.iter().find_map(|w| w.strip_prefix("->")) {
            symlink(target, &path).expect("linked");
            let dir = rustix::fs::CWD;
            let time = i128::from(CONTEXT_TIME) * 1_000_000_000;
            let times = super::root::timestamps(time, time);
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(dir, &path, &times, flags).expect("set");
            continue;
        }
        if words.contains(&"dir") {
            fs::create_dir_all(&path).expect("made");
        } else {
            let repeat = words.iter().find_map(|w| w.strip_prefix("repeat="));
            let times = repeat.map_or(1, |n| n.parse().expect("a number"));
            let mut text = text.repeat(times);
            if words.contains(&"nonl") {
                text.pop();
            }
            fs::write(&path, text).expect("written");
        }
        let default = if words.contains(&"dir") { 0o755 } else { 0o644 };
        let mode = fs::Permissions::from_mode(mode.unwrap_or(default));
        fs::set_permissions(&path, mode).expect("set");
        made.push(path);
    }
    for path in made.iter().rev() {
        if path.is_dir() && !files.iter().any(|(head, _)| root.join(head[0]) == *path) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
        }
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(CONTEXT_TIME);
        fs::File::open(path)
            .expect("opens")
            .set_modified(time)
            .expect("set");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn number(value: &Value) -> i64 {
    match value {
        Value::String(text) => text.parse().expect("a number"),
        value => value.as_i64().unwrap_or(0),
    }
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

fn id_owner(value: &Value) -> Option<pb::ChownOpt> {
    let id = |value: &Value| {
        value.get("byID").map(|id| pb::UserOpt {
            user: Some(pb::user_opt::User::ById(
                u32::try_from(number(id)).expect("an id"),
            )),
        })
    };
    let value = value.as_object()?;
    Some(pb::ChownOpt {
        user: value.get("user").and_then(id),
        group: value.get("group").and_then(id),
    })
}

fn copy_action(value: &Value) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: text(&value["src"]),
        dest: text(&value["dest"]),
        owner: id_owner(&value["owner"]),
        mode: i32::try_from(number(&value["mode"])).expect("a mode"),
        follow_symlink: flag(&value["followSymlink"]),
        dir_copy_contents: flag(&value["dirCopyContents"]),
        attempt_unpack_docker_compatibility: flag(&value["attemptUnpackDockerCompatibility"]),
        create_dest_path: flag(&value["createDestPath"]),
        allow_wildcard: flag(&value["allowWildcard"]),
        allow_empty_wildcard: flag(&value["allowEmptyWildcard"]),
        timestamp: number(&value["timestamp"]),
        include_patterns: texts(&value["includePatterns"]),
        exclude_patterns: texts(&value["excludePatterns"]),
        always_replace_existing_dest_paths: flag(&value["alwaysReplaceExistingDestPaths"]),
        mode_str: text(&value["modeStr"]),
        required_paths: texts(&value["requiredPaths"]),
    }
}

/// One case's graph, its results kept as directories.
struct Build<'a> {
    graph: &'a Value,
    context: PathBuf,
    work: PathBuf,
    done: BTreeMap<String, PathBuf>,
    contexts: usize,
}

impl Build<'_> {
    /// The directory of an op's result; `None` if the op is none of this room's.
    fn result(&mut self, digest: &str) -> Option<PathBuf> {
        if let Some(done) = self.done.get(digest) {
            return Some(done.clone());
        }
        let op = &self.graph["def"][digest];
        let mut inputs = Vec::new();
        for input in op["inputs"].as_array().into_iter().flatten() {
            inputs.push(self.result(input["digest"].as_str()?)?);
        }
        let dir = if op.get("source").is_some() {
            self.local(&op["source"])?
        } else if op.get("file").is_some() {
            self.file(&op["file"], &inputs)?
        } else {
            return None;
        };
        self.done.insert(digest.to_owned(), dir.clone());
        Some(dir)
    }

    fn new_dir(&mut self) -> PathBuf {
        self.contexts += 1;
        let dir = self.work.join(self.contexts.to_string());
        fs::create_dir(&dir).expect("made");
        dir
    }

    fn local(&mut self, source: &Value) -> Option<PathBuf> {
        if source["identifier"] != "local://context" {
            return None;
        }
        let list = |name: &str| -> Vec<String> {
            let text = source["attrs"][name].as_str();
            text.map_or_else(Vec::new, |t| serde_json::from_str(t).expect("a list"))
        };
        let filter = Filter {
            include: list("local.includepattern"),
            exclude: list("local.excludepatterns"),
            follow: list("local.followpaths"),
        };
        let dir = self.new_dir();
        let from = Root::open(&self.context).expect("opens");
        let to = Root::open(&dir).expect("opens");
        sync_into(&from, &filter, &to, &SyncOptions::default()).expect("syncs");
        // Hashing in place and hashing the copy are one.
        let options = HashOptions::default();
        let place = ContentHasher::local(from, &filter, options.clone()).expect("hashes");
        let copy = ContentHasher::local_copy(to, options).expect("hashes");
        let whole = |hasher: &ContentHasher| hasher.checksum("/", &ChecksumOptions::default());
        assert_eq!(
            whole(&place).expect("hashes"),
            whole(&copy).expect("hashes")
        );
        Some(dir)
    }

    fn file(&mut self, op: &Value, inputs: &[PathBuf]) -> Option<PathBuf> {
        let mut results: Vec<PathBuf> = inputs.to_vec();
        let mut output = None;
        for action in op["actions"].as_array()? {
            let target = self.new_dir();
            let index = |name: &str| usize::try_from(number(&action[name])).ok();
            if let Some(base) = index("input").and_then(|i| results.get(i)) {
                let options = CopyOptions {
                    contents: true,
                    ..CopyOptions::default()
                };
                let from = Root::open(base).expect("opens");
                let to = Root::open(&target).expect("opens");
                copy(&from, b"/", &to, b"/", &options).expect("copied");
            }
            let source = index("secondaryInput").and_then(|i| results.get(i));
            let source = source.map(|s| Root::open(s).expect("opens"));
            let root = Root::open(&target).expect("opens");
            let body = pb::FileAction {
                action: Some(Action::Copy(copy_action(action.get("copy")?))),
                ..pb::FileAction::default()
            };
            let inputs = ActionInputs {
                target: &root,
                source: source.as_ref(),
                users: None,
                groups: None,
                cancel: None,
            };
            apply(&body, &inputs).expect("applied");
            results.push(target.clone());
            if number(&action["output"]) == 0 {
                output = Some(target);
            }
        }
        output
    }
}

/// Compares a result with the files of an expectation.
fn compare(name: &str, dir: &Path, files: &Value) {
    let root = Root::open(dir).expect("opens");
    let mut left = files.as_object().expect("files").clone();
    for entry in super::walk::entries(&root, &Filter::default()).expect("walks") {
        let path = super::error::lossy(&entry.path);
        let Some(want) = left.remove(&path) else {
            panic!("{name}: {path} should not be there");
        };
        let host = dir.join(&path);
        let meta = fs::symlink_metadata(&host).expect("stat");
        let kind = if meta.is_dir() {
            "dir"
        } else if meta.is_symlink() {
            "link"
        } else {
            "file"
        };
        let want_kind = text(&want["type"]);
        assert!(
            want_kind.ends_with(kind),
            "{name}: {path} is a {kind}, not a {want_kind}"
        );
        if kind != "link" {
            let mode = format!("{:04o}", meta.mode() & 0o7777);
            assert_eq!(mode, text(&want["mode"]), "{name}: {path}");
        }
        let ids = (i64::from(meta.uid()), i64::from(meta.gid()));
        assert_eq!(
            ids,
            (number(&want["uid"]), number(&want["gid"])),
            "{name}: {path}"
        );
        if kind == "file" && want.get("sha256").is_some() {
            let content = super::hash::ContentDigest::of(&fs::read(&host).expect("reads"));
            assert_eq!(
                hex::encode(content.0),
                text(&want["sha256"]),
                "{name}: {path}"
            );
        }
        if kind == "link" {
            let target = fs::read_link(&host).expect("a link");
            assert_eq!(
                target.to_string_lossy(),
                text(&want["to"]),
                "{name}: {path}"
            );
        }
        if want["time"] == "context" {
            assert_eq!(meta.mtime().unsigned_abs(), CONTEXT_TIME, "{name}: {path}");
        }
    }
    let missing: Vec<_> = left.keys().collect();
    assert!(missing.is_empty(), "{name}: missing {missing:?}");
}

#[test]
fn copies_of_contexts_make_the_files_that_the_reference_makes() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut compared = Vec::new();
    for theme in ["copy", "add"] {
        let mut names: Vec<PathBuf> = fs::read_dir(cases().join(theme))
            .expect("the cases are there")
            .map(|e| e.expect("an entry").path())
            .filter(|p| p.to_string_lossy().ends_with(".llb.json"))
            .collect();
        names.sort();
        for graph_path in names {
            let stem = graph_path.to_string_lossy().replace(".llb.json", "");
            let read = |suffix: &str| fs::read_to_string(format!("{stem}{suffix}"));
            let (Ok(case), Ok(want)) = (read(".case"), read(".json")) else {
                continue;
            };
            let want: Value = serde_json::from_str(&want).expect("an expectation");
            if !flag(&want["ok"]) || flag(&want["images"][0]["on_base"]) {
                continue;
            }
            let graph: Value =
                serde_json::from_str(&read(".llb.json").expect("reads")).expect("a graph");
            let temp = tempfile::tempdir().expect("a directory");
            let context = temp.path().join("context");
            fs::create_dir(&context).expect("made");
            lay_out(&case, &context);
            let last = graph["def"]
                .as_object()
                .and_then(|def| {
                    def.values()
                        .find(|op| op.get("file").is_none() && op.get("source").is_none())
                })
                .map(|op| text(&op["inputs"][0]["digest"]))
                .unwrap_or_default();
            let mut build = Build {
                graph: &graph,
                context,
                work: temp.path().to_owned(),
                done: BTreeMap::new(),
                contexts: 0,
            };
            if let Some(dir) = build.result(&last) {
                compare(&stem, &dir, &want["images"][0]["files"]);
                compared.push(stem.rsplit('/').next().unwrap_or_default().to_owned());
            }
        }
    }
    // Enough of them must have been possible, or this shows nothing.
    assert!(compared.len() >= 12, "only {compared:?}");
}

/// The ids of the records without inputs in a cache that the reference has exported.
fn exported_root_records() -> Vec<String> {
    let blobs = cases().join("../cache/cache-max/blobs/sha256");
    let config = fs::read_dir(blobs)
        .expect("the cache is there")
        .filter_map(|e| fs::read(e.expect("an entry").path()).ok())
        .filter_map(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .find(|json| json.get("records").is_some())
        .expect("a cache config");
    let records = config["records"].as_array().expect("records");
    let roots = records.iter().filter(|r| r.get("inputs").is_none());
    roots.map(|r| text(&r["digest"])).collect()
}

#[test]
fn content_keys_are_those_of_a_cache_that_the_reference_has_exported() {
    let context = cases().join("../cache/context");
    let dir = tempfile::tempdir().expect("a directory");
    // Modes do not survive every way of keeping test data.
    for (path, mode) in [("dir", 0o755), ("a.txt", 0o644), ("dir/b.txt", 0o644)] {
        let to = dir.path().join(path);
        if mode == 0o755 {
            fs::create_dir(&to).expect("made");
        } else {
            fs::write(&to, fs::read(context.join(path)).expect("reads")).expect("written");
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("set");
    }
    let root = Root::open(dir.path()).expect("opens");
    let hasher = ContentHasher::local(root, &Filter::default(), HashOptions::default());
    let hasher = hasher.expect("hashes");
    let records = exported_root_records();
    for path in ["/a.txt", "/dir", "/dir/b.txt"] {
        let selector = super::hash::Selector {
            path: path.into(),
            ..super::hash::Selector::default()
        };
        let digest = hasher.checksum_all(&[selector]).expect("hashes");
        let record = super::hash::ContentDigest::of(format!("{digest}@-1").as_bytes());
        assert!(
            records.contains(&record.to_string()),
            "{path}: {record} of {records:?}"
        );
    }
}
