//! Functions that policies have here beside those of Rego: files, pins, signatures of git, and the time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_api::HttpChecksumRequest;
use gateway_solver::signature::{
    GitObject, ObjectKind, Policy, digest_question, verify_digest, verify_git_object,
};
use regorus::{Engine, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::document::Document;
use super::files::Files;

type Answer = anyhow::Result<Value>;

const VERIFY_HTTP: &str = "verify_http_pgp_signature";

/// What the functions of a policy found while it was asked.
#[derive(Debug, Default, Clone)]
pub struct Found(Arc<Mutex<Findings>>);

#[derive(Debug, Default)]
struct Findings {
    /// Digests that the image was pinned to.
    pins: Vec<String>,
    /// What must be known of a file before its signature can be verified.
    question: Option<HttpChecksumRequest>,
}

impl Found {
    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pins(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().pins)
    }

    pub fn question(&self) -> Option<HttpChecksumRequest> {
        self.lock().question.take()
    }

    fn pin(&self, digest: String) {
        let mut found = self.lock();
        if !found.pins.contains(&digest) {
            found.pins.push(digest);
        }
    }
}

/// Adds them for a question with this input.
///
/// # Errors
/// The engine has one of that name already.
pub fn add(
    engine: &mut Engine,
    document: &Document,
    input: &Value,
    files: &Files,
) -> anyhow::Result<Found> {
    let own = files.clone();
    let load = move |args: Vec<Value>| load_json(&own, &args);
    engine.add_extension("load_json".into(), 1, Box::new(load))?;

    let found = Found::default();
    let (kept, image) = (found.clone(), member(input, "image"));
    let pin = move |args: Vec<Value>| pin_image(&image, &kept, &args);
    engine.add_extension("pin_image".into(), 2, Box::new(pin))?;

    let signed = Signed {
        files: files.clone(),
        git: member(input, "git"),
        commit: document.commit.clone(),
        tag: document.tag.clone(),
    };
    let verify = move |args: Vec<Value>| signed.verify(&args);
    engine.add_extension("verify_git_signature".into(), 2, Box::new(verify))?;

    let downloaded = Downloaded {
        files: files.clone(),
        http: member(input, "http"),
        known: document.signed.clone(),
        found: found.clone(),
    };
    let verify = move |args: Vec<Value>| downloaded.verify(&args);
    engine.add_extension(VERIFY_HTTP.into(), 3, Box::new(verify))?;
    add_times(engine)?;
    Ok(found)
}

fn member(object: &Value, name: &str) -> Value {
    object[name].clone()
}

fn text<'a>(args: &'a [Value], index: usize, function: &str) -> anyhow::Result<&'a str> {
    match args.get(index) {
        Some(Value::String(text)) => Ok(text.as_ref()),
        _ => Err(anyhow::anyhow!(
            "{function}: its argument {} is no string",
            index + 1
        )),
    }
}

fn load_json(files: &Files, args: &[Value]) -> Answer {
    let name = text(args, 0, "load_json")?;
    let bytes = files.read(name);
    let bytes = bytes.map_err(|problem| anyhow::anyhow!("load_json: {name}: {problem}"))?;
    let json = String::from_utf8_lossy(&bytes);
    Value::from_json_str(&json).map_err(|error| anyhow::anyhow!("load_json: {name}: {error}"))
}

/// True for the image that is asked about, which is then used by that digest.
fn pin_image(image: &Value, found: &Found, args: &[Value]) -> Answer {
    if *image == Value::Undefined {
        return Ok(Value::from(false));
    }
    if args.first() != Some(image) {
        return Err(anyhow::anyhow!(
            "pin_image: its first argument is not input.image"
        ));
    }
    let digest = text(args, 1, "pin_image")?;
    if digest.parse::<gateway_images::digest::Digest>().is_err() {
        return Err(anyhow::anyhow!("pin_image: {digest:?} is no digest"));
    }
    if image["checksum"] != Value::from(digest) {
        found.pin(digest.to_owned());
    }
    Ok(Value::from(true))
}

/// A commit, and a tag that names it.
#[derive(Clone)]
struct Signed {
    files: Files,
    git: Value,
    commit: Vec<u8>,
    tag: Vec<u8>,
}

