//! What a policy is told of a source: the documents `input.image`, `input.http`, `input.git` and `input.local`, in the
//! form that `docker buildx` gives them. What is empty is left out, so that it is undefined there.

use gateway_api::{Error, ImageMetaRequest, ResolveSourceMetaRequest, SourceMeta};
use gateway_images::reference::Reference;
use gateway_llb::{pb, platform};
use serde_json::{Map, Value, json};

use super::words::Words;
use super::{objects, provenance};

/// Fields that the configuration of an image tells.
const OF_CONFIG: [&str; 7] = [
    "checksum",
    "labels",
    "user",
    "volumes",
    "workingDir",
    "env",
    "createdTime",
];
/// ... what vouches for it ...
const OF_ATTESTATIONS: [&str; 2] = ["hasProvenance", "provenance"];
/// ... a repository's references ...
const OF_REFS: [&str; 7] = [
    "ref",
    "checksum",
    "commitChecksum",
    "isAnnotatedTag",
    "isSHA256",
    "tagName",
    "branch",
];
/// ... its objects ...
const OF_OBJECTS: [&str; 3] = ["commit", "tag", "verify_git_signature"];
/// ... and a file of the web.
const OF_FILE: [&str; 1] = ["checksum"];
/// Attribute of http sources: who asks shows a secret.
const AUTH: &str = "http.authheadersecret";
/// Attribute of git sources: the whole address.
const FULL_URL: &str = "git.fullurl";

#[derive(Debug)]
pub struct Document {
    env: Value,
    /// `image`, `http`, `git` or `local`, and what is said of it.
    kind: Option<(&'static str, Map<String, Value>)>,
    /// Raw commit and tag, for signatures.
    pub commit: Vec<u8>,
    pub tag: Vec<u8>,
    /// A digest of a file of the web with a signature's part behind it, and that part.
    pub signed: Option<(String, Vec<u8>)>,
}

impl Document {
    /// A question about no source.
    pub fn of_nothing(env: Value) -> Document {
        Document {
            env,
            kind: None,
            commit: Vec::new(),
            tag: Vec::new(),
            signed: None,
        }
    }

    /// # Errors
    /// The source is of a kind that policies know nothing of.
    pub fn of(meta: &SourceMeta, wanted: &pb::Platform, env: Value) -> Result<Document, Error> {
        let identifier = &meta.source.identifier;
        let mut document = Document::of_nothing(env);
        let (scheme, rest) = identifier
            .split_once("://")
            .ok_or_else(|| Error::unknown(format!("invalid source identifier: {identifier}")))?;
        let kind = match scheme {
            "docker-image" => ("image", image(meta, rest, wanted)?),
            "http" | "https" => {
                let found = meta.http.as_ref();
                document.signed = found.and_then(|found| found.checksum_response.clone());
                ("http", http(meta, scheme, identifier))
            }
            "git" => {
                if let Some(found) = &meta.git {
                    document.commit.clone_from(&found.commit_object);
                    document.tag.clone_from(&found.tag_object);
                }
                ("git", git(meta, rest))
            }
            "local" => ("local", fields([("name", rest.into())])),
            other => {
                return Err(Error::unknown(format!(
                    "unsupported source scheme: {other}: policies in Rego know images, git, http and local files"
                )));
            }
        };
        document.kind = Some(kind);
        Ok(document)
    }

    pub fn is_image(&self) -> bool {
        self.part("image").is_some()
    }

    /// The description of this kind of source, if it is one.
    pub fn part(&self, name: &str) -> Option<&Map<String, Value>> {
        let (kind, part) = self.kind.as_ref()?;
        (*kind == name).then_some(part)
    }

    /// The whole document.
    pub fn input(&self) -> Value {
        let mut input = json!({"env": self.env});
        if let Some((kind, part)) = &self.kind {
            input[*kind] = Value::Object(part.clone());
        }
        input
    }

