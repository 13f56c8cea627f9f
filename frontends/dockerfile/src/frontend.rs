//! The frontend as a function: from the caller's options to a result.

use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::{BuildResult, Error, Gateway, Ref, SolveRequest};
use gateway_frontend::results::{PlatformResult, assemble};
use gateway_frontend::scanner::{Scan, Scanner};
use gateway_frontend::subrequest::missing_cap;
use gateway_llb::{pb, platform};

use crate::convert::checks::Checks;
use crate::convert::{self, Converted, locate};
use crate::lint::{Config as LintConfig, Linter, check_broken_file, check_complete_file};
use crate::parse::{LineRange, Parsed, detect_syntax, parse_lenient};
use crate::subrequest;
use crate::warn::warn;
use gateway_frontend::conventions::{BuildClient, BuildFile};

/// What callers may require of this frontend.
const CAPS: [&str; 4] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// The language of build files, as sources name it.
const LANGUAGE: &str = "Dockerfile";

/// Builds a Dockerfile, or hands it to the frontend that its first line names.
///
/// # Errors
/// Mistakes in the file with their lines, and what the gateway says. Errors of steps come when
/// the result is used.
pub async fn build(gateway: Arc<dyn Gateway>) -> Result<BuildResult, Error> {
    let client = BuildClient::new(gateway)?;
    if let Some(text) = &client.config().check {
        // An option that cannot be used is told before anything is read.
        LintConfig::for_build(b"", Some(text)).map_err(|e| Error::unknown(e.to_string()))?;
    }
    let opts = client.opts();
    // A caller may leave it to a forwarded frontend to have what this one lacks.
    let missing = missing_cap(opts.get("frontend.caps").map_or("", String::as_str), &CAPS);
    if let Some(missing) = missing.as_ref().filter(|m| !m.may_forward) {
        return Err(missing.error.clone());
    }
    let file = client.read_build_file(LANGUAGE).await?;
    if !opts.contains_key("cmdline") {
        if let Some(cmdline) = opts.get("build-arg:BUILDKIT_SYNTAX") {
            let reference = cmdline.trim().split(' ').next().unwrap_or_default();
            return forward(&client, reference, cmdline).await.map_err(|e| {
                if e.sources().next().is_some() {
                    return e;
                }
                e.context(format!("failed with build-arg:BUILDKIT_SYNTAX = {cmdline}"))
            });
        }
        if let Some(syntax) = detect_syntax(&file.map.data) {
            let line = LineRange::line(syntax.line);
            return forward(&client, &syntax.reference, &syntax.cmdline)
                .await
                .map_err(|e| {
                    if e.sources().next().is_some() {
                        return e;
                    }
                    locate(&file, e, line)
                });
        }
    }
    if let Some(missing) = missing {
        return Err(missing.error);
    }
    let parsed = parse_lenient(&file.map.data);
    if let Some(answer) = subrequest::answer(&client, &file, &parsed).await {
        return answer;
    }
    build_parsed(&client, &file, &parsed).await
}

/// Builds what could be parsed. Warnings are sent before the result or error is returned, so
/// that none is lost.
async fn build_parsed(
    client: &BuildClient,
    file: &BuildFile,
    parsed: &Parsed,
) -> Result<BuildResult, Error> {
    // A scanner that cannot be had is told of before any mistake of the file.
    let scanner = match &client.config().sbom {
        Some(wanted) => Some(Scanner::find(client, wanted).await?),
        None => None,
    };
    let check = client.config().check.as_deref();
    let config =
        LintConfig::for_build(&file.map.data, check).map_err(|e| Error::unknown(e.to_string()))?;
    let mut linter = Linter::new(config.clone());
    if let Some(mistake) = &parsed.error {
        check_broken_file(parsed, &mut linter);
        warn(client, file, &linter).await;
        let error = Error::unknown(mistake.message.clone());
        return Err(match mistake.location {
            Some(lines) => locate(file, error, lines),
            None => error,
        });
    }
    check_complete_file(&parsed.dockerfile, &mut linter);
    let platforms = &client.config().target_platforms;
    let targets: Vec<Option<pb::Platform>> = if platforms.is_empty() {
        vec![None]
    } else {
        platforms.iter().cloned().map(Some).collect()
    };
    let builds = targets.iter().enumerate().map(|(index, platform)| {
        // Findings of all platforms are alike: those of the first are told.
        let checks = Checks::new(if index == 0 {
            linter.clone()
        } else {
            Linter::new(config.clone())
        });
        let scanner = scanner.as_ref();
        async move {
            let converted = convert::convert(convert::Request {
                client,
                file,
                dockerfile: &parsed.dockerfile,
                platform: platform.clone(),
                all_stages: false,
                checks: &checks,
            })
            .await;
            let linter = checks.into_linter();
            if index == 0 {
                warn(client, file, &linter).await;
            }
            let converted = converted?;
            if let Some(text) = linter.error() {
                return Err(Error::unknown(text));
            }
            let reference = solve(client, &converted).await?;
            let asked = platform.as_ref().unwrap_or(&converted.platform);
            let mut result = PlatformResult::new(
                platform::normalize(asked),
                reference,
                converted.image.clone(),
            );
            with_windows_version(&mut result);
            if let Some(scanner) = scanner {
                let scan = Scan {
                    id: &result.id,
                    state: &converted.state,
                    extras: &converted.scanned,
                    ignores_cache: converted.ignores_cache,
                };
                let scan = scanner.scan(client.gateway().as_ref(), scan).await?;
                result.attestations.push(scan);
            }
            result.base_image = converted.base_image;
            result.epoch = converted.epoch;
            Ok(result)
        }
    });
    let builds = try_join_all(builds).await?;
    Ok(assemble(builds, client.config().multi_platform))
}

/// Lets another frontend build, with all options and inputs of this call.
async fn forward(
    client: &BuildClient,
    reference: &str,
    cmdline: &str,
) -> Result<BuildResult, Error> {
    let mut opts = client.opts().clone();
    opts.insert("cmdline".to_owned(), cmdline.to_owned());
    opts.insert("source".to_owned(), reference.to_owned());
    let inputs = client.inputs().await?.clone();
    client
        .gateway()
        .solve(SolveRequest {
            frontend: "gateway.v0".to_owned(),
            frontend_opts: opts,
            frontend_inputs: inputs,
            ..SolveRequest::default()
        })
        .await
}

async fn solve(client: &BuildClient, converted: &Converted) -> Result<Ref, Error> {
    // Seconds of work for the largest of files: a moment to be cancelled, before and after.
    tokio::task::yield_now().await;
    let definition = converted
        .state
        .marshal(&client.marshal_options(&converted.platform))
        .map_err(|e| Error::unknown(format!("failed to marshal LLB definition: {e}")))?;
    tokio::task::yield_now().await;
    client
        .solve(SolveRequest {
            definition: Some(definition),
            cache_imports: client.config().cache_imports.clone(),
            ..SolveRequest::default()
        })
        .await
}

/// Results for Windows are for the version of their base, where none was asked for.
fn with_windows_version(result: &mut PlatformResult) {
    let (platform, image) = (&mut result.platform, &result.image);
    if platform.os == "windows" && image.os == platform.os {
        if platform.os_version.is_empty() {
            platform.os_version.clone_from(&image.os_version);
        }
        if platform.os_features.is_empty() {
            platform.os_features.clone_from(&image.os_features);
        }
    }
}
