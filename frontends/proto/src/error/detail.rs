//! One detail: JSON text inside a protobuf `Any`, under a type URL of its own kind. `Solve` is
//! JSON as protobuf maps it (64-bit numbers as text), the others are Go structs (numbers as numbers).

use gateway_api::Detail;
use gateway_api::error::SolveDetail;
use prost_types::Any;
use serde_json::{Map, Value, json};

use super::json;

const PREFIX: &str = "github.com/moby/buildkit/";

pub const STACK: &str = "github.com/moby/buildkit/stack.Stack+json";
pub const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";

pub fn encode(detail: &Detail) -> Any {
    let (kind, value) = match detail {
        Detail::Stack(text) => {
            return Any {
                type_url: STACK.to_owned(),
                value: text.clone().into_bytes(),
            };
        }
        Detail::Other { type_url, value } => {
            return Any {
                type_url: type_url.clone(),
                value: value.clone(),
            };
        }
        Detail::Vertex { digest } => ("errdefs.Vertex+json", json!({ "digest": digest })),
        Detail::Source(location) => ("errdefs.Source+json", json::location(location)),
        Detail::Frontend { name, source } => (
            "errdefs.Frontend+json",
            json!({ "name": name, "source": source }),
        ),
        Detail::FrontendCap { name } => ("errdefs.FrontendCap+json", json!({ "name": name })),
        Detail::Subrequest { name } => ("errdefs.Subrequest+json", json!({ "name": name })),
        Detail::Solve(solve) => ("errdefs.Solve+json", encode_solve(solve)),
        Detail::Exit { code } => ("gatewayapi.ExitMessage+json", json!({ "Code": code })),
    };
    Any {
        type_url: format!("{PREFIX}{kind}"),
        value: value.to_string().into_bytes(),
    }
}

/// What does not read as its type URL promises is kept as it came.
pub fn decode(any: Any) -> Detail {
    match any.type_url.strip_prefix(PREFIX) {
        Some(kind) => decode_known(kind, &any.value),
        None => None,
    }
    .unwrap_or(Detail::Other {
        type_url: any.type_url,
        value: any.value,
    })
}

fn decode_known(kind: &str, value: &[u8]) -> Option<Detail> {
    if kind == "stack.Stack+json" {
        return Some(Detail::Stack(std::str::from_utf8(value).ok()?.to_owned()));
    }
    let value: Value = serde_json::from_slice(value).ok()?;
    let object = value.as_object()?;
    let text = |key: &str| match json::find(object, key) {
        None => Some(String::new()),
        Some(value) => Some(value.as_str()?.to_owned()),
    };
    Some(match kind {
        "errdefs.Vertex+json" => Detail::Vertex {
            digest: text("digest")?,
        },
        "errdefs.Source+json" => Detail::Source(json::read_location(&value)?),
        "errdefs.Frontend+json" => Detail::Frontend {
            name: text("name")?,
            source: text("source")?,
        },
        "errdefs.FrontendCap+json" => Detail::FrontendCap {
            name: text("name")?,
        },
        "errdefs.Subrequest+json" => Detail::Subrequest {
            name: text("name")?,
        },
        "errdefs.Solve+json" => Detail::Solve(decode_solve(object)?),
        "gatewayapi.ExitMessage+json" => Detail::Exit {
            code: match json::find(object, "Code") {
                None => 0,
                Some(code) => u32::try_from(code.as_u64()?).ok()?,
            },
        },
        _ => return None,
    })
}

fn encode_solve(solve: &SolveDetail) -> Value {
    let mut object = Map::new();
    if !solve.input_ids.is_empty() {
        object.insert("inputIDs".to_owned(), json!(solve.input_ids));
    }
    if !solve.mount_ids.is_empty() {
        object.insert("mountIDs".to_owned(), json!(solve.mount_ids));
    }
    if let Some(op) = &solve.op {
        object.insert("op".to_owned(), gateway_llb::json::op(op));
    }
    if let Some(index) = solve.file_index {
        object.insert("file".to_owned(), subject(index));
    } else if let Some(index) = solve.cache_index {
        object.insert("cache".to_owned(), subject(index));
    }
    if !solve.description.is_empty() {
        object.insert("description".to_owned(), json!(solve.description));
    }
    Value::Object(object)
}

/// What failed within a step: as everywhere, zero is left out.
fn subject(index: i64) -> Value {
    if index == 0 {
        return json!({});
    }
    json!({ "index": index.to_string() })
}

/// None when it does not read; what newer builders add is passed over.
fn decode_solve(object: &Map<String, Value>) -> Option<SolveDetail> {
    let mut solve = SolveDetail::default();
    for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "inputIDs" => solve.input_ids = json::strings(value)?,
            "mountIDs" => solve.mount_ids = json::strings(value)?,
            "op" => solve.op = Some(Box::new(gateway_llb::json::read_op(value).ok()?)),
            "file" => solve.file_index = Some(index(value)?),
            "cache" => solve.cache_index = Some(index(value)?),
            "description" => {
                for (name, text) in value.as_object()? {
                    let text = text.as_str()?.to_owned();
                    solve.description.insert(name.clone(), text);
                }
            }
            _ => {}
        }
    }
    Some(solve)
}

fn index(subject: &Value) -> Option<i64> {
    match subject.as_object()?.get("index") {
        None => Some(0),
        Some(Value::String(text)) => text.parse().ok(),
        Some(number) => number.as_i64(),
    }
}
