//! Provenance: what a build was asked and what it was made of, as SLSA predicates in the form of
//! BuildKit's (`control-session.md` 6.2).

mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::{Attestation, Code, Error, parse_bool};
use gateway_images::config::to_json;
use gateway_images::registry::shown_url;
use gateway_solver::provenance::{Material, Materials};
use gateway_solver::usage::MachineUsage;
use gateway_solver::{AttestationContent, Predicate, ResultRef, SolvedAttestation, StepLayers};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use steps::Steps;

/// How a client asks for provenance, and the form in which a build argument does.
const REQUEST: &str = "attest:provenance";
const REQUEST_ARG: &str = "build-arg:BUILDKIT_ATTEST_PROVENANCE";

const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";
const METADATA_V02: &str = "https://mobyproject.org/buildkit@v1#metadata";
const HERMETIC_V02: &str = "https://mobyproject.org/buildkit@v1#hermetic";

const PREDICATE_V1: &str = "https://slsa.dev/provenance/v1";
const PREDICATE_V02: &str = "https://slsa.dev/provenance/v0.2";

/// Where in a predicate the layers of steps are told.
const LAYERS_V1: &str = "/runDetails/metadata/buildkit_metadata";
const LAYERS_V02: &str = "/metadata/https:~1~1mobyproject.org~1buildkit@v1#metadata";

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
    /// With the steps, the build file, and the values of build arguments and labels.
    max: bool,
    builder: String,
    filename: String,
    reproducible: bool,
    inline_only: bool,
    complete: bool,
    /// With what the steps and the machine used.
    usage: bool,
}

/// When and under which name a build ran.
pub struct Invocation {
    pub id: String,
    pub started: OffsetDateTime,
    /// When that is counted.
    pub usage: Option<MachineUsage>,
}

impl Wanted {
    /// What can be asked for; anything else is passed over.
    pub const PARAMETERS: [&str; 8] = [
        "builder-id",
        "capture-usage",
        "complete-materials",
        "filename",
        "inline-only",
        "mode",
        "reproducible",
        "version",
    ];

    /// None when nobody asked.
    ///
    /// # Errors
    /// A parameter has a value that it cannot have.
    pub fn of(opts: &BTreeMap<String, String>) -> Result<Option<Wanted>, Error> {
        let Some(text) = opts.get(REQUEST).or_else(|| opts.get(REQUEST_ARG)) else {
            return Ok(None);
        };
        let mut wanted = Wanted {
            version: Version::V1,
            max: true,
            builder: String::new(),
            filename: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
            complete: false,
            usage: false,
        };
        for field in text.split(',').filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            let flag = || match value {
                "" => Ok(false),
                value => parse_bool(value).ok_or_else(|| {
                    Error::invalid(format!(
                        "failed to parse {key} flag {value:?} of the provenance attestation"
                    ))
                }),
            };
            match key {
                "type" => {}
                "mode" => {
                    wanted.max = match value {
                        "max" | "full" => true,
                        "min" => false,
                        other => return Err(Error::invalid(format!("invalid mode {other:?}"))),
                    }
                }
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
                "capture-usage" => wanted.usage = flag()?,
                // What the reference does not know it passes over.
                _ => {}
            }
        }
        Ok(Some(wanted))
    }

    /// What a history keeps of a build, which may have asked for some as well.
    pub fn for_history(asked: Option<&Wanted>) -> Wanted {
        Wanted {
            version: Version::V1,
            max: true,
            builder: asked.map_or_else(String::new, |asked| asked.builder.clone()),
            filename: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: true,
            complete: false,
            usage: asked.is_some_and(|asked| asked.usage),
        }
    }

    /// What the steps use must be counted.
    pub fn usage(&self) -> bool {
        self.usage
    }

    /// The attestation of one result, `of`; none: of nothing.
    ///
    /// # Errors
    /// All materials must be known, and are not.
    pub fn attest(
        &self,
        origin: Option<&Origin>,
        materials: &Materials,
        of: Option<&ResultRef>,
        builder_platform: &str,
        invocation: &Invocation,
    ) -> Result<SolvedAttestation, Error> {
        let complete = materials.locals.is_empty() && !materials.incomplete;
        if self.complete && !complete {
            return Err(Error::unknown(
                "provenance materials are incomplete: directories of the client went into the build",
            ));
        }
        let told = of.filter(|_| self.max);
        let nothing = BTreeMap::new();
        let usage = match self.usage {
            true => &materials.usage,
            false => &nothing,
        };
        let steps = told
            .map(|result| Steps::of(result.definition(), usage))
            .transpose()?;
        let source = match (told, &steps) {
            (Some(result), Some(steps)) => steps::source(result.definition(), steps)?,
            _ => None,
        };
        let facts = Facts {
            wanted: self,
            request: Request::of(origin, materials, self.max),
            steps: steps.as_ref(),
            source,
            materials,
            complete,
            platform: builder_platform,
            machine: invocation
                .usage
                .as_ref()
                .filter(|_| self.usage)
                .map(MachineUsage::told),
            id: &invocation.id,
            started: rfc3339(invocation.started)?,
            finished: rfc3339(OffsetDateTime::now_utc())?,
        };
        let (predicate_type, place, predicate) = match self.version {
            Version::V1 => (PREDICATE_V1, LAYERS_V1, facts.v1()),
            Version::V02 => (PREDICATE_V02, LAYERS_V02, facts.v02()),
        };
        let json = to_json(&predicate);
        let json = json.map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        let layers = told.zip(steps).map(|(result, steps)| StepLayers {
            result: result.clone(),
            numbers: Arc::new(steps.numbers),
            place,
        });
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
            content: AttestationContent::Engine(Predicate { json, layers }),
        })
    }
}

