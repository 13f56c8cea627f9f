//! Provenance: what a build was asked and what it was made of, as SLSA predicates in the form of
//! BuildKit's (`control-session.md` 6.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::{Attestation, Code, Error};
use gateway_images::config::to_json;
use gateway_images::registry::shown_url;
use gateway_solver::provenance::{Material, Materials};
use gateway_solver::{AttestationContent, SolvedAttestation};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How a client asks for provenance, and the form in which a build argument does.
const REQUEST: &str = "attest:provenance";
const REQUEST_ARG: &str = "build-arg:BUILDKIT_ATTEST_PROVENANCE";

const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";
const METADATA_V02: &str = "https://mobyproject.org/buildkit@v1#metadata";
const HERMETIC_V02: &str = "https://mobyproject.org/buildkit@v1#hermetic";

/// The version of BuildKit's behaviour that builds have here.
const COMPATIBILITY: u32 = 30;

/// Options that say how this machine builds, not what.
const HOST_OPTIONS: [&str; 4] = [
    "cgroup-parent",
    "image-resolve-mode",
    "platform",
    "cache-imports",
];

/// A frontend call, as provenance tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub frontend: String,
    pub opts: BTreeMap<String, String>,
    /// The outermost call, if another.
    pub root: Option<Arc<Origin>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V02,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    version: Version,
    builder: String,
    filename: String,
    reproducible: bool,
    inline_only: bool,
    complete: bool,
}

/// When and under which name a build ran.
pub struct Invocation {
    pub id: String,
    pub started: OffsetDateTime,
}

impl Wanted {
    /// None when nobody asked.
    ///
    /// # Errors
    /// A parameter is unknown, or has a value that is.
    pub fn of(opts: &BTreeMap<String, String>) -> Result<Option<Wanted>, Error> {
        let Some(text) = opts.get(REQUEST).or_else(|| opts.get(REQUEST_ARG)) else {
            return Ok(None);
        };
        let mut wanted = Wanted {
            version: Version::V1,
            builder: String::new(),
            filename: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
            complete: false,
        };
        let mut mode = "max";
        for field in text.split(',').filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            let flag = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" | "" => Ok(false),
                _ => Err(Error::invalid(format!(
                    "failed to parse {key} flag {value:?} of the provenance attestation"
                ))),
            };
            match key {
                "type" => {}
                "mode" => mode = value,
                "version" if value == "v1" => wanted.version = Version::V1,
                "version" if value == "v0.2" => wanted.version = Version::V02,
                "version" => {
                    return Err(Error::invalid(format!(
                        "invalid provenance SLSA version: {value}"
                    )));
                }
                "builder-id" => wanted.builder = value.to_owned(),
                "filename" => wanted.filename = value.to_owned(),
                "reproducible" => wanted.reproducible = flag()?,
                "inline-only" => wanted.inline_only = flag()?,
                "complete-materials" => wanted.complete = flag()?,
                "capture-usage" if !flag()? => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "unknown parameter {key:?} of the provenance attestation"
                    )));
                }
            }
        }
        match mode {
            "min" => Ok(Some(wanted)),
            "max" | "full" => Err(Error::new(
                Code::Unimplemented,
                "provenance with mode=max is not supported yet: ask for mode=min",
            )),
            other => Err(Error::invalid(format!("invalid mode {other:?}"))),
        }
    }

    /// What a history keeps of a build that did not ask for any.
    pub fn for_history() -> Wanted {
        Wanted {
            version: Version::V1,
            builder: String::new(),
            filename: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: true,
            complete: false,
        }
    }

    /// The attestation of one result.
    ///
    /// # Errors
    /// All materials must be known, and are not.
    pub fn attest(
        &self,
        origin: Option<&Origin>,
        materials: &Materials,
        builder_platform: &str,
        invocation: &Invocation,
    ) -> Result<SolvedAttestation, Error> {
        let complete = materials.locals.is_empty() && !materials.incomplete;
        if self.complete && !complete {
            return Err(Error::unknown(
                "provenance materials are incomplete: directories of the client went into the build",
            ));
        }
        let facts = Facts {
            wanted: self,
            request: Request::of(origin, materials),
            materials,
            complete,
            platform: builder_platform,
            id: &invocation.id,
            started: rfc3339(invocation.started)?,
            finished: rfc3339(OffsetDateTime::now_utc())?,
        };
        let (predicate_type, predicate) = match self.version {
            Version::V1 => ("https://slsa.dev/provenance/v1", facts.v1()),
            Version::V02 => ("https://slsa.dev/provenance/v0.2", facts.v02()),
        };
        let inline_only = self.inline_only.to_string();
        let metadata = [("reason", "provenance"), ("inline-only", &inline_only)];
        Ok(SolvedAttestation {
            attestation: Attestation {
                kind: 0,
                metadata: metadata
                    .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()))
                    .into(),
                reference: None,
                path: self.filename.clone(),
                in_toto_predicate_type: predicate_type.to_owned(),
                in_toto_subjects: Vec::new(),
            },
            content: AttestationContent::Engine(
                to_json(&predicate)
                    .map_err(|error| Error::new(Code::Internal, error.to_string()))?,
            ),
        })
    }
}

