//! Questions to a frontend instead of builds: the option `requestid` names one, the answer is
//! metadata without files.

use std::collections::BTreeMap;

use gateway_api::{BuildResult, Code, Detail, Error, Ref, Refs};
use serde_json::{Value, json};

/// The question that every frontend with subrequests answers: which others it answers.
pub const DESCRIBE: &str = "frontend.subrequests.describe";

/// Capabilities that an image's label lists and callers require: it takes inputs in the place of contexts,
pub const CAP_INPUTS: &str = "moby.buildkit.frontend.inputs";
/// and it answers questions.
pub const CAP_SUBREQUESTS: &str = "moby.buildkit.frontend.subrequests";

/// A question that a frontend answers, as it tells it of itself.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `frontend.outline` and the like.
    pub name: &'a str,
    /// Of the answer's form.
    pub version: &'a str,
    /// One line for users.
    pub description: &'a str,
    /// Options that change the answer, with a line for users; `None` when options have no meaning.
    pub opts: Option<&'a [(&'a str, &'a str)]>,
}

/// An answer: no files, only metadata. Clients read `result.json`, terminals show `result.txt`.
pub fn answer(json: &Value, text: Option<String>, version: &str) -> BuildResult {
    let mut metadata = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        metadata.insert(key.to_owned(), value.into_bytes());
    };
    set("result.json", format!("{json:#}"));
    if let Some(text) = text {
        set("result.txt", text);
    }
    set("version", version.to_owned());
    BuildResult {
        refs: Refs::Single(Ref::scratch()),
        metadata,
        ..BuildResult::default()
    }
}

/// The answer to [`DESCRIBE`]. Name the question itself among the others.
pub fn describe(requests: &[Request<'_>]) -> BuildResult {
    let named = |list: &[(&str, &str)]| -> Value {
        list.iter()
            .map(|(name, description)| json!({"name": name, "description": description}))
            .collect()
    };
    let mut table = Table::new(1);
    table.row(&["NAME", "VERSION", "DESCRIPTION"]);
    let mut list = Vec::with_capacity(requests.len());
    for request in requests {
        let short = request
            .name
            .strip_prefix("frontend.")
            .unwrap_or(request.name);
        table.row(&[short, request.version, request.description]);
        list.push(json!({
            "name": request.name,
            "version": request.version,
            "type": "rpc",
            "description": request.description,
            "opts": request.opts.map(named),
            "inputs": null,
            "metadata": named(&[("result.json", ""), ("result.txt", "")]),
            "refs": null,
        }));
    }
    answer(&Value::Array(list), Some(table.text()), "1.0.0")
}

/// What a frontend says before it builds: that it lacks what the caller requires (`caps` are what it has, as its
/// image's label says), or which questions it answers. Questions other than that have their answers before this, or
/// are refused. `None`: it is to build.
pub fn first(
    opts: &BTreeMap<String, String>,
    caps: &[&str],
    requests: &[Request<'_>],
) -> Option<Result<BuildResult, Error>> {
    let required = opts.get("frontend.caps").map_or("", String::as_str);
    if let Some(missing) = missing_cap(required, caps) {
        return Some(Err(missing.error));
    }
    match opts.get("requestid").map(String::as_str) {
        None => None,
        Some(DESCRIBE) => Some(Ok(describe(requests))),
        Some(other) => Some(Err(unsupported(other))),
    }
}

/// The refusal of a question that the frontend does not know. Clients may ask another frontend.
pub fn unsupported(name: &str) -> Error {
    Error::unknown(format!("unsupported request {name}")).with(Detail::Subrequest {
        name: name.to_owned(),
    })
}

/// A capability that the caller requires and the frontend lacks.
#[derive(Clone, Debug, PartialEq)]
pub struct MissingCap {
    /// What to return.
    pub error: Error,
    /// The caller leaves it to a frontend that this one may hand the build to.
    pub may_forward: bool,
}

/// What of the option `frontend.caps` is not among the capabilities that the frontend has.
///
/// A frontend that hands builds to others fails at once only if `may_forward` is false.
pub fn missing_cap(required: &str, have: &[&str]) -> Option<MissingCap> {
    let mut found = None;
    for entry in required.split(',').filter(|entry| !entry.is_empty()) {
        let (name, suffix) = entry.split_once('+').unwrap_or((entry, ""));
        if have.contains(&name) {
            continue;
        }
        let text = format!("unsupported frontend capability {name}");
        let error = Error::new(Code::Unimplemented, text).with(Detail::FrontendCap {
            name: name.to_owned(),
        });
        let may_forward = suffix == "forward";
        let missing = MissingCap { error, may_forward };
        if !may_forward {
            return Some(missing);
        }
        found = Some(missing);
    }
    found
}

/// Text in columns, for terminals: rows whose columns are as wide as their widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
    gap: usize,
}

impl Table {
    /// An empty table with `gap` blanks between columns.
    pub fn new(gap: usize) -> Self {
        Self {
            rows: Vec::new(),
            gap,
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[&str]) {
        self.rows
            .push(cells.iter().map(|&cell| cell.to_owned()).collect());
    }

    /// The rows as lines; the last column is not padded.
    pub fn text(&self) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            for (index, cell) in row.iter().enumerate() {
                let width = cell.chars().count() + self.gap;
                match widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let last = row.len().saturating_sub(1);
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if index == last {
                    out.push_str(cell);
                } else {
                    out.push_str(&format!("{cell:<width$}"));
                }
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let mut table = super::Table::new(3);
        table.row(&["SECRET", "REQUIRED"]);
        table.row(&["a", "true"]);
        assert_eq!(table.text(), "SECRET   REQUIRED\na        true\n");
    }

    #[test]
    fn a_description_lists_requests_for_programs_and_for_people() {
        let described = super::describe(&[super::Request {
            name: super::DESCRIBE,
            version: "1.0.0",
            description: "List available subrequest types",
            opts: None,
        }]);
        let json: serde_json::Value =
            serde_json::from_slice(&described.metadata["result.json"]).unwrap();
        assert_eq!(json[0]["type"], "rpc");
        assert_eq!(json[0]["opts"], serde_json::Value::Null);
        let text = String::from_utf8_lossy(&described.metadata["result.txt"]);
        assert!(text.contains("subrequests.describe 1.0.0   List"), "{text}");
    }

    #[test]
    fn a_required_capability_may_be_left_to_the_next_frontend() {
        let missing = |caps| super::missing_cap(caps, &["a"]);
        assert_eq!(missing("a,,a+forward"), None);
        assert!(missing("b+forward").unwrap().may_forward);
        let hard = missing("b+forward,c").unwrap();
        assert!(!hard.may_forward);
        assert_eq!(hard.error.message, "unsupported frontend capability c");
        assert_eq!(hard.error.code, gateway_api::Code::Unimplemented);
    }
}
