//! `--metadata-file`: what the exporters answered, and what `docker buildx` adds to that.

use gateway_api::progress::VertexWarning;
use gateway_bridge::BuildResponse;
use serde_json::{Map, Value, json};

use crate::environment::Environment;

/// `BUILDER/NODE/BUILD`, by which builds are found again elsewhere. Here the builder is this program.
const REF: &str = "buildx.build.ref";
const BUILDER: &str = "gateway/gateway";
const WARNINGS: &str = "buildx.build.warnings";
/// Asks for the warnings.
const WANT_WARNINGS: &str = "BUILDX_METADATA_WARNINGS";
/// Of several platforms with `/PLATFORM` behind it.
const PROVENANCE: &str = "buildx.build.provenance";
/// How much of the provenance: `min` without any, `max`, `disabled`.
const WANT_PROVENANCE: &str = "BUILDX_METADATA_PROVENANCE";
const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";

/// What is known of a build beside its answer.
pub struct Told<'a> {
    pub id: String,
    pub warnings: Vec<VertexWarning>,
    pub env: &'a Environment,
}

/// Whether the file tells of the provenance: unless it is not to.
pub fn wants_provenance(env: &Environment) -> bool {
    let how = env.get(WANT_PROVENANCE).map_or("", String::as_str);
    gateway_api::parse_bool(how) != Some(false) && how != "disabled"
}

/// The content of the file.
pub fn of(response: &BuildResponse, told: &Told<'_>) -> Value {
    let answers = response.exporter.iter();
    let mut file: Map<String, Value> = answers
        .map(|(key, text)| (key.clone(), decoded(text)))
        .collect();
    file.insert(REF.into(), format!("{BUILDER}/{}", told.id).into());
    let wanted = |name: &str| told.env.get(name).map_or("", String::as_str);
    if gateway_api::parse_bool(wanted(WANT_WARNINGS)) == Some(true) && !told.warnings.is_empty() {
        file.insert(WARNINGS.into(), json!(told.warnings));
    }
    let all = wanted(WANT_PROVENANCE) == "max";
    for recorded in &response.provenance {
        let Ok(predicate) = serde_json::from_slice(&recorded.predicate) else {
            continue;
        };
        let key = match &recorded.key {
            None => PROVENANCE.to_owned(),
            Some(platform) => format!("{PROVENANCE}/{platform}"),
        };
        file.insert(key, older(predicate, all));
    }
    file.into()
}

/// JSON values of the exporter's answer are JSON in the file.
fn decoded(text: &str) -> Value {
    use base64::Engine as _;
    let is_filled = |value: &Value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty() && list.iter().all(Value::is_object),
        _ => false,
    };
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .filter(is_filled)
        .unwrap_or_else(|| text.into())
}

/// A predicate in the form of SLSA v0.2, which the file has whatever the image has; with its steps and times only
/// where all is wanted.
fn older(predicate: Value, all: bool) -> Value {
    let mut old = match predicate.get("buildDefinition") {
        Some(_) => converted(&predicate),
        None => predicate,
    };
    if !all && let Some(old) = old.as_object_mut() {
        old.remove("buildConfig");
        old.remove("metadata");
    }
    old
}

fn converted(new: &Value) -> Value {
    let at = |path: &str| new.pointer(path).cloned().unwrap_or_default();
    let external = "/buildDefinition/externalParameters";
    let internal = "/buildDefinition/internalParameters";
    let metadata = "/runDetails/metadata";
    let mut source = at(&format!("{external}/configSource"));
    if let Some(source) = source.as_object_mut()
        && let Some(path) = source.remove("path")
    {
        source.insert("entryPoint".into(), path);
    }
    let mut environment = Map::new();
    for (key, value) in at(internal).as_object().into_iter().flatten() {
        match key.as_str() {
            "builderPlatform" => drop(environment.insert("platform".into(), value.clone())),
            "buildConfig" => {}
            _ => drop(environment.insert(key.clone(), value.clone())),
        }
    }
    let mut old = json!({"builder": {"id": at("/runDetails/builder/id")}, "buildType": BUILD_TYPE});
    let mut add = |key: &str, value: Value| {
        if !value.is_null() {
            old[key] = value;
        }
    };
    add("materials", at("/buildDefinition/resolvedDependencies"));
    add(
        "invocation",
        json!({
            "configSource": source,
            "parameters": at(&format!("{external}/request")),
            "environment": environment,
        }),
    );
    add("buildConfig", at(&format!("{internal}/buildConfig")));
    let of = |key: &str| at(&format!("{metadata}/{key}"));
    let flag = |key: &str| of(key).as_bool().unwrap_or_default();
    let id = match of("invocationId") {
        Value::Null => of("invocationID"),
        id => id,
    };
    let mut times = json!({
        "buildInvocationID": id,
        "buildStartedOn": of("startedOn"),
        "buildFinishedOn": of("finishedOn"),
        "completeness": {
            "parameters": flag("buildkit_completeness/request"),
            "environment": true,
            "materials": flag("buildkit_completeness/resolvedDependencies"),
        },
        "reproducible": flag("buildkit_reproducible"),
    });
    times[format!("{BUILD_TYPE}#metadata")] = of("buildkit_metadata");
    if flag("buildkit_hermetic") {
        times[format!("{BUILD_TYPE}#hermetic")] = true.into();
    }
    add("metadata", times);
    old
}