fn rfc3339(time: OffsetDateTime) -> Result<String, Error> {
    time.format(&Rfc3339)
        .map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// A call without what is not to be told: values of build arguments and labels, passwords.
struct Request {
    config_source: Map<String, Value>,
    vcs: Map<String, Value>,
    request: Map<String, Value>,
    /// The outermost call, in the same form.
    root: Option<Value>,
    /// Nothing was left out.
    complete: bool,
}

impl Request {
    fn of(origin: Option<&Origin>, materials: &Materials) -> Request {
        let mut made = Request {
            config_source: Map::new(),
            vcs: Map::new(),
            request: Map::new(),
            root: None,
            complete: origin.is_some(),
        };
        let Some(origin) = origin else {
            return made;
        };
        let mut args = BTreeMap::new();
        let context_key = match origin.opts.get("contextkey") {
            Some(key) if !key.is_empty() => key.as_str(),
            _ if origin.opts.contains_key("input:context") => "input:context",
            _ => "context",
        };
        for (key, value) in &origin.opts {
            if HOST_OPTIONS.contains(&key.as_str()) || key.starts_with("attest:") {
                continue;
            }
            let value = match key == context_key || key.starts_with("context:") {
                true => shown_url(value),
                false => value.clone(),
            };
            if let Some(vcs) = key.strip_prefix("vcs:") {
                if !value.is_empty() {
                    made.vcs.insert(vcs.to_owned(), shown_url(&value).into());
                }
            } else if key.starts_with("build-arg:") || key.starts_with("label:") {
                made.complete = false;
            } else if key == context_key && !value.is_empty() {
                made.context(&value, materials);
            } else if key == "filename" && !value.is_empty() {
                made.config_source.insert("path".into(), value.into());
            } else {
                args.insert(key.clone(), value);
            }
        }
        made.request
            .insert("frontend".into(), origin.frontend.clone().into());
        if !args.is_empty() {
            made.request.insert("args".into(), json!(args));
        }
        if let Some(root) = &origin.root {
            let root = Request::of(Some(root), materials);
            made.complete &= root.complete;
            let root = json!({"configSource": root.config_source, "request": root.request});
            made.root = Some(root);
        }
        made
    }

    fn context(&mut self, context: &str, materials: &Materials) {
        let without_dir = context
            .split_once('#')
            .map_or(context.to_owned(), |(url, rest)| {
                match rest.split(':').next().unwrap_or_default() {
                    "" => url.to_owned(),
                    reference => format!("{url}#{reference}"),
                }
            });
        let known = materials
            .list
            .iter()
            .find(|material| material.uri == context || material.uri == without_dir);
        self.config_source.insert("uri".into(), context.into());
        if let Some(material) = known {
            self.config_source
                .insert("digest".into(), json!(material.digest));
        }
    }
}

/// All that a predicate says.
struct Facts<'a> {
    wanted: &'a Wanted,
    request: Request,
    materials: &'a Materials,
    complete: bool,
    platform: &'a str,
    id: &'a str,
    started: String,
    finished: String,
}

