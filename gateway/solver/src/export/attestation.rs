//! What is attested of results: a frontend's attestations and the engine's own, read from where
//! they lie and turned into in-toto statements about what an exporter writes.
//!
//! The rules are the reference's (`control-session.md` 6.2, `gateway-protocol.md`): a bundle is a
//! directory of statements, and provenance is only believed when it comes from the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::{Attestation, Error, Stat, result::InTotoSubject};
use gateway_images::config::to_json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::options::ImageOptions;
use super::step_layers::Predicate;
use crate::job::{Job, JobInner};
use crate::result::ResultRef;
use crate::shared::Outcome;
use crate::solve::internal;

/// Largest file of an attestation, in bytes; the reference's number. Bills of materials of large
/// images have tens of megabytes.
const MAX_BYTES: i64 = 40 << 20;

/// Most statements in one bundle: a scanner writes a few.
const MAX_STATEMENTS: usize = 1000;

/// On the wire: a directory of statements.
const BUNDLE: i32 = 1;
/// On the wire: a subject that is the result itself, and one that is named by the frontend.
const SUBJECT_SELF: i32 = 0;
const SUBJECT_RAW: i32 = 1;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PROVENANCE: &str = "https://slsa.dev/provenance/";

/// Keys of an attestation's metadata.
const SBOM_CORE: &str = "sbom-core";
const INLINE_ONLY: &str = "inline-only";

/// An attestation and where its content is.
#[derive(Clone)]
pub struct SolvedAttestation {
    /// Without its ref.
    pub attestation: Attestation,
    pub content: AttestationContent,
}

/// See [`SolvedAttestation`].
#[derive(Clone)]
pub enum AttestationContent {
    /// A frontend's, in a result.
    Result(ResultRef),
    /// The engine's own.
    Engine(Predicate),
    Missing,
}

/// What is attested of one result: everything but the name of what it is about.
#[derive(Clone)]
pub struct Attested {
    /// Name of its file.
    pub path: String,
    pub predicate_type: String,
    predicate: Box<RawValue>,
    /// That tells more once layers are made.
    later: Option<Predicate>,
    subjects: Vec<InTotoSubject>,
    core: bool,
    /// Only for images, never for files.
    pub inline_only: bool,
}

/// The digests of something, by algorithm.
pub type Digests = BTreeMap<String, String>;

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub digest: Digests,
}

/// A statement, with the members in the order of the published types.
#[derive(Serialize)]
pub struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    #[serde(rename = "predicateType")]
    pub predicate_type: &'a str,
    subject: Vec<Subject>,
    predicate: &'a RawValue,
}

/// A statement as scanners write it.
#[derive(Deserialize)]
struct Bundled {
    #[serde(rename = "predicateType", default)]
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<Subject>>,
    predicate: Option<Box<RawValue>>,
}

/// `ALGORITHM:HEX` as a map.
fn digests(list: &[String]) -> Digests {
    list.iter()
        .filter_map(|digest| digest.split_once(':'))
        .map(|(algorithm, hex)| (algorithm.to_owned(), hex.to_owned()))
        .collect()
}

/// Reads the attestations of one result; the core bill of materials first.
///
/// # Errors
/// Content is missing, too large or no JSON; a frontend speaks of provenance.
pub async fn read(job: &Job, list: &[SolvedAttestation]) -> Outcome<Vec<Attested>> {
    let all = try_join_all(list.iter().map(|solved| one(job, solved))).await?;
    let mut all: Vec<Attested> = all.into_iter().flatten().collect();
    all.sort_by_key(|attested| !attested.core);
    Ok(all)
}

async fn one(job: &Job, solved: &SolvedAttestation) -> Outcome<Vec<Attested>> {
    let attestation = &solved.attestation;
    if attestation.kind == BUNDLE {
        let AttestationContent::Result(result) = &solved.content else {
            return Err(Error::unknown("no ref provided for attestation bundle"));
        };
        return bundle(job, attestation, result).await;
    }
    if attestation.path.is_empty() {
        return Err(Error::unknown("attestation does not have set path"));
    }
    let predicate_type = attestation.in_toto_predicate_type.clone();
    let mut later = None;
    let bytes = match &solved.content {
        AttestationContent::Engine(predicate) => {
            later = predicate.layers.is_some().then(|| predicate.clone());
            predicate.json.clone()
        }
        AttestationContent::Result(_) if predicate_type.starts_with(PROVENANCE) => {
            return Err(Error::unknown(
                "frontend may not set provenance attestations",
            ));
        }
        AttestationContent::Result(result) => file(job, result, &attestation.path).await?,
        AttestationContent::Missing => {
            return Err(Error::unknown(
                "attestation does not have available content",
            ));
        }
    };
    let subjects = attestation.in_toto_subjects.clone();
    let predicate = json(&attestation.path, &bytes)?;
    let path = attestation.path.clone();
    let made = attested(attestation, path, predicate_type, predicate, subjects);
    Ok(vec![Attested { later, ..made }])
}

