//! The tables of docs/llb.md are true: every attribute and every field of the language has a row, and
//! every test that a row names is there.

use std::collections::BTreeSet;
use std::path::Path;

/// The folders that hold tests of them.
const ROOMS: [&str; 4] = ["frontends", "gateway", "images", "tests"];

/// Attributes that clients of today set. What BuildKit knows; nothing else lists them in one place.
const ATTRIBUTES: [&str; 39] = [
    "git.authheadersecret",
    "git.authtokensecret",
    "git.bundle",
    "git.checkoutbundle",
    "git.checksum",
    "git.fetchbycommit",
    "git.fullurl",
    "git.keepgitdir",
    "git.knownsshhosts",
    "git.mountsshsock",
    "git.mtime",
    "git.sig.ignoresignedtag",
    "git.sig.pubkey",
    "git.sig.rejectexpired",
    "git.sig.requiresignedtag",
    "git.skipsubmodules",
    "http.authheadersecret",
    "http.checksum",
    "http.filename",
    "http.gid",
    "http.perm",
    "http.sig.pubkey",
    "http.sig.signature",
    "http.uid",
    "image.checksum",
    "image.layerlimit",
    "image.recordtype",
    "image.resolvemode",
    "llbbuild.filename",
    "local.differ",
    "local.excludepatterns",
    "local.followpaths",
    "local.includepattern",
    "local.metadatatransfer",
    "local.metadatatransferexclude",
    "local.session",
    "local.sharedkeyhint",
    "local.unique",
    "oci.store",
];

/// Names of all functions that are marked as tests.
fn tests_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                marked |= line.starts_with("#[test") || line.starts_with("#[tokio::test");
                let name = line.trim_start_matches("pub ").trim_start_matches("async ");
                if let Some(name) = name.strip_prefix("fn ")
                    && (std::mem::take(&mut marked) || line.starts_with("pub async fn "))
                {
                    found.insert(name.split('(').next().unwrap_or_default().to_owned());
                }
            }
        }
    }
}

/// `Message.field` of all messages.
fn fields(proto: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code: String = proto
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    for message in code.split("message ").skip(1) {
        let (name, body) = message.split_once('{').expect("a message");
        let body = body.split("enum ").next().unwrap_or_default();
        for field in body.split(';') {
            let Some((declared, _)) = field.split_once('=') else {
                continue;
            };
            let field = declared.split_whitespace().last().expect("a name");
            found.insert(format!("{}.{field}", name.trim()));
        }
    }
    found
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_attribute_and_field_is_told_of_and_every_test_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for room in ROOMS {
        tests_below(&root.join(room), &mut known);
    }
    let text = std::fs::read_to_string(root.join("docs/llb.md")).expect("the tables");
    let mut told = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, names, done, tests, _] = cells[..] else {
            panic!("three cells are wanted: {line}");
        };
        told.extend(quoted(names));
        let word = done.split([' ', ':', ';']).next().unwrap_or_default();
        match word {
            "honoured" | "refused" => assert!(!quoted(tests).is_empty(), "no test: {line}"),
            "ignored" => assert!(
                done.contains(':') || done.contains(','),
                "no reason: {line}"
            ),
            _ => panic!("honoured, refused or ignored? {line}"),
        }
        for test in quoted(tests) {
            assert!(known.contains(test), "no test is called {test}: {line}");
        }
    }
    for attribute in ATTRIBUTES {
        assert!(told.contains(attribute), "{attribute} is not in the table");
    }
    let proto = root.join("frontends/llb/proto/ops.proto");
    let proto = std::fs::read_to_string(proto).expect("the language");
    let fields = fields(&proto);
    assert!(
        fields.len() > 100,
        "the language is not read right: {fields:?}"
    );
    for field in &fields {
        let all = format!("{}.*", field.split('.').next().unwrap_or_default());
        assert!(
            told.contains(field.as_str()) || told.contains(all.as_str()),
            "{field} is not in the table"
        );
    }
    // Nor is anything told of that there is not.
    for name in told
        .iter()
        .filter(|name| name.starts_with(char::is_uppercase))
    {
        let there = match name.strip_suffix('*') {
            Some(message) => fields.iter().any(|field| field.starts_with(message)),
            None => fields.contains(*name),
        };
        assert!(there, "{name} is in the table and not in the language");
    }
}