impl Signed {
    /// Undefined, as anything that fails, where no key of the file signed the object.
    fn verify(&self, args: &[Value]) -> Answer {
        let name = "verify_git_signature";
        if self.commit.is_empty() {
            return Ok(Value::from(false));
        }
        let given = args.first().unwrap_or(&Value::Undefined);
        let (raw, kind) = if *given == self.git["commit"] {
            (&self.commit, ObjectKind::Commit)
        } else if *given == self.git["tag"] {
            (&self.tag, ObjectKind::Tag)
        } else {
            return Err(anyhow::anyhow!("{name}: object is neither commit nor tag"));
        };
        let file = text(args, 1, name)?;
        let keys = self.files.read(file);
        let keys = keys.map_err(|problem| anyhow::anyhow!("{name}: {file}: {problem}"))?;
        let length = match &self.git["checksum"] {
            Value::String(checksum) => checksum.len(),
            _ => 0,
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let verified = GitObject::parse(raw, kind, length).and_then(|object| {
            let keys = String::from_utf8_lossy(&keys);
            verify_git_object(&object, &keys, Policy::default(), now)
        });
        Ok(match verified {
            Ok(()) => Value::from(true),
            Err(_) => Value::Undefined,
        })
    }
}

/// A file of the web, and what is known of it.
#[derive(Clone)]
struct Downloaded {
    files: Files,
    http: Value,
    known: Option<(String, Vec<u8>)>,
    found: Found,
}

impl Downloaded {
    /// Whether the file was signed by a key of another file. What that takes may have to be asked first: then it is
    /// false for now, and the policy is asked again.
    fn verify(&self, args: &[Value]) -> Answer {
        if self.http == Value::Undefined {
            return Ok(Value::from(false));
        }
        if args.first() != Some(&self.http) {
            return Err(anyhow::anyhow!(
                "{VERIFY_HTTP}: its first argument is not input.http"
            ));
        }
        let read = |index: usize| {
            let name = text(args, index, VERIFY_HTTP)?;
            let bytes = self.files.read(name);
            let bytes =
                bytes.map_err(|problem| anyhow::anyhow!("{VERIFY_HTTP}: {name}: {problem}"))?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (signature, keys) = (read(1)?, read(2)?);
        let Ok(question) = digest_question(&signature, &keys) else {
            // It does not count, whatever the file is.
            return Ok(Value::from(false));
        };
        let known = self.known.as_ref().and_then(|(digest, suffix)| {
            let (algorithm, digits) = digest.split_once(':')?;
            let fits = algorithm == question.algorithm && *suffix == question.suffix;
            hex::decode(digits).ok().filter(|_| fits)
        });
        let Some(digest) = known else {
            self.found.lock().question = Some(HttpChecksumRequest {
                algorithm: match question.algorithm {
                    "sha256" => 0,
                    "sha384" => 1,
                    _ => 2,
                },
                suffix: question.suffix,
            });
            return Ok(Value::from(false));
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let verified = verify_digest(&digest, &signature, &keys, Policy::default(), now);
        Ok(Value::from(verified.is_ok()))
    }
}

/// Those of Rego's functions of time that policies of sources use: how old something is. All in UTC.
fn add_times(engine: &mut Engine) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let now = move |_: Vec<Value>| nanoseconds(now);
    engine.add_extension("time.now_ns".into(), 0, Box::new(now))?;
    let parse = |args: Vec<Value>| {
        let text = text(&args, 0, "time.parse_rfc3339_ns")?;
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(time) => nanoseconds(time),
            Err(_) => Ok(Value::Undefined),
        }
    };
    engine.add_extension("time.parse_rfc3339_ns".into(), 1, Box::new(parse))?;
    let duration = |args: Vec<Value>| {
        let text = text(&args, 0, "time.parse_duration_ns")?;
        Ok(duration(text).map_or(Value::Undefined, Value::from))
    };
    engine.add_extension("time.parse_duration_ns".into(), 1, Box::new(duration))
}

fn nanoseconds(time: OffsetDateTime) -> Answer {
    let nanoseconds = i64::try_from(time.unix_timestamp_nanos());
    Ok(nanoseconds.map_or(Value::Undefined, Value::from))
}

/// `1h30m`, `1.5s`, `-2us`: Go's form.
fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = unit.split_at(end.unwrap_or(unit.len()));
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    (sum < i64::MAX as f64).then_some((sign * sum) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            ("0", Some(0)),
            ("720h", Some(2_592_000_000_000_000)),
            ("10", None),
            ("", None),
            ("1d", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