fn rfc3339(time: OffsetDateTime) -> Result<String, Error> {
    time.format(&Rfc3339)
        .map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// A call without what is not to be told: passwords, and values of build arguments and labels
/// unless all is to be told.
struct Request {
    config_source: Map<String, Value>,
    vcs: Map<String, Value>,
    request: Map<String, Value>,
    /// The outermost call, in the same form.
    root: Option<Value>,
    /// Something was.
    omitted: bool,
}

impl Request {
    fn of(origin: Option<&Origin>, materials: &Materials, max: bool) -> Request {
        let mut made = Request {
            config_source: Map::new(),
            vcs: Map::new(),
            request: Map::new(),
            root: None,
            omitted: false,
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
            let address = key == context_key
                || key.starts_with("context:")
                || key.strip_prefix("build-arg:").is_some_and(steps::is_proxy);
            let value = match address {
                true => shown_url(value),
                false => value.clone(),
            };
            if let Some(vcs) = key.strip_prefix("vcs:") {
                if !value.is_empty() {
                    made.vcs.insert(vcs.to_owned(), shown_url(&value).into());
                }
            } else if !max && (key.starts_with("build-arg:") || key.starts_with("label:")) {
                made.omitted = true;
            } else if key == context_key && !value.is_empty() {
                made.context(&value, materials);
            } else if key == "filename" && !value.is_empty() {
                made.config_source.insert("path".into(), value.into());
            } else {
                args.insert(key.clone(), value);
            }
        }
        if !origin.frontend.is_empty() {
            made.request
                .insert("frontend".into(), origin.frontend.clone().into());
        }
        if !args.is_empty() {
            made.request.insert("args".into(), json!(args));
        }
        if let Some(root) = &origin.root {
            let root = Request::of(Some(root), materials, max);
            let same = root.config_source == made.config_source && root.request == made.request;
            let empty = root.request.is_empty() && !root.omitted;
            if !empty && !same {
                made.omitted |= root.omitted;
                let told = json!({"configSource": root.config_source, "request": root.request});
                made.root = Some(told);
            }
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
    steps: Option<&'a Steps>,
    source: Option<Value>,
    materials: &'a Materials,
    complete: bool,
    platform: &'a str,
    /// What the machine used.
    machine: Option<Vec<Value>>,
    id: &'a str,
    started: String,
    finished: String,
}

impl Facts<'_> {
    /// The request with the client's directories and the version of the behaviour.
    fn parameters(&self) -> Value {
        let mut request = self.request.request.clone();
        if self.wanted.max {
            for (key, given) in [
                ("secrets", &self.materials.secrets),
                ("ssh", &self.materials.ssh),
            ] {
                let given = given.iter().map(|(id, optional)| match optional {
                    true => json!({"id": id, "optional": true}),
                    false => json!({"id": id}),
                });
                let given: Vec<Value> = given.collect();
                if !given.is_empty() {
                    request.insert(key.into(), given.into());
                }
            }
        }
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

    /// A call is known, and all of it told.
    fn request_complete(&self) -> bool {
        self.request.request.contains_key("frontend") && !self.request.omitted
    }

    fn buildkit_metadata(&self) -> Value {
        let mut told = Map::new();
        if !self.request.vcs.is_empty() {
            told.insert("vcs".into(), self.request.vcs.clone().into());
        }
        if let Some(source) = &self.source {
            told.insert("source".into(), source.clone());
        }
        if let Some(machine) = &self.machine {
            told.insert("sysUsage".into(), machine.clone().into());
        }
        told.into()
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
        let mut internal = Map::new();
        if let Some(steps) = self.steps {
            internal.insert("buildConfig".into(), steps.told().into());
        }
        internal.insert("builderPlatform".into(), self.platform.into());
        definition.insert("internalParameters".into(), internal.into());
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
            json!({"request": self.request_complete(), "resolvedDependencies": self.complete}),
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
                "parameters": self.request_complete(),
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
        if let Some(steps) = self.steps {
            predicate.insert("buildConfig".into(), steps.told().into());
        }
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
            secrets: [("a".to_owned(), true), ("b".to_owned(), false)].into(),
            ssh: [("default".to_owned(), true)].into(),
            ..Materials::default()
        };
        let invocation = Invocation {
            id: "i".into(),
            started: OffsetDateTime::UNIX_EPOCH,
            usage: None,
        };
        let wanted = wanted(text).unwrap();
        let made = wanted
            .attest(Some(origin), &materials, None, "linux/amd64", &invocation)
            .unwrap();
        let AttestationContent::Engine(told) = made.content else {
            panic!("the engine's own");
        };
        let text = String::from_utf8(told.json).unwrap();
        assert!(!text.contains("pw"), "{text}");
        assert_eq!(wanted.max, text.contains("hunter2"), "{text}");
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
    fn all_is_told_where_all_is_wanted_but_no_passwords() {
        let mut origin = origin();
        origin.opts.insert(
            "build-arg:HTTP_PROXY".to_owned(),
            "http://me:pw@p.example/".to_owned(),
        );
        let root = Origin {
            frontend: String::new(),
            opts: BTreeMap::from([("label:l".to_owned(), "v".to_owned())]),
            root: None,
        };
        origin.root = Some(Arc::new(root));
        for text in ["", "type=provenance", "mode=full"] {
            let (_, predicate) = predicate(text, &origin);
            assert_eq!(
                predicate["buildDefinition"]["externalParameters"]["request"],
                json!({
                    "frontend": "dockerfile.v0",
                    "args": {
                        "build-arg:HTTP_PROXY": "http://p.example/",
                        "build-arg:TOKEN": "hunter2",
                        "label:l": "hunter2",
                        "target": "t",
                    },
                    "secrets": [{"id": "a", "optional": true}, {"id": "b"}],
                    "ssh": [{"id": "default", "optional": true}],
                    "locals": [{"name": "dockerfile"}],
                    "root": {"configSource": {}, "request": {"args": {"label:l": "v"}}},
                    "compatibilityVersion": 30,
                })
            );
            assert_eq!(
                predicate["runDetails"]["metadata"]["buildkit_completeness"]["request"],
                true
            );
        }
    }

    #[test]
    fn a_history_has_all_and_the_name_of_the_builder() {
        assert!(Wanted::for_history(None).max);
        let asked = wanted("mode=min,version=v0.2,builder-id=b,filename=f").unwrap();
        let kept = Wanted::for_history(Some(&asked));
        assert_eq!((kept.max, kept.version), (true, Version::V1));
        assert_eq!(kept.builder, "b");
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
        assert_eq!(wanted("mode=min,no-such-parameter=x"), wanted("mode=min"));
        assert_eq!(wanted("reproducible=T"), wanted("reproducible=true"));
        for (text, wanted_text) in [
            ("mode=most", "invalid mode \"most\""),
            ("mode=min,version=v9", "invalid provenance SLSA version: v9"),
            ("mode=min,reproducible=maybe", "reproducible"),
            ("mode=min,capture-usage=maybe", "capture-usage"),
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
            usage: None,
        };
        let refused = complete.attest(None, &materials, None, "linux/amd64", &invocation);
        let error = refused.err().expect("refused");
        assert!(error.message.contains("materials are incomplete"));
    }
}