impl Facts<'_> {
    /// The request with the client's directories and the version of the behaviour.
    fn parameters(&self) -> Value {
        let mut request = self.request.request.clone();
        if !self.materials.locals.is_empty() {
            let locals = self.materials.locals.iter();
            let locals: Vec<Value> = locals.map(|name| json!({"name": name})).collect();
            request.insert("locals".into(), locals.into());
        }
        if let Some(root) = &self.request.root {
            request.insert("root".into(), root.clone());
        }
        request.insert("compatibilityVersion".into(), COMPATIBILITY.into());
        request.into()
    }

    fn buildkit_metadata(&self) -> Value {
        match self.request.vcs.is_empty() {
            true => json!({}),
            false => json!({"vcs": self.request.vcs}),
        }
    }

    fn hermetic(&self) -> bool {
        self.complete && !self.materials.network
    }

    fn list(&self) -> Vec<Value> {
        let each = |material: &Material| json!({"uri": material.uri, "digest": material.digest});
        self.materials.list.iter().map(each).collect()
    }

    fn v1(&self) -> Value {
        let mut definition = Map::new();
        definition.insert("buildType".into(), BUILD_TYPE_V1.into());
        if !self.materials.list.is_empty() {
            definition.insert("resolvedDependencies".into(), self.list().into());
        }
        definition.insert(
            "externalParameters".into(),
            json!({"configSource": self.request.config_source, "request": self.parameters()}),
        );
        definition.insert(
            "internalParameters".into(),
            json!({"builderPlatform": self.platform}),
        );
        let mut metadata = Map::new();
        metadata.insert("invocationId".into(), self.id.into());
        metadata.insert("startedOn".into(), self.started.clone().into());
        metadata.insert("finishedOn".into(), self.finished.clone().into());
        metadata.insert("buildkit_metadata".into(), self.buildkit_metadata());
        if self.hermetic() {
            metadata.insert("buildkit_hermetic".into(), true.into());
        }
        metadata.insert(
            "buildkit_completeness".into(),
            json!({"request": self.request.complete, "resolvedDependencies": self.complete}),
        );
        if self.wanted.reproducible {
            metadata.insert("buildkit_reproducible".into(), true.into());
        }
        json!({
            "buildDefinition": definition,
            "runDetails": {"builder": {"id": self.wanted.builder}, "metadata": metadata},
        })
    }

    fn v02(&self) -> Value {
        let mut config_source = self.request.config_source.clone();
        if let Some(path) = config_source.remove("path") {
            config_source.insert("entryPoint".into(), path);
        }
        let mut metadata = Map::new();
        metadata.insert("buildInvocationID".into(), self.id.into());
        metadata.insert("buildStartedOn".into(), self.started.clone().into());
        metadata.insert("buildFinishedOn".into(), self.finished.clone().into());
        metadata.insert(
            "completeness".into(),
            json!({
                "parameters": self.request.complete,
                "environment": true,
                "materials": self.complete,
            }),
        );
        metadata.insert("reproducible".into(), self.wanted.reproducible.into());
        metadata.insert(METADATA_V02.into(), self.buildkit_metadata());
        if self.hermetic() {
            metadata.insert(HERMETIC_V02.into(), true.into());
        }
        let mut predicate = Map::new();
        predicate.insert("builder".into(), json!({"id": self.wanted.builder}));
        predicate.insert("buildType".into(), BUILD_TYPE_V02.into());
        if !self.materials.list.is_empty() {
            predicate.insert("materials".into(), self.list().into());
        }
        predicate.insert(
            "invocation".into(),
            json!({
                "configSource": config_source,
                "parameters": self.parameters(),
                "environment": {"platform": self.platform},
            }),
        );
        predicate.insert("metadata".into(), metadata.into());
        predicate.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<Wanted, String> {
        let opts = BTreeMap::from([(REQUEST.to_owned(), text.to_owned())]);
        match Wanted::of(&opts) {
            Ok(wanted) => Ok(wanted.expect("asked for")),
            Err(error) => Err(error.message),
        }
    }

    fn origin() -> Origin {
        let opts = [
            ("attest:provenance", "mode=min"),
            ("build-arg:TOKEN", "hunter2"),
            ("context", "https://me:pw@h.example/r.git#v1:sub"),
            ("filename", "my.Dockerfile"),
            ("label:l", "hunter2"),
            ("platform", "linux/amd64"),
            ("target", "t"),
            ("vcs:revision", "abc"),
        ];
        Origin {
            frontend: "dockerfile.v0".into(),
            opts: opts.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            root: None,
        }
    }

    fn predicate(text: &str, origin: &Origin) -> (String, Value) {
        let materials = Materials {
            list: vec![Material {
                uri: "https://h.example/r.git#v1".into(),
                digest: [("sha1".to_owned(), "ab".to_owned())].into(),
            }],
            locals: vec!["dockerfile".into()],
            ..Materials::default()
        };
        let invocation = Invocation {
            id: "i".into(),
            started: OffsetDateTime::UNIX_EPOCH,
        };
        let wanted = wanted(text).unwrap();
        let made = wanted
            .attest(Some(origin), &materials, "linux/amd64", &invocation)
            .unwrap();
        let AttestationContent::Engine(bytes) = made.content else {
            panic!("the engine's own");
        };
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("pw"), "{text}");
        let value = serde_json::from_str(&text).unwrap();
        (made.attestation.in_toto_predicate_type, value)
    }

    #[test]
    fn the_request_is_told_without_values_and_passwords() {
        let (kind, predicate) = predicate("type=provenance,mode=min,builder-id=b", &origin());
        assert_eq!(kind, "https://slsa.dev/provenance/v1");
        let definition = &predicate["buildDefinition"];
        assert_eq!(
            definition["externalParameters"],
            json!({
                "configSource": {
                    "uri": "https://h.example/r.git#v1:sub",
                    "digest": {"sha1": "ab"},
                    "path": "my.Dockerfile",
                },
                "request": {
                    "frontend": "dockerfile.v0",
                    "args": {"target": "t"},
                    "locals": [{"name": "dockerfile"}],
                    "compatibilityVersion": 30,
                },
            })
        );
        assert_eq!(
            definition["resolvedDependencies"][0]["digest"]["sha1"],
            "ab"
        );
        let run = &predicate["runDetails"];
        assert_eq!(run["builder"]["id"], "b");
        assert_eq!(run["metadata"]["startedOn"], "1970-01-01T00:00:00Z");
        assert_eq!(
            run["metadata"]["buildkit_metadata"],
            json!({"vcs": {"revision": "abc"}})
        );
        assert_eq!(
            run["metadata"]["buildkit_completeness"],
            json!({"request": false, "resolvedDependencies": false})
        );
    }

    #[test]
    fn the_older_version_has_the_same_in_its_own_words() {
        let nested = Origin {
            frontend: "gateway.v0".into(),
            opts: BTreeMap::from([("source".to_owned(), "a/b".to_owned())]),
            root: Some(Arc::new(origin())),
        };
        let (kind, predicate) = predicate("mode=min,version=v0.2,reproducible=true", &nested);
        assert_eq!(kind, "https://slsa.dev/provenance/v0.2");
        assert_eq!(predicate["buildType"], BUILD_TYPE_V02);
        assert_eq!(
            predicate["materials"][0]["uri"],
            "https://h.example/r.git#v1"
        );
        let parameters = &predicate["invocation"]["parameters"];
        assert_eq!(parameters["frontend"], "gateway.v0");
        assert_eq!(parameters["root"]["request"]["frontend"], "dockerfile.v0");
        assert_eq!(predicate["metadata"]["reproducible"], true);
        assert_eq!(predicate["metadata"]["completeness"]["parameters"], false);
    }

    #[test]
    fn what_cannot_be_attested_is_refused_by_name() {
        for (text, wanted_text) in [
            ("", "mode=max is not supported yet"),
            ("mode=full", "mode=max is not supported yet"),
            ("mode=most", "invalid mode \"most\""),
            ("mode=min,version=v9", "invalid provenance SLSA version: v9"),
            ("mode=min,reproducible=maybe", "reproducible"),
            ("mode=min,secret=x", "unknown parameter \"secret\""),
            (
                "mode=min,capture-usage=true",
                "unknown parameter \"capture-usage\"",
            ),
        ] {
            let text = wanted(text).unwrap_err();
            assert!(text.contains(wanted_text), "{text}");
        }
        assert_eq!(Wanted::of(&BTreeMap::new()).unwrap(), None);
        let complete = wanted("mode=min,complete-materials=true").unwrap();
        let materials = Materials {
            locals: vec!["context".into()],
            ..Materials::default()
        };
        let invocation = Invocation {
            id: String::new(),
            started: OffsetDateTime::UNIX_EPOCH,
        };
        let refused = complete.attest(None, &materials, "linux/amd64", &invocation);
        let error = refused.err().expect("refused");
        assert!(error.message.contains("materials are incomplete"));
    }
}