fn attested(
    attestation: &Attestation,
    path: String,
    predicate_type: String,
    predicate: Box<RawValue>,
    subjects: Vec<InTotoSubject>,
) -> Attested {
    let metadata = |key: &str| attestation.metadata.get(key).map(Vec::as_slice);
    let stem = path.split('.').next().unwrap_or_default();
    Attested {
        core: metadata(SBOM_CORE) == Some(stem.as_bytes()),
        inline_only: metadata(INLINE_ONLY) == Some(b"true"),
        path,
        predicate_type,
        predicate,
        later: None,
        subjects,
    }
}

/// The same with all that can be told now that an exporter's layers are made.
///
/// # Errors
/// The store cannot be read.
pub async fn told(
    job: &Arc<JobInner>,
    list: &Arc<[Attested]>,
    options: &ImageOptions,
) -> Outcome<Arc<[Attested]>> {
    if list.iter().all(|attested| attested.later.is_none()) {
        return Ok(list.clone());
    }
    let mut told = Vec::with_capacity(list.len());
    for attested in list.iter() {
        let mut attested = attested.clone();
        if let Some(later) = &attested.later {
            let bytes = later.told(job, options).await?;
            attested.predicate = json(&attested.path, &bytes)?;
        }
        told.push(attested);
    }
    Ok(told.into())
}

fn json(path: &str, bytes: &[u8]) -> Outcome<Box<RawValue>> {
    if bytes.is_empty() {
        return RawValue::from_string("null".to_owned()).map_err(internal);
    }
    let value: &RawValue = serde_json::from_slice(bytes)
        .map_err(|error| Error::unknown(format!("attestation {path} is no JSON: {error}")))?;
    RawValue::from_string(compact(value.get())).map_err(internal)
}

/// JSON without the white space between its parts.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}

async fn file(job: &Job, result: &ResultRef, path: &str) -> Outcome<Vec<u8>> {
    let cannot = |error: Error| error.context("cannot read in-toto attestation");
    let stat = job.stat_file(result, path).await.map_err(cannot)?;
    if stat.mode & Stat::MODE_TYPE != 0 {
        return Err(cannot(Error::unknown(format!(
            "{path} is not a regular file"
        ))));
    }
    if stat.size > MAX_BYTES {
        return Err(Error::unknown(format!("{path} exceeds {MAX_BYTES} bytes")));
    }
    job.read_file(result, path, None).await.map_err(cannot)
}

async fn bundle(
    job: &Job,
    attestation: &Attestation,
    result: &ResultRef,
) -> Outcome<Vec<Attested>> {
    let dir = match attestation.path.as_str() {
        "" => "/",
        path => path,
    };
    let entries: Vec<Stat> = job.read_dir(result, dir, None).await?;
    if entries.len() > MAX_STATEMENTS {
        return Err(Error::unknown(format!(
            "attestation bundle of more than {MAX_STATEMENTS} files"
        )));
    }
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        let place = format!("{}/{name}", dir.trim_end_matches('/'));
        let bytes = file(job, result, &place).await?;
        let statement: Bundled = serde_json::from_slice(&bytes).map_err(|error| {
            Error::unknown(format!("cannot decode in-toto statement {place}: {error}"))
        })?;
        let wanted = &attestation.in_toto_predicate_type;
        if !wanted.is_empty() && *wanted != statement.predicate_type {
            return Err(Error::unknown(format!(
                "bundle entry {} does not match required predicate type {wanted}",
                statement.predicate_type
            )));
        }
        if statement.predicate_type.starts_with(PROVENANCE) {
            return Err(Error::unknown(
                "frontend may not bundle provenance attestations",
            ));
        }
        let predicate = match statement.predicate {
            Some(predicate) => predicate.get().to_owned(),
            None => "null".to_owned(),
        };
        let subjects = statement.subject.unwrap_or_default().into_iter();
        let subjects = subjects.map(|subject| InTotoSubject {
            kind: SUBJECT_RAW,
            name: subject.name,
            digest: subject
                .digest
                .iter()
                .map(|(algorithm, hex)| format!("{algorithm}:{hex}"))
                .collect(),
        });
        let path = match attestation.path.trim_matches('/') {
            "" => name.to_owned(),
            dir => format!("{dir}/{name}"),
        };
        all.push(attested(
            attestation,
            path,
            statement.predicate_type,
            json(&place, predicate.as_bytes())?,
            subjects.collect(),
        ));
    }
    Ok(all)
}

