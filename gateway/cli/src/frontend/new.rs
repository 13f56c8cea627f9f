//! `gateway frontend new`: a crate to begin with. It compiles, its test passes, and it is small enough to be read.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{CliError, UsageError};
use crate::text::print;

/// What is written, and what stands for the crate's name and its dependency in it.
const FILES: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
    ("src/main.rs", include_str!("template/main.rs.txt")),
    ("Dockerfile", include_str!("template/Dockerfile.txt")),
    ("README.md", include_str!("template/README.md.txt")),
    (
        ".github/workflows/ci.yml",
        include_str!("template/ci.yml.txt"),
    ),
    (
        "example/Dockerfile",
        include_str!("template/example/Dockerfile.txt"),
    ),
];
const NAME: &str = "NAME";
const SDK: &str = "SDK";

/// Write a crate that is a frontend: a small language, with a test, an example, a Dockerfile and CI.
#[derive(Debug, Args)]
pub struct New {
    /// Name of the crate, and of the folder that is made
    #[arg(value_name = "NAME")]
    name: String,

    /// Folder to make it in
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,

    /// Use the crate gateway-frontend of this folder [default: the published one of this version]
    #[arg(long, value_name = "DIR")]
    sdk_path: Option<PathBuf>,

    /// Use the crate gateway-frontend of a git repository
    #[arg(long, value_name = "URL", conflicts_with = "sdk_path")]
    sdk_git: Option<String>,
}

pub fn run(args: &New) -> Result<(), CliError> {
    let name = &args.name;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !starts || !name.chars().all(good) || name == "test" {
        let problem =
            "a crate's name has lower-case letters, digits, - and _, and begins with a letter"
                .to_owned();
        return Err(UsageError::new("NAME", name, problem).into());
    }
    let sdk = match (&args.sdk_path, &args.sdk_git) {
        (Some(path), _) => {
            if !path.join("Cargo.toml").is_file() {
                let problem =
                    "there is no crate: name the folder frontends/sdk of the project".to_owned();
                return Err(UsageError::new("--sdk-path", path.to_string_lossy(), problem).into());
            }
            let path = std::fs::canonicalize(path).map_err(|source| CliError::ReadFile {
                path: path.clone(),
                source,
            })?;
            format!("{{ path = {} }}", quoted(&path.to_string_lossy()))
        }
        (None, Some(url)) => format!("{{ git = {} }}", quoted(url)),
        (None, None) => quoted(env!("CARGO_PKG_VERSION")),
    };
    let dir = match args.path == Path::new(".") {
        true => PathBuf::from(name),
        false => args.path.join(name),
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::Write { path, source }
    };
    // Nothing of anybody's is written over.
    if dir.symlink_metadata().is_ok() {
        let problem = format!(
            "{} is there already: choose another name, or another folder with --path",
            dir.display()
        );
        return Err(UsageError::new("NAME", name, problem).into());
    }
    std::fs::create_dir(&dir).map_err(failed(&dir))?;
    for (file, text) in FILES {
        let path = dir.join(file);
        let parent = path.parent().unwrap_or(&dir);
        std::fs::create_dir_all(parent).map_err(failed(parent))?;
        let text = match file {
            "Cargo.toml" => text.replace(SDK, &sdk),
            _ => text.to_owned(),
        };
        std::fs::write(&path, text.replace(NAME, name)).map_err(failed(&path))?;
    }
    let ignored = dir.join(".gitignore");
    std::fs::write(&ignored, "/target\n").map_err(failed(&ignored))?;
    print(&format!(
        "{dir}: a frontend of its own. Next:\n  cd {dir}\n  cargo test\n  gateway frontend build\n",
        dir = dir.display()
    ));
    Ok(())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_crate_has_less_than_150_lines() {
        let lines: usize = FILES.iter().map(|(_, text)| text.lines().count()).sum();
        assert!(lines < 150, "{lines}");
    }

    #[test]
    fn bad_names_and_folders_that_are_there_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let new = |name: &str| New {
            name: name.to_owned(),
            path: dir.path().to_owned(),
            sdk_path: None,
            sdk_git: None,
        };
        for name in ["", "Upper", "1st", "a b", "../x", "test"] {
            assert!(matches!(run(&new(name)), Err(CliError::Usage(_))), "{name}");
        }
        run(&new("mine")).unwrap();
        let again = run(&new("mine")).unwrap_err();
        assert!(again.to_string().contains("is there already"), "{again}");
        let manifest = std::fs::read_to_string(dir.path().join("mine/Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let version = manifest["dependencies"]["gateway-frontend"].as_str();
        assert_eq!(version, Some(env!("CARGO_PKG_VERSION")));
    }
}
