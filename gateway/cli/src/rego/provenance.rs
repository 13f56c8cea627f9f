//! What the provenance of an image says, as policies see it: one form for both versions of SLSA.

use gateway_api::AttestationChain;
use serde_json::{Map, Value, json};

const V1: &str = "https://slsa.dev/provenance/v1";
const V02: &str = "https://slsa.dev/provenance/v0.2";
/// Types of statements that are provenance.
pub const TYPES: [&str; 2] = [V02, V1];
const TYPE_ANNOTATION: &str = "in-toto.io/predicate-type";
const BUILD_ARG: &str = "build-arg:";

/// Of the first statement that is one.
pub fn of(chain: &AttestationChain) -> Option<Value> {
    chain.blobs.values().find_map(|blob| {
        let announced = blob.annotations.get(TYPE_ANNOTATION)?;
        if !TYPES.contains(&announced.as_str()) {
            return None;
        }
        let statement: Value = serde_json::from_slice(&blob.data).ok()?;
        let kind = statement["predicateType"].as_str().unwrap_or(announced);
        read(kind, &statement["predicate"])
    })
}

fn read(kind: &str, predicate: &Value) -> Option<Value> {
    let at = |path: &str| predicate.pointer(path).cloned().unwrap_or_default();
    let (mut found, args) = match kind {
        V1 => {
            let external = "/buildDefinition/externalParameters";
            let metadata = "/runDetails/metadata";
            let complete = format!("{metadata}/buildkit_completeness");
            let found = json!({
                "buildType": at("/buildDefinition/buildType"),
                "builderID": at("/runDetails/builder/id"),
                "invocationID": match at(&format!("{metadata}/invocationID")) {
                    Value::Null => at(&format!("{metadata}/invocationId")),
                    id => id,
                },
                "startedOn": at(&format!("{metadata}/startedOn")),
                "finishedOn": at(&format!("{metadata}/finishedOn")),
                "configSource": at(&format!("{external}/configSource")),
                "frontend": at(&format!("{external}/request/frontend")),
                "reproducible": at(&format!("{metadata}/buildkit_reproducible")),
                "hermetic": at(&format!("{metadata}/buildkit_hermetic")),
                "completeness": filled(json!({
                    "parameters": at(&format!("{complete}/request")),
                    "materials": at(&format!("{complete}/resolvedDependencies")),
                })),
            });
            (found, at(&format!("{external}/request/args")))
        }
        V02 => {
            let source = json!({
                "uri": at("/invocation/configSource/uri"),
                "digest": at("/invocation/configSource/digest"),
                "path": at("/invocation/configSource/entryPoint"),
            });
            let found = json!({
                "buildType": at("/buildType"),
                "builderID": at("/builder/id"),
                "invocationID": at("/metadata/buildInvocationID"),
                "startedOn": at("/metadata/buildStartedOn"),
                "finishedOn": at("/metadata/buildFinishedOn"),
                "configSource": filled(source),
                "frontend": at("/invocation/parameters/frontend"),
                "reproducible": at("/metadata/reproducible"),
                "hermetic": at("/metadata/https:~1~1mobyproject.org~1buildkit@v1#hermetic"),
                "completeness": at("/metadata/completeness"),
            });
            (found, at("/invocation/parameters/args"))
        }
        _ => return None,
    };
    let is_set = |key: &str| found[key].as_str().is_some_and(|text| !text.is_empty());
    if !is_set("buildType") && !is_set("builderID") {
        return None;
    }
    let own: Map<String, Value> = args
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.strip_prefix(BUILD_ARG)?.to_owned(), value.clone())))
        .collect();
    found["predicateType"] = kind.into();
    found["buildArgs"] = Value::Object(own);
    found["rawArgs"] = args;
    Some(filled(found))
}

/// Without what is empty. A plain `false` says something here.
fn filled(value: Value) -> Value {
    let Value::Object(map) = value else {
        return value;
    };
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let kept = map.into_iter().filter(|(_, value)| !is_empty(value));
    Value::Object(kept.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_told_in_one_form() {
        let v1 = json!({
            "buildDefinition": {
                "buildType": "t",
                "externalParameters": {
                    "configSource": {"uri": "u", "path": "Dockerfile"},
                    "request": {"frontend": "gateway.v0", "args": {"build-arg:A": "1", "source": "s"}}
                }
            },
            "runDetails": {"builder": {"id": "b"}, "metadata": {"invocationID": "i", "buildkit_hermetic": false}}
        });
        let v02 = json!({
            "buildType": "t",
            "builder": {"id": "b"},
            "invocation": {
                "configSource": {"uri": "u", "entryPoint": "Dockerfile"},
                "parameters": {"frontend": "gateway.v0", "args": {"build-arg:A": "1", "source": "s"}}
            },
            "metadata": {"buildInvocationID": "i", "https://mobyproject.org/buildkit@v1#hermetic": false}
        });
        for (kind, predicate) in [(V1, v1), (V02, v02)] {
            let expected = json!({
                "predicateType": kind,
                "buildType": "t",
                "builderID": "b",
                "invocationID": "i",
                "configSource": {"uri": "u", "path": "Dockerfile"},
                "frontend": "gateway.v0",
                "hermetic": false,
                "buildArgs": {"A": "1"},
                "rawArgs": {"build-arg:A": "1", "source": "s"},
            });
            assert_eq!(read(kind, &predicate), Some(expected), "{kind}");
        }
        assert_eq!(read(V1, &json!({})), None);
    }
}
