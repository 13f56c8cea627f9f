//! A whole frontend: a build file is a list of shell lines that run one after another.
//!
//! ```text
//! # syntax = you/lines
//! echo hello > /greeting
//! cat /greeting
//! ```
//!
//! It reads its build file by the common conventions, builds for every platform that is asked for,
//! answers the question which questions it answers, warns, and points at lines in errors.

use std::process::ExitCode;
use std::sync::Arc;

use gateway_frontend::BuildClient;
use gateway_frontend::api::{BuildResult, Detail, Error, Gateway, SolveRequest, SourceLocation};
use gateway_frontend::conventions::BuildFile;
use gateway_frontend::image_config::Image;
use gateway_frontend::llb::{Constraints, ImageSource, pb, platform};
use gateway_frontend::results::{PlatformResult, assemble};
use gateway_frontend::subrequest::{self, DESCRIBE};

/// What every line runs in, unless `--build-arg BASE=...` says otherwise.
const BASE: &str = "docker.io/library/alpine:latest";

#[tokio::main]
async fn main() -> ExitCode {
    gateway_frontend::run(build).await
}

/// The frontend.
async fn build(gateway: Arc<dyn Gateway>) -> Result<BuildResult, Error> {
    let client = BuildClient::new(gateway)?;
    if let Some(question) = client.opts().get("requestid") {
        return match question.as_str() {
            DESCRIBE => Ok(subrequest::describe(&[subrequest::Request {
                name: DESCRIBE,
                version: "1.0.0",
                description: "List available subrequest types",
                opts: None,
            }])),
            other => Err(subrequest::unsupported(other)),
        };
    }
    let file = client.read_build_file("Lines").await?;
    let steps = steps(&client, &file).await?;

    let config = client.config();
    let mut wanted = config.target_platforms.clone();
    if wanted.is_empty() {
        wanted.extend(config.build_platforms.first().cloned());
    }
    let mut results = Vec::with_capacity(wanted.len());
    for platform in wanted {
        results.push(build_for(&client, &file, &steps, platform).await?);
    }
    Ok(assemble(results, config.multi_platform))
}

/// A shell line and where it stands.
struct Step {
    line: i32,
    text: String,
}

fn range(line: i32) -> pb::Range {
    let position = pb::Position { line, character: 0 };
    pb::Range {
        start: Some(position),
        end: Some(position),
    }
}

async fn steps(client: &BuildClient, file: &BuildFile) -> Result<Vec<Step>, Error> {
    let text = String::from_utf8_lossy(&file.map.data);
    let mut steps = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if text.starts_with("FROM ") {
            let location = SourceLocation {
                info: file.map.to_info(),
                ranges: vec![range(line)],
            };
            let error = Error::invalid("this is no Dockerfile: lines are shell commands");
            return Err(error.with(Detail::Source(location)));
        }
        if text.contains("sudo ") {
            let told = "commands run as root already: sudo is not needed".to_owned();
            let warning = file.warning(told, "", "", vec![range(line)]);
            // A server that takes no warnings must not fail the build.
            let _ = client.gateway().warn(warning).await;
        }
        steps.push(Step {
            line,
            text: text.to_owned(),
        });
    }
    Ok(steps)
}

async fn build_for(
    client: &BuildClient,
    file: &BuildFile,
    steps: &[Step],
    platform: pb::Platform,
) -> Result<PlatformResult, Error> {
    let base = client.config().build_args.get("BASE");
    let base = base.map_or(BASE, String::as_str);
    let shown = platform::format_all(&platform);
    let log = format!("[internal] load metadata for {base} ({shown})");
    let resolved = client.resolve_image(base, &platform, log).await?;
    let mut image = Image::parse(&resolved.config)?;
    let pinned = format!("{}@{}", resolved.reference, resolved.digest);
    let from = Constraints::new()
        .name(format!("FROM {base}"))
        .platform(platform.clone());
    let mut state = image.apply_to(&ImageSource::new(pinned).state(from));
    for (number, step) in (1..).zip(steps) {
        let name = format!("[{number}/{}] {}", steps.len(), step.text);
        // Errors of the step show this line of the file.
        let place = Constraints::new()
            .name(name)
            .at(&file.map, vec![range(step.line)]);
        let run = state.run(["/bin/sh", "-c", step.text.as_str()]);
        state = run.with(place).root();
        image.commit(format!("RUN {}", step.text), true, None);
    }
    let definition = state
        .marshal(&client.marshal_options(&platform))
        .map_err(|e| Error::unknown(e.to_string()))?;
    let request = SolveRequest {
        definition: Some(definition),
        cache_imports: client.config().cache_imports.clone(),
        ..SolveRequest::default()
    };
    let reference = client.solve(request).await?;
    Ok(PlatformResult::new(platform, reference, image))
}

#[cfg(test)]
mod tests {
    use gateway_frontend::llb::Graph;
    use gateway_frontend::testing::MockGateway;

    use super::*;

    fn host(file: &str) -> MockGateway {
        MockGateway::new().file("dockerfile", "Dockerfile", file)
    }

    #[tokio::test]
    async fn lines_become_steps_in_their_order() {
        let gateway = host("# syntax = you/lines\necho a\n\necho b\n").shared();
        build(gateway.clone()).await.unwrap();
        let graph = Graph::load(gateway.definitions().last().unwrap()).unwrap();
        let names: Vec<&str> = graph.vertices().filter_map(|v| v.custom_name()).collect();
        assert!(
            names[0].starts_with("FROM docker.io/library/alpine"),
            "{names:?}"
        );
        assert_eq!(names[1..], ["[1/2] echo a", "[2/2] echo b"]);
    }

    #[tokio::test]
    async fn each_platform_has_a_result() {
        let gateway = host("true\n").opt("platform", "linux/amd64,linux/arm64");
        let result = build(gateway.shared()).await.unwrap();
        let keys: Vec<Option<&str>> = result.refs.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [Some("linux/amd64"), Some("linux/arm64")]);
    }

    #[tokio::test]
    async fn mistakes_and_warnings_point_at_their_lines() {
        let error = build(host("true\nFROM alpine\n").shared())
            .await
            .unwrap_err();
        let ranges = &error.sources().next().unwrap().ranges;
        assert_eq!(ranges, &[range(2)]);
        let gateway = host("sudo make\n").shared();
        build(gateway.clone()).await.unwrap();
        assert!(gateway.warning_texts()[0].contains("sudo is not needed"));
    }

    #[tokio::test]
    async fn unknown_questions_are_refused_by_name() {
        let gateway = host("").opt("requestid", "frontend.outline");
        let error = build(gateway.shared()).await.unwrap_err();
        assert_eq!(error.message, "unsupported request frontend.outline");
    }
}