    /// What must be found out before policies of these words can be asked.
    pub fn missing(
        &self,
        meta: &SourceMeta,
        wanted: &pb::Platform,
        words: &Words,
    ) -> Option<ResolveSourceMetaRequest> {
        let mut request = ResolveSourceMetaRequest {
            source: meta.source.clone(),
            ..ResolveSourceMetaRequest::default()
        };
        match self.kind.as_ref()?.0 {
            "image" if meta.image.is_none() => {
                // A name with a digest says its checksum itself.
                let known = self.part("image")?.contains_key("checksum");
                let of_config = OF_CONFIG.get(usize::from(known)..).unwrap_or_default();
                let config = words.name_any("image", of_config);
                let attested = words.name_any("image", &OF_ATTESTATIONS);
                if !config && !attested {
                    return None;
                }
                request.platform = Some(wanted.clone());
                let predicates = match words.name_any("image", &["provenance"]) {
                    true => provenance::TYPES.map(str::to_owned).to_vec(),
                    false => Vec::new(),
                };
                request.image = Some(ImageMetaRequest {
                    no_config: !config,
                    attestation_chain: attested,
                    resolve_attestations: predicates,
                });
            }
            "git" if meta.git.is_none() => {
                let objects = words.name_any("git", &OF_OBJECTS);
                if !objects && !words.name_any("git", &OF_REFS) {
                    return None;
                }
                request.git_return_object = objects;
            }
            "http" if meta.http.is_none() && words.name_any("http", &OF_FILE) => {}
            _ => return None,
        }
        Some(request)
    }
}

/// Those that are not empty.
fn fields<const N: usize>(all: [(&str, Value); N]) -> Map<String, Value> {
    let is_empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    all.into_iter()
        .filter(|(_, value)| !is_empty(value))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn image(
    meta: &SourceMeta,
    name: &str,
    wanted: &pb::Platform,
) -> Result<Map<String, Value>, Error> {
    let reference = Reference::parse(name).map_err(|error| {
        Error::unknown(format!("failed to parse image source reference: {error}"))
    })?;
    let digest = reference.digest().map(ToString::to_string);
    let found = meta.image.as_ref();
    let checksum = match found.map(|found| found.digest.as_str()) {
        None | Some("") => digest.clone(),
        Some(found) => Some(found.to_owned()),
    };
    let plain = Reference::parse(&reference.name());
    let mut part = fields([
        ("ref", reference.to_string().into()),
        ("host", reference.domain().into()),
        (
            "repo",
            plain
                .map_or_else(|_| reference.name(), |plain| familiar(&plain))
                .into(),
        ),
        ("fullRepo", reference.name().into()),
        ("tag", reference.tag().unwrap_or_default().into()),
        ("platform", platform::format(wanted).into()),
        ("os", wanted.os.as_str().into()),
        ("arch", wanted.architecture.as_str().into()),
        ("variant", wanted.variant.as_str().into()),
        ("isCanonical", digest.is_some().into()),
        ("checksum", checksum.into()),
    ]);
    let Some(found) = found else {
        return Ok(part);
    };
    let config: Value = serde_json::from_slice(&found.config).unwrap_or_default();
    let of = |key: &str| config["config"][key].clone();
    let volumes = of("Volumes");
    let volumes: Vec<&String> = volumes
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .collect();
    part.extend(fields([
        ("createdTime", seconds(&config["created"])),
        ("env", of("Env")),
        ("labels", of("Labels")),
        ("user", of("User")),
        ("volumes", json!(volumes)),
        ("workingDir", of("WorkingDir")),
    ]));
    if let Some(chain) = &found.attestation_chain {
        let provenance = provenance::of(chain);
        let has = !chain.attestation_manifest.is_empty() || provenance.is_some();
        part.extend(fields([
            ("hasProvenance", has.into()),
            ("provenance", provenance.unwrap_or_default()),
        ]));
    }
    Ok(part)
}

/// The name without what everybody leaves out, and without its tag.
fn familiar(reference: &Reference) -> String {
    let name = reference.familiar();
    let end = name.rfind('/').map_or(0, |slash| slash + 1);
    let tag = name.get(end..).and_then(|last| last.find(':'));
    name[..tag.map_or(name.len(), |tag| end + tag)].to_owned()
}

/// A time without fractions of a second.
fn seconds(time: &Value) -> Value {
    use time::format_description::well_known::Rfc3339;
    let parsed = time
        .as_str()
        .and_then(|text| time::OffsetDateTime::parse(text, &Rfc3339).ok());
    let shown = parsed.and_then(|time| time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok());
    shown.map_or(Value::Null, Value::String)
}

fn http(meta: &SourceMeta, scheme: &str, address: &str) -> Map<String, Value> {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let slash = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(slash);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let mut values: Map<String, Value> = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let list = values.entry(decoded(&key.replace('+', " ")));
        if let Value::Array(list) = list.or_insert_with(|| json!([])) {
            list.push(decoded(&value.replace('+', " ")).into());
        }
    }
    let checksum = meta.http.as_ref().map(|found| found.checksum.clone());
    fields([
        ("url", address.into()),
        ("schema", scheme.into()),
        ("host", host.into()),
        ("path", decoded(path).into()),
        ("query", values.into()),
        ("hasAuth", meta.source.attrs.contains_key(AUTH).into()),
        ("checksum", checksum.into()),
    ])
}

/// `%41` as `A`; what is no such thing stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Scheme, host and address without what is behind `#`.
fn remote(address: &str) -> (String, String, String) {
    let address = address.split('#').next().unwrap_or_default();
    if let Some((scheme, rest)) = address.split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        return (scheme.to_owned(), host.to_owned(), address.to_owned());
    }
    // `user@host:path`
    let host = address.split(':').next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    ("ssh".to_owned(), host.to_owned(), address.to_owned())
}

