//! Case files: one build each, with its context and options (format: `data/oracle/README.md`).

use std::path::{Path, PathBuf};

/// mtime of every file and directory of a context: 2021-01-01T00:00:00Z.
pub const CONTEXT_TIME: i64 = 1_609_459_200;

/// The folders of cases.
pub const THEMES: [&str; 9] = [
    "add", "args", "config", "copy", "lint", "net", "parse", "run", "stages",
];

/// Cases beside the themes: whole build files as people write them, each with much in it.
pub const BUILDS: &str = "builds";

fn data(theme: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    match theme {
        BUILDS => data.join(BUILDS),
        theme => data.join("oracle/cases").join(theme),
    }
}

/// The folders of cases that there are, sorted.
pub fn themes() -> Vec<String> {
    let folders = std::fs::read_dir(data("")).expect("the themes").flatten();
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut themes: Vec<_> = names.collect();
    themes.sort();
    themes
}

/// The cases of a theme with what is expected of them, sorted by name.
pub fn cases(theme: &str) -> Vec<(Case, serde_json::Value)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(data(theme))
        .expect("the theme's folder")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "case"))
        .collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let expected = std::fs::read(path.with_extension("json")).expect("an expectation");
        let expected = serde_json::from_slice(&expected).expect("JSON");
        (Case::read(path), expected)
    };
    paths.iter().map(read).collect()
}

#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    pub about: String,
    pub opts: Vec<(String, String)>,
    pub secrets: Vec<(String, String)>,
    pub allow: Vec<String>,
    pub expects_error: bool,
    pub files: Vec<File>,
}

#[derive(Debug)]
pub struct File {
    pub path: String,
    pub mode: u32,
    pub kind: FileKind,
}

#[derive(Debug)]
pub enum FileKind {
    Regular(Vec<u8>),
    Dir,
    Link(String),
}

impl Case {
    pub fn read(path: &Path) -> Case {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        parse(&name, &text)
    }

    /// Writes the context into `dir`; returns the main context's folder. Folders of `ctx2/` lie in
    /// `dir/ctx2`.
    pub fn write_context(&self, dir: &Path) -> PathBuf {
        let main = dir.join("context");
        std::fs::create_dir_all(&main).expect("making the context");
        for file in &self.files {
            let path = if file.path.starts_with("ctx2/") {
                dir.join(&file.path)
            } else {
                main.join(&file.path)
            };
            std::fs::create_dir_all(path.parent().unwrap_or(dir)).expect("making a folder");
            file.write(&path);
        }
        set_times(&main, CONTEXT_TIME);
        set_times(&dir.join("ctx2"), CONTEXT_TIME);
        main
    }
}

impl File {
    fn write(&self, path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        match &self.kind {
            FileKind::Dir => std::fs::create_dir_all(path).expect("making a folder"),
            FileKind::Link(target) => {
                std::os::unix::fs::symlink(target, path).expect("making a link");
                return;
            }
            FileKind::Regular(data) => std::fs::write(path, data).expect("writing a file"),
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(self.mode))
            .expect("setting a mode");
    }
}

/// Gives `path` and all that is in it the mtime `seconds` after the epoch; nothing if it is missing.
pub fn set_times(path: &Path, seconds: i64) {
    let Ok(metadata) = path.symlink_metadata() else {
        return;
    };
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).expect("reading a folder").flatten() {
            set_times(&entry.path(), seconds);
        }
    }
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    rustix::fs::utimensat(
        rustix::fs::CWD,
        path,
        &rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        },
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .expect("setting times");
}

fn parse(name: &str, text: &str) -> Case {
    let mut case = Case {
        name: name.to_owned(),
        ..Case::default()
    };
    let mut sections = split_sections(text);
    let head = sections.remove(0).1;
    for line in head.lines() {
        if let Some(about) = line.strip_prefix('#') {
            case.about = format!("{} {}", case.about, about.trim()).trim().to_owned();
        } else if let Some((key, value)) = line.split_once(": ") {
            case.head_line(key, value);
        }
    }
    case.files = sections
        .into_iter()
        .map(|(header, body)| section(&header, &body))
        .collect();
    case
}

impl Case {
    fn head_line(&mut self, key: &str, value: &str) {
        let pair = |text: &str| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        match key {
            "opt" => self.opts.push(pair(value)),
            "allow" => self.allow.push(value.to_owned()),
            "expect" => self.expects_error = value == "error",
            "secret" => {
                let field = |wanted: &str| {
                    value
                        .split(',')
                        .map(pair)
                        .find(|(key, _)| key == wanted)
                        .map(|(_, value)| value)
                        .unwrap_or_default()
                };
                self.secrets.push((field("id"), field("value")));
            }
            other => panic!("case {}: unknown line {other:?}", self.name),
        }
    }
}

/// The head, then (header, body) of every `--- ` section.
fn split_sections(text: &str) -> Vec<(String, String)> {
    let mut sections = vec![(String::new(), String::new())];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("--- ") {
            Some(header) => sections.push((header.trim_end().to_owned(), String::new())),
            None => sections.last_mut().expect("never empty").1.push_str(line),
        }
    }
    sections
}

fn section(header: &str, body: &str) -> File {
    let mut words = header.split(' ').filter(|word| !word.is_empty());
    let path = words.next().unwrap_or_default().to_owned();
    let mut mode = None;
    let mut dir = false;
    let mut link = None;
    let mut body = body.as_bytes().to_vec();
    for word in words {
        if let Some(target) = word.strip_prefix("->") {
            link = Some(target.to_owned());
        } else if let Some(count) = word.strip_prefix("repeat=") {
            body = body.repeat(count.parse().expect("a number after repeat="));
        } else {
            match word {
                "dir" => dir = true,
                "crlf" => body = replace(&body, b"\n", b"\r\n"),
                "bom" => body = [b"\xef\xbb\xbf".as_slice(), &body].concat(),
                "nonl" => {
                    if body.last() == Some(&b'\n') {
                        body.pop();
                    }
                }
                octal => mode = Some(u32::from_str_radix(octal, 8).expect("an octal mode")),
            }
        }
    }
    let (kind, default_mode) = match (link, dir) {
        (Some(target), _) => (FileKind::Link(target), 0o777),
        (None, true) => (FileKind::Dir, 0o755),
        (None, false) => (FileKind::Regular(body), 0o644),
    };
    File {
        path,
        mode: mode.unwrap_or(default_mode),
        kind,
    }
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    text.replace(
        &*String::from_utf8_lossy(from),
        &String::from_utf8_lossy(to),
    )
    .into_bytes()
}
