//! Files that nobody wrote by hand: no panic, no hang.

mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_dockerfile::build;
use gateway_frontend::conventions::git_ref::GitRef;
use gateway_frontend::conventions::ignore;
use gateway_frontend::conventions::reference::ImageRef;
use gateway_frontend::csv;
use gateway_llb::Graph;
use oracle::{Case, Memory};
use proptest::prelude::*;

fn run(dockerfile: &str) -> Arc<Memory> {
    let mut files = BTreeMap::new();
    files.insert("Dockerfile".to_owned(), dockerfile.as_bytes().to_vec());
    let memory = Arc::new(Memory::new(&Case::of(files, BTreeMap::new())));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    // Mistakes are expected; what is checked is that there is an answer.
    let _ = runtime.block_on(build(Arc::clone(&memory) as _));
    memory
}

fn instruction() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "ARG",
        "WORKDIR",
        "USER",
        "EXPOSE",
        "VOLUME",
        "CMD",
        "ENTRYPOINT",
        "HEALTHCHECK CMD",
        "ONBUILD COPY",
        "ONBUILD RUN",
        "LABEL",
        "STOPSIGNAL",
        "SHELL",
    ]);
    let word = prop::sample::select(vec![
        "scratch",
        "busybox",
        "AS",
        "a",
        "b",
        "0",
        "--from=a",
        "--from=b",
        "--from=9",
        "--link",
        "--parents",
        "--chmod=u+x",
        "--chown=a:b",
        "--exclude=*",
        "--mount=type=cache,target=/c",
        "--mount=from=a,target=x",
        "--mount=type=secret,id=s,env=E",
        "--platform=$TARGETPLATFORM",
        "$A",
        "${A:-b}",
        "${A#*}",
        "A=1",
        "A=$A",
        "\"",
        "[\"x\"]",
        "<<EOF",
        "..",
        "/",
        ".",
        "80/tcp",
        "http://h/f",
        "https://h/x.git?ref=a",
        "git@h:p",
        "*",
        "[",
        "é",
    ]);
    (keyword, prop::collection::vec(word, 0..5))
        .prop_map(|(keyword, words)| format!("{keyword} {}", words.join(" ")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_mix_of_instructions_is_answered(
        lines in prop::collection::vec(instruction(), 0..12)
    ) {
        let memory = run(&format!("FROM busybox AS a\n{}\n", lines.join("\n")));
        for definition in memory.definitions() {
            prop_assert!(definition.def.is_empty() || Graph::load(&definition).is_ok());
        }
    }

    #[test]
    fn a_reference_that_is_read_is_read_again_alike(text in "[a-z0-9A-Z./:@_-]{0,40}|\\PC{0,20}") {
        if let Ok(reference) = ImageRef::parse(&text) {
            let full = reference.to_string();
            prop_assert_eq!(ImageRef::parse(&full).unwrap().to_string(), full);
            let familiar = reference.familiar();
            prop_assert_eq!(ImageRef::parse(&familiar).unwrap(), reference);
        }
        let _ = GitRef::parse(&text);
        let _ = csv::fields(&text);
    }

    #[test]
    fn any_ignore_file_matches_or_is_refused(file in "[a*?/!.\\[\\]\\\\ \n-]{0,40}", path in "[a./]{1,20}") {
        let patterns = ignore::patterns(file.as_bytes());
        if let Ok(matcher) = ignore::Matcher::new(&patterns) {
            matcher.matches(&path);
        }
    }
}

#[test]
fn a_thousand_instructions_and_three_hundred_stages_are_quick() {
    let mut text = String::from("FROM busybox AS s0\n");
    for i in 1..300 {
        text += &format!(
            "FROM s{} AS s{i}\nENV K{i}=v\nRUN true {i}\nCOPY --from=s0 /a{i} /\n",
            i - 1
        );
    }
    let start = Instant::now();
    let memory = run(&text);
    let definition = memory.definitions().pop().unwrap();
    assert_eq!(Graph::load(&definition).unwrap().len(), 599);
    // Far above what it takes, far below what quadratic work takes.
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}