fn is_transport(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn git(meta: &SourceMeta, rest: &str) -> Map<String, Value> {
    let with_scheme = |text: &str| match is_transport(text) {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let fragment = rest.split_once('#').map_or("", |(_, fragment)| fragment);
    let (asked, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let full = meta.source.attrs.get(FULL_URL).map(|url| with_scheme(url));
    let (schema, host, address) = remote(full.as_deref().unwrap_or(&with_scheme(rest)));
    let found = meta.git.as_ref();
    let reference = found.map_or(asked, |found| found.reference.as_str());
    let is_full = asked.starts_with("refs/tags/") || asked.starts_with("refs/heads/");
    let known = found.is_some() || is_full || is_commit(asked);
    let checksum = match found {
        Some(found) => found.checksum.as_str(),
        None if is_commit(asked) => asked,
        None => "",
    };
    let commit = match found.map(|found| found.commit_checksum.as_str()) {
        None | Some("") => checksum,
        Some(commit) => commit,
    };
    let subdir = subdir.trim_matches('/');
    let objects = found.map(objects::of).unwrap_or_default();
    fields([
        ("schema", schema.into()),
        ("host", host.into()),
        ("remote", address.into()),
        ("fullURL", full.into()),
        (
            "tagName",
            reference.strip_prefix("refs/tags/").unwrap_or("").into(),
        ),
        (
            "branch",
            reference.strip_prefix("refs/heads/").unwrap_or("").into(),
        ),
        ("ref", if known { reference } else { "" }.into()),
        ("subDir", if subdir == "." { "" } else { subdir }.into()),
        ("isCommitRef", is_commit(asked).into()),
        ("isSHA256", (checksum.len() == 64).into()),
        ("checksum", checksum.into()),
        ("commitChecksum", commit.into()),
        ("isAnnotatedTag", (checksum != commit).into()),
        ("commit", objects.commit),
        ("tag", objects.tag),
    ])
}

/// The image by this digest.
///
/// # Errors
/// It is no image, or that is no digest.
pub fn pinned(source: &pb::SourceOp, digest: &str) -> Result<pb::SourceOp, Error> {
    let wrong =
        |problem: String| Error::unknown(format!("failed to add image pin to source: {problem}"));
    let digest = digest
        .parse()
        .map_err(|_| wrong(format!("{digest:?} is no digest")))?;
    let name = source.identifier.strip_prefix("docker-image://");
    let name = name.ok_or_else(|| wrong(format!("{} is no image", source.identifier)))?;
    let reference = Reference::parse(name).map_err(|error| wrong(error.to_string()))?;
    Ok(pb::SourceOp {
        identifier: format!("docker-image://{}", reference.with_digest(digest)),
        ..source.clone()
    })
}
