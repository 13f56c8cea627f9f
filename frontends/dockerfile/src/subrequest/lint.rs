//! All that the lint rules find, without a build.

use gateway_api::{BuildResult, Error};
use gateway_frontend::subrequest::answer as result;
use gateway_llb::{json, pb};
use serde_json::{Map, Value, json};

use super::{convert_and_check, location, set_text};
use crate::convert::MAX_LINES;
use crate::lint::{Config as LintConfig, Linter, Warning};
use crate::parse::{LineRange, Parsed};
use gateway_frontend::conventions::{BuildClient, BuildFile};

/// The most bytes of warnings with their lines: an instruction of thousands of lines may have as many of them.
const MAX_SHOWN: usize = 16 << 20;

pub async fn answer(
    client: &BuildClient,
    file: &BuildFile,
    parsed: &Parsed,
) -> Result<BuildResult, Error> {
    let check = client.config().check.as_deref();
    let (linter, error) = match LintConfig::for_build(&file.map.data, check) {
        Err(e) => (Linter::default(), Some(Error::unknown(e.to_string()))),
        Ok(config) => {
            // Without a target, all stages are looked at.
            let all = client.config().target.is_empty();
            let (linter, converted) = convert_and_check(client, file, parsed, config, all).await;
            (linter, converted.err())
        }
    };
    let mut left = MAX_LINES;
    let mut warnings = linter.warnings().to_vec();
    let list: Vec<Value> = warnings
        .iter()
        .map(|w| warning_json(w, &mut left))
        .collect();
    let mut out = Map::new();
    out.insert(
        "warnings".to_owned(),
        if list.is_empty() {
            Value::Null
        } else {
            Value::Array(list)
        },
    );
    out.insert(
        "sources".to_owned(),
        json!([json::source_info(&file.map.to_info())]),
    );
    if let Some(error) = &error {
        out.insert("buildError".to_owned(), error_json(error));
    }

    warnings.sort_by_key(|warning| warning.location.start);
    let source = String::from_utf8_lossy(&file.map.data);
    let lines: Vec<&str> = source.split('\n').collect();
    let mut text = String::new();
    for warning in &warnings {
        if text.len() > MAX_SHOWN {
            text += "\nmore warnings are not shown\n";
            break;
        }
        text += &shown(file, &lines, warning);
    }
    if linter.more() > 0 {
        text += &format!("\n{} more warnings are not shown\n", linter.more());
    }
    let mut result = result(&Value::Object(out), Some(text), "1.0.0");
    let bad = !warnings.is_empty() || error.is_some();
    result.metadata.insert(
        "result.statuscode".to_owned(),
        if bad { b"1".to_vec() } else { b"0".to_vec() },
    );
    Ok(result)
}

fn warning_json(warning: &Warning, left: &mut usize) -> Value {
    let mut out = Map::new();
    out.insert("ruleName".to_owned(), json!(warning.rule.name));
    set_text(&mut out, "description", warning.rule.description);
    set_text(&mut out, "url", warning.rule.url);
    set_text(&mut out, "detail", &warning.message);
    out.insert("location".to_owned(), location(warning.location, left));
    Value::Object(out)
}

fn error_json(error: &Error) -> Value {
    let mut ranges: Vec<pb::Range> = error
        .sources()
        .flat_map(|source| source.ranges.iter().cloned())
        .collect();
    ranges.sort_by_key(line);
    ranges.dedup();
    let place = pb::Location {
        source_index: 0,
        ranges,
    };
    json!({"message": error.message, "location": json::location(&place)})
}

fn line(range: &pb::Range) -> i32 {
    range.start.as_ref().map_or(0, |start| start.line)
}

/// A warning with its lines of the file.
fn shown(file: &BuildFile, lines: &[&str], warning: &Warning) -> String {
    let rule = warning.rule;
    let mut out = format!("\nWARNING: {}", rule.name);
    if !rule.url.is_empty() {
        out += &format!(" - {}", rule.url);
    }
    out += &format!("\n{}\n", warning.message);
    out + &excerpt(file, lines, warning.location)
}

/// Two lines of context around one line, one around more.
fn excerpt(file: &BuildFile, lines: &[&str], LineRange { start, end }: LineRange) -> String {
    if start == 0 || start as usize > lines.len() {
        return String::new();
    }
    let around = if start == end { 2 } else { 1 };
    let first = start.saturating_sub(around).max(1);
    let last = end.saturating_add(around);
    let mut out = format!("{}:{start}\n--------------------\n", file.map.filename);
    let skipped = first.saturating_sub(1) as usize;
    for (number, line) in (first..=last).zip(lines.iter().skip(skipped)) {
        let mark = if (start..=end).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        out += &format!("{number:4} | {mark} {line}\n");
    }
    out + "--------------------\n"
}