#[cfg(test)]
mod tests {
    use gateway_bridge::Provenance;

    use super::*;

    fn told(env: &Environment) -> Told<'_> {
        let warning = VertexWarning {
            vertex: "sha256:a".into(),
            short: b"short".to_vec(),
            ..VertexWarning::default()
        };
        Told {
            id: "id".into(),
            warnings: vec![warning],
            env,
        }
    }

    fn env(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn answers_that_are_json_are_json_and_the_rest_is_text() {
        let mut response = BuildResponse::default();
        // `{"a":1}`, `{}` and a word that is base64 as well.
        for (key, text) in [
            ("object", "eyJhIjoxfQ=="),
            ("empty", "e30="),
            ("word", "true"),
        ] {
            response.exporter.insert(key.into(), text.into());
        }
        let expected = json!({
            "empty": "e30=",
            "object": {"a": 1},
            "word": "true",
            "buildx.build.ref": "gateway/gateway/id",
        });
        assert_eq!(of(&response, &told(&env(&[]))), expected);
    }

    #[test]
    fn warnings_are_in_it_when_asked_for() {
        let response = BuildResponse::default();
        let asked = env(&[(WANT_WARNINGS, "1")]);
        let file = of(&response, &told(&asked));
        assert_eq!(file[WARNINGS][0]["short"], "c2hvcnQ=");
        let refused = env(&[(WANT_WARNINGS, "false")]);
        assert_eq!(of(&response, &told(&refused)).get(WARNINGS), None);
    }

    #[test]
    fn provenance_has_the_older_form_by_platform() {
        assert!(wants_provenance(&env(&[])));
        assert!(!wants_provenance(&env(&[(WANT_PROVENANCE, "disabled")])));
        let new = json!({
            "buildDefinition": {
                "buildType": "x",
                "resolvedDependencies": [{"uri": "u", "digest": {"sha256": "1"}}],
                "externalParameters": {
                    "configSource": {"path": "Dockerfile"},
                    "request": {"frontend": "dockerfile.v0"},
                },
                "internalParameters": {"builderPlatform": "linux/amd64"},
            },
            "runDetails": {
                "builder": {"id": ""},
                "metadata": {"invocationId": "i", "buildkit_completeness": {"request": true}},
            },
        });
        let mut response = BuildResponse::default();
        let bytes = new.to_string().into_bytes();
        let recorded = |key: Option<&str>| Provenance {
            key: key.map(str::to_owned),
            predicate_type: "https://slsa.dev/provenance/v1".into(),
            predicate: bytes.clone(),
        };
        response.provenance.push(recorded(Some("linux/amd64")));
        let key = "buildx.build.provenance/linux/amd64";
        let min = json!({
            "builder": {"id": ""},
            "buildType": BUILD_TYPE,
            "materials": [{"uri": "u", "digest": {"sha256": "1"}}],
            "invocation": {
                "configSource": {"entryPoint": "Dockerfile"},
                "parameters": {"frontend": "dockerfile.v0"},
                "environment": {"platform": "linux/amd64"},
            },
        });
        assert_eq!(of(&response, &told(&env(&[])))[key], min);
        let max = env(&[(WANT_PROVENANCE, "max")]);
        let max = &of(&response, &told(&max))[key]["metadata"];
        assert_eq!(max["buildInvocationID"], "i");
        assert_eq!(max["completeness"]["parameters"], true);
        response.provenance = vec![recorded(None)];
        assert_eq!(of(&response, &told(&env(&[])))[PROVENANCE], min);
    }
}