impl Attested {
    /// The statement about `results`: the files or image names that an exporter makes.
    pub fn statement(&self, results: &[Subject]) -> Outcome<Statement<'_>> {
        let itself = [InTotoSubject {
            kind: SUBJECT_SELF,
            digest: Vec::new(),
            name: String::new(),
        }];
        let wanted = match self.subjects.is_empty() {
            true => &itself[..],
            false => &self.subjects,
        };
        let mut subject = Vec::new();
        for named in wanted {
            let name = match named.name.as_str() {
                "" => "_",
                name => name,
            };
            match named.kind {
                SUBJECT_SELF => {
                    for result in results {
                        subject.push(result.clone());
                        if name != "_" {
                            subject.push(Subject {
                                name: name.to_owned(),
                                digest: result.digest.clone(),
                            });
                        }
                    }
                }
                SUBJECT_RAW => subject.push(Subject {
                    name: name.to_owned(),
                    digest: digests(&named.digest),
                }),
                kind => {
                    return Err(Error::unknown(format!(
                        "unknown attestation subject type {kind}"
                    )));
                }
            }
        }
        Ok(Statement {
            kind: STATEMENT,
            predicate_type: &self.predicate_type,
            subject,
            predicate: &self.predicate,
        })
    }

    /// The name of its file beside exported files.
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl Statement<'_> {
    /// As a blob.
    pub fn to_bytes(&self) -> Outcome<Vec<u8>> {
        to_json(self).map_err(internal)
    }

    /// As a file for people: indented.
    pub fn to_file(&self) -> Outcome<Vec<u8>> {
        // Parts that are kept as text are not indented: they become values once more.
        let text = serde_json::to_vec(self).map_err(internal)?;
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(internal)?;
        gateway_images::config::to_json_indented(&value).map_err(internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(path: &str, subjects: Vec<InTotoSubject>) -> Attested {
        let attestation = Attestation {
            kind: 0,
            metadata: BTreeMap::from([(SBOM_CORE.to_owned(), b"sbom".to_vec())]),
            reference: None,
            path: path.to_owned(),
            in_toto_predicate_type: "https://example.com/p".into(),
            in_toto_subjects: Vec::new(),
        };
        let predicate = json(path, b"{\"b\": 1.0, \"a\": \"< \\\" >\" }").unwrap();
        attested(
            &attestation,
            path.to_owned(),
            "https://example.com/p".into(),
            predicate,
            subjects,
        )
    }

    fn result() -> Subject {
        Subject {
            name: "pkg:docker/app@1".into(),
            digest: digests(&["sha256:ab".to_owned()]),
        }
    }

    #[test]
    fn a_statement_is_about_the_result_unless_it_says_otherwise() {
        let text = |subjects| {
            let attested = plain("x.json", subjects);
            let bytes = attested.statement(&[result()]).unwrap().to_bytes().unwrap();
            String::from_utf8(bytes).unwrap()
        };
        const HEAD: &str = r#"{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/p","#;
        // The predicate keeps its order and numbers; no white space between its parts.
        const TAIL: &str = r#""predicate":{"b":1.0,"a":"\u003c \" \u003e"}}"#;
        const SELF: &str = r#"{"name":"pkg:docker/app@1","digest":{"sha256":"ab"}}"#;
        assert_eq!(
            text(Vec::new()),
            format!("{HEAD}\"subject\":[{SELF}],{TAIL}")
        );
        let subject = |kind, name: &str, digest: &[&str]| InTotoSubject {
            kind,
            name: name.into(),
            digest: digest.iter().map(|d| (*d).to_owned()).collect(),
        };
        assert_eq!(
            text(vec![
                subject(SUBJECT_SELF, "again", &[]),
                subject(SUBJECT_RAW, "", &["sha256:01", "sha512:02"]),
            ]),
            format!(
                "{HEAD}\"subject\":[{SELF},{},{}],{TAIL}",
                r#"{"name":"again","digest":{"sha256":"ab"}}"#,
                r#"{"name":"_","digest":{"sha256":"01","sha512":"02"}}"#
            )
        );
        let odd = plain("x", vec![subject(7, "", &[])]);
        assert!(odd.statement(&[result()]).is_err());
    }

    #[test]
    fn the_core_of_a_bill_of_materials_is_known_by_its_name() {
        assert!(plain("sbom.spdx.json", Vec::new()).core);
        assert!(!plain("sbom-base.spdx.json", Vec::new()).core);
        assert_eq!(plain("a/b.json", Vec::new()).file_name(), "b.json");
    }

    #[test]
    fn text_that_is_no_json_is_named() {
        let error = json("a.json", b"{").unwrap_err();
        assert!(error.message.starts_with("attestation a.json is no JSON"));
        assert_eq!(json("a", b"").unwrap().get(), "null");
        assert_eq!(
            compact("{ \"a\\\\\" : \" \\\" \" }"),
            "{\"a\\\\\":\" \\\" \"}"
        );
    }
}
