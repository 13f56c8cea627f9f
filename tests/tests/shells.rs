//! What an installation brings along: completions that shells load, manual pages that their checker takes.

use std::path::Path;
use std::process::Command;

use gateway_tests::program::{binary, run, stderr, tool};

/// The program in a folder of its own, as the shells look it up.
fn completion(shell: &str, dir: &Path) -> String {
    let output = run(Command::new(binary()).args(["completion", shell]));
    assert!(output.status.success(), "{}", stderr(&output));
    let file = dir.join(format!("completion.{shell}"));
    std::fs::write(&file, &output.stdout).expect("writing the script");
    file.display().to_string()
}

#[test]
fn bash_zsh_and_fish_load_their_completions() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let script = completion("bash", dir.path());
    let bash = format!(
        "source {script}; COMP_WORDS=(gateway build --no-c); COMP_CWORD=2; _gateway gateway --no-c build; \
         echo \"${{COMPREPLY[@]}}\""
    );
    let said = tool("bash", &["--norc", "-c", &bash]);
    assert_eq!(said.trim(), "--no-cache --no-cache-filter");

    let script = completion("fish", dir.path());
    let fish = format!("source {script}; complete -C 'gateway build --no-c'");
    let home = dir.path().display().to_string();
    let output = run(Command::new("fish")
        .args(["--no-config", "-c", &fish])
        .env("HOME", &home));
    let said = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(
        words,
        ["--no-cache", "--no-cache-filter"],
        "{}",
        stderr(&output)
    );

    let script = completion("zsh", dir.path());
    let zsh = format!(
        "autoload -U compinit; compinit -D -u; source {script}; echo $_comps[gateway]; whence -w _gateway"
    );
    let said = tool("zsh", &["-f", "-c", &zsh]);
    assert_eq!(said, "_gateway\n_gateway: function\n");
}

#[test]
fn manual_pages_have_no_faults() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = run(Command::new(binary())
        .arg("man")
        .arg(dir.path())
        .env("SOURCE_DATE_EPOCH", "1700000000"));
    assert!(output.status.success(), "{}", stderr(&output));
    let mut pages: Vec<String> = std::fs::read_dir(dir.path())
        .expect("the pages")
        .map(|entry| entry.expect("a page").path().display().to_string())
        .collect();
    pages.sort();
    assert!(pages.len() > 20, "{pages:?}");
    let mut words = vec!["-Tlint".to_owned(), "-Wwarning".to_owned()];
    words.extend(pages);
    let checked = run(Command::new("mandoc").args(&words));
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &stderr(&checked);
    // Blank space that the generator of pages leaves is none.
    let faults: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("skipping paragraph macro"))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");

    let page = dir.path().join("gateway-build.1");
    let shown = tool("mandoc", &["-Tascii", page.to_str().expect("a name")]);
    // Bold letters are written twice.
    let mut plain = String::new();
    for c in shown.chars() {
        match c {
            '\u{8}' => drop(plain.pop()),
            c => plain.push(c),
        }
    }
    assert!(plain.contains("GATEWAY-BUILD(1)"), "{plain}");
    assert!(plain.contains("EXAMPLES\n"), "{plain}");
    assert!(plain.contains("gateway build --check ."), "{plain}");
}
