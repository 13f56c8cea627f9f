//! Questions about a build file instead of a build: what it can be given, which targets it has,
//! what is wrong with it, what it becomes.

mod lint;
mod outline;

use gateway_api::{BuildResult, Error};
use gateway_frontend::subrequest::{self, DESCRIBE, Table, answer as result};
use gateway_llb::{json, pb};
use serde_json::{Map, Value, json};

use crate::convert::checks::Checks;
use crate::convert::{self, Converted, locate};
use crate::lint::{Config as LintConfig, Linter, check_broken_file, check_complete_file};
use crate::parse::{Dockerfile, EMPTY, LineRange, NO_INSTRUCTIONS, NO_STAGES, Parsed};
use gateway_frontend::conventions::{BuildClient, BuildFile};

const OUTLINE: &str = "frontend.outline";
const TARGETS: &str = "frontend.targets";

/// Answers the question that the options ask, if any.
///
/// # Errors
/// For a question that is not known, and for files that cannot be answered about.
pub async fn answer(
    client: &BuildClient,
    file: &BuildFile,
    parsed: &Parsed,
) -> Option<Result<BuildResult, Error>> {
    let id = client.opts().get("requestid")?;
    Some(match id.as_str() {
        DESCRIBE => Ok(describe()),
        OUTLINE => outline::answer(client, file, parsed).await,
        TARGETS => targets(file, parsed),
        "frontend.lint" => lint::answer(client, file, parsed).await,
        "frontend.convertllb" => convert_llb(client, file, parsed).await,
        other => Err(subrequest::unsupported(other)),
    })
}

fn describe() -> BuildResult {
    let request = |name, description, opts| subrequest::Request {
        name,
        version: "1.0.0",
        description,
        opts,
    };
    subrequest::describe(&[
        request(
            OUTLINE,
            "List all parameters current build target supports",
            Some(&[("target", "Target build stage")]),
        ),
        request(
            TARGETS,
            "List all targets current build supports",
            Some(&[]),
        ),
        request(DESCRIBE, "List available subrequest types", None),
    ])
}

fn targets(file: &BuildFile, parsed: &Parsed) -> Result<BuildResult, Error> {
    let dockerfile = good(parsed)?;
    let mut table = Table::new(1);
    table.row(&["TARGET", "DESCRIPTION"]);
    let last = dockerfile.stages.len().saturating_sub(1);
    let mut list = Vec::new();
    let mut left = convert::MAX_LINES;
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        let name = stage.name.as_deref().unwrap_or_default();
        let mut out = Map::new();
        set_text(&mut out, "name", name);
        if index == last {
            out.insert("default".to_owned(), json!(true));
        }
        set_text(&mut out, "description", &stage.doc_comment);
        set_text(&mut out, "base", &stage.base);
        set_text(
            &mut out,
            "platform",
            stage.platform.as_deref().unwrap_or_default(),
        );
        out.insert("location".to_owned(), location(stage.location, &mut left));
        list.push(Value::Object(out));
        let shown = match (name, index == last) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        table.row(&[&shown, &stage.doc_comment]);
    }
    let targets = (!list.is_empty()).then_some(list);
    let json = json!({"targets": targets, "sources": [json::bytes(&file.map.data)]});
    Ok(result(&json, Some(table.text()), "1.0.0"))
}

async fn convert_llb(
    client: &BuildClient,
    file: &BuildFile,
    parsed: &Parsed,
) -> Result<BuildResult, Error> {
    let converted = convert_checked(client, file, parsed).await?;
    let definition = converted
        .state
        .marshal(&client.marshal_options(&converted.platform))
        .map_err(|e| Error::unknown(format!("failed to marshal LLB definition: {e}")))?;
    let json = json::definition(&definition)
        .map_err(|e| Error::unknown(format!("failed to parse llb proto op: {e}")))?;
    Ok(result(&json, None, "0.1.0"))
}

/// The file, when it could be parsed.
fn good(parsed: &Parsed) -> Result<&Dockerfile, Error> {
    match &parsed.error {
        // A file without stages has no targets, which is an answer.
        Some(mistake) if mistake.message == NO_STAGES => Ok(&parsed.dockerfile),
        // What a build calls empty has no instructions here (observed).
        Some(mistake) if mistake.message == EMPTY => Err(Error::unknown(NO_INSTRUCTIONS)),
        Some(mistake) => Err(Error::unknown(mistake.message.clone())),
        None => Ok(&parsed.dockerfile),
    }
}

/// Converts the target and tells the findings, as a build does.
async fn convert_checked(
    client: &BuildClient,
    file: &BuildFile,
    parsed: &Parsed,
) -> Result<Converted, Error> {
    let check = client.config().check.as_deref();
    let config =
        LintConfig::for_build(&file.map.data, check).map_err(|e| Error::unknown(e.to_string()))?;
    let (linter, converted) = convert_and_check(client, file, parsed, config, false).await;
    crate::warn::warn(client, file, &linter).await;
    converted
}

/// Converts and finds what there is to find; the findings come with errors, too.
async fn convert_and_check(
    client: &BuildClient,
    file: &BuildFile,
    parsed: &Parsed,
    config: LintConfig,
    all_stages: bool,
) -> (Linter, Result<Converted, Error>) {
    let mut linter = Linter::new(config);
    if let Some(mistake) = &parsed.error {
        check_broken_file(parsed, &mut linter);
        let error = Error::unknown(mistake.message.clone());
        let error = match mistake.location {
            Some(lines) => locate(file, error, lines),
            None => error,
        };
        return (linter, Err(error));
    }
    check_complete_file(&parsed.dockerfile, &mut linter);
    let checks = Checks::new(linter);
    let converted = convert::convert(convert::Request {
        client,
        file,
        dockerfile: &parsed.dockerfile,
        platform: None,
        all_stages,
        checks: &checks,
    })
    .await;
    let linter = checks.into_linter();
    let converted = converted.and_then(|converted| match linter.error() {
        Some(text) => Err(Error::unknown(text)),
        None => Ok(converted),
    });
    (linter, converted)
}

/// A place; `left` lines may still be named one by one.
fn location(lines: LineRange, left: &mut usize) -> Value {
    json::location(&pb::Location {
        source_index: 0,
        ranges: convert::some_ranges(lines, left),
    })
}

fn set_text(out: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        out.insert(key.to_owned(), json!(value));
    }
}
