//! Image files: what an image is, one word and its values a line; package managers, their caches and their pitfalls
//! are taken care of. `example/Dockerfile` is one.
use std::process::ExitCode;
use std::sync::Arc;

use gateway_frontend::BuildClient;
use gateway_frontend::api::{BuildResult, Detail, Error, Gateway, SolveRequest, SourceLocation};
use gateway_frontend::conventions::BuildFile;
use gateway_frontend::image_config::Image;
use gateway_frontend::llb::{
    CacheSharing, Constraints, Copy, FileActions, ImageSource, Mount, State, pb,
};
use gateway_frontend::results::{PlatformResult, assemble};
use gateway_frontend::subrequest::{self, CAP_INPUTS, CAP_SUBREQUESTS};

const WORDS: &str = "from, packages, env, workdir, copy, run, user and command";
/// Whichever package manager the base has. What it downloads stays in caches between builds, not in the image.
const INSTALL: &str = "set -e; if command -v apt-get; then rm -f /etc/apt/apt.conf.d/docker-clean; apt-get update; \
     DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \"$@\"; \
     elif command -v apk; then apk add --no-cache \"$@\"; elif command -v dnf; then dnf install -y \"$@\"; \
     else echo 'this base has neither apt-get nor apk nor dnf' >&2; exit 1; fi";
const CACHES: [&str; 3] = ["/var/cache/apt", "/var/lib/apt/lists", "/var/cache/dnf"];

fn main() -> ExitCode {
    gateway_frontend::main(build)
}

async fn build(gateway: Arc<dyn Gateway>) -> Result<BuildResult, Error> {
    let client = BuildClient::new(gateway)?;
    if let Some(answer) = subrequest::first(client.opts(), &[CAP_INPUTS, CAP_SUBREQUESTS], &[]) {
        return answer;
    }
    let file = client.read_build_file("Imagefile").await?;
    let config = client.config();
    let mut platforms = config.target_platforms.clone();
    if platforms.is_empty() {
        platforms.extend(config.build_platforms.first().cloned());
    }
    let mut results = Vec::new();
    for platform in platforms {
        results.push(image(&client, &file, platform).await?);
    }
    Ok(assemble(results, config.multi_platform))
}

/// A line, for progress and errors.
fn place(line: i32) -> Vec<pb::Range> {
    let start = Some(pb::Position { line, character: 0 });
    vec![pb::Range { start, end: start }]
}

async fn image(
    client: &BuildClient,
    file: &BuildFile,
    platform: pb::Platform,
) -> Result<PlatformResult, Error> {
    let text = String::from_utf8_lossy(&file.map.data).into_owned();
    let mut image = Image::scratch(&platform);
    let mut state = State::scratch();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem: String| {
            let info = file.map.to_info();
            let ranges = place(number);
            Error::invalid(problem).with(Detail::Source(SourceLocation { info, ranges }))
        };
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let values: Vec<&str> = rest.split_whitespace().collect();
        let shown = || Constraints::new().name(line).at(&file.map, place(number));
        match (word, values.as_slice()) {
            ("from", [base]) => {
                let log = format!("load metadata for {base}");
                let resolved = client.resolve_image(base, &platform, log).await?;
                image = Image::parse(&resolved.config)?;
                let source = format!("{}@{}", resolved.reference, resolved.digest);
                let base = ImageSource::new(source).state(shown().platform(platform.clone()));
                state = image.apply_to(&base.network(client.config().network));
            }
            ("packages", [_, ..]) => {
                let shell = ["/bin/sh", "-c", INSTALL, "packages"];
                let mut run = state.run(shell.iter().chain(&values).copied());
                for cache in CACHES {
                    let empty = State::scratch();
                    run = run.mount(Mount::cache(cache, &empty, cache, CacheSharing::Locked));
                }
                state = run.with(shown()).root();
                image.commit(line.to_owned(), true, None);
            }
            ("run", [_, ..]) => {
                state = state
                    .run(["/bin/sh", "-c", rest.trim()])
                    .with(shown())
                    .root();
                image.commit(line.to_owned(), true, None);
            }
            ("copy", [from, to]) => {
                let context = client.main_context(vec![(*from).to_owned()]).await?;
                let options = Copy {
                    create_dest_path: true,
                    dir_contents_only: true,
                    ..Copy::default()
                };
                let copied = FileActions::new().copy(&context, &format!("/{from}"), to, options);
                state = state.file(copied, shown());
                image.commit(line.to_owned(), true, None);
            }
            ("env", [_, ..]) => {
                for pair in &values {
                    let pair = pair.split_once('=');
                    let (key, value) = pair.ok_or_else(|| wrong("env: write KEY=VALUE".into()))?;
                    image.set_env(key, value);
                    state = state.env(key, value);
                }
            }
            ("workdir", [dir]) => {
                state = state.dir(dir);
                image.config.working_dir = state.get_dir().to_owned();
            }
            ("user", [user]) => {
                state = state.user(user);
                image.config.user = (*user).to_owned();
            }
            ("command", [_, ..]) => {
                image.config.cmd = values.iter().map(ToString::to_string).collect();
            }
            _ => {
                return Err(wrong(format!(
                    "{line:?} is not understood: the words are {WORDS}"
                )));
            }
        }
    }
    let definition = state.marshal(&client.marshal_options(&platform));
    let request = SolveRequest {
        definition: Some(definition.map_err(|error| Error::unknown(error.to_string()))?),
        cache_imports: client.config().cache_imports.clone(),
        ..SolveRequest::default()
    };
    let solved = client.solve(request).await?;
    Ok(PlatformResult::new(platform, solved, image))
}

#[cfg(test)]
mod tests;
