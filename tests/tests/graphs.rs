//! Graphs and conversations of builds, from the command line: `build --print-llb`, `build --record`,
//! `gateway llb`.

use std::fs;
use std::process::Command;

use gateway_tests::program::{Home, binary, run, stderr};

fn llb(args: &[&str]) -> (i32, String, String) {
    let output = run(Command::new(binary()).arg("llb").args(args));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), stdout, stderr(&output))
}

#[test]
fn a_build_file_becomes_a_graph_that_can_be_dumped_drawn_and_checked() {
    let home = Home::new("");
    let dir = tempfile::tempdir().unwrap();
    let file = "FROM scratch\nCOPY a /one\nCOPY --link a /two\n";
    fs::write(dir.path().join("Dockerfile"), file).unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    let graph = dir.path().join("graph.llb");
    let output = run(home
        .build()
        .arg(format!("--print-llb={}", graph.display()))
        .arg(dir.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        !stderr(&output).contains("COPY a /one"),
        "nothing was built"
    );

    let graph = graph.display().to_string();
    let (code, json, _) = llb(&["dump", &graph]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, json["def"].as_object().unwrap().len()), (0, 5));
    let (_, dot, _) = llb(&["graph", &graph]);
    assert!(dot.contains("LINK COPY --link a /two"), "{dot}");
    let (_, mermaid, _) = llb(&["graph", "--format", "mermaid", &graph]);
    assert!(mermaid.starts_with("flowchart TD"), "{mermaid}");
    assert_eq!(llb(&["lint", &graph]), (0, String::new(), String::new()));

    let broken = dir.path().join("broken.llb");
    let mut bytes = fs::read(&graph).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&broken, bytes).unwrap();
    let (code, _, error) = llb(&["lint", &broken.display().to_string()]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("no definition"), "{error}");
}

#[test]
fn a_build_can_be_recorded() {
    let home = Home::new("");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), "FROM scratch\nCOPY a /\n").unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    let records = dir.path().join("records");
    let output = run(home
        .build()
        .args(["--output", "type=cacheonly", "--record"])
        .arg(&records)
        .arg(dir.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read(records.join("1-dockerfile.v0.json")).unwrap();
    let recording: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let calls = recording["calls"].as_array().unwrap();
    let read = calls.iter().find(|call| call["method"] == "read_file");
    assert_eq!(read.unwrap()["about"], "Dockerfile");
    assert!(recording["returned"]["ok"].is_string());
    assert_eq!(fs::read_dir(&records).unwrap().count(), 1);
}
