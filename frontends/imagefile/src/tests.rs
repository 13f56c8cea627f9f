//! Image files against a gateway in memory.

use gateway_frontend::llb::Graph;
use gateway_frontend::testing::MockGateway;

use super::*;

fn host(file: &str) -> Arc<MockGateway> {
    MockGateway::new()
        .file("dockerfile", "Dockerfile", file)
        .shared()
}

#[tokio::test]
async fn each_word_becomes_what_it_says() {
    let gateway = host(
        "# syntax = you/imagefile\nfrom alpine:3\npackages curl\nenv A=1 B=2\nworkdir /app\ncopy src /app/src\n\
         run make\nuser nobody\ncommand serve --all\n",
    );
    let result = build(gateway.clone()).await.unwrap();
    let graph = Graph::load(gateway.definitions().last().unwrap()).unwrap();
    let names: Vec<_> = graph.vertices().filter_map(|v| v.custom_name()).collect();
    for name in [
        "from alpine:3",
        "packages curl",
        "copy src /app/src",
        "run make",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let config = result.metadata.get("containerimage.config").unwrap();
    let config = Image::parse(config).unwrap().config;
    assert_eq!(config.cmd, ["serve", "--all"]);
    assert_eq!(
        (config.user.as_str(), config.working_dir.as_str()),
        ("nobody", "/app")
    );
    assert!(config.env.contains(&"A=1".to_owned()), "{:?}", config.env);
}

#[tokio::test]
async fn a_line_that_is_not_understood_is_shown_with_the_words_that_are() {
    for (line, wanted) in [
        (
            "FROM alpine",
            "is not understood: the words are from, packages",
        ),
        ("from", "is not understood"),
        ("env A", "env: write KEY=VALUE"),
    ] {
        let error = build(host(&format!("env X=1\n{line}\n")))
            .await
            .unwrap_err();
        assert!(error.message.contains(wanted), "{}", error.message);
        assert_eq!(error.sources().next().unwrap().ranges, place(2));
    }
}
