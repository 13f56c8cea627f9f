//! Buckets, by path.

use std::collections::BTreeMap;

use super::{Asked, Object, Reply, State, decoded, now, part_of, sign};

fn error(status: u16, code: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said &lt;no&gt;</Message></Error>"
    );
    Reply::new(status, body)
}

pub fn answer(asked: &Asked, state: &mut State) -> Reply {
    if let Some(code) = sign::aws(asked) {
        return error(403, code);
    }
    let name = decoded(asked.path.trim_start_matches('/'));
    if name.starts_with("nobody/") {
        return error(404, "NoSuchBucket");
    }
    let upload = asked.asks("uploadId");
    match (asked.method.as_str(), upload) {
        ("POST", None) if asked.asks("uploads").is_some() => {
            let id = format!("up/{}+=", state.asked.len());
            state.parts.insert(id.clone(), BTreeMap::new());
            Reply::new(200, format!("<R><UploadId>{id}</UploadId></R>"))
        }
        ("PUT", Some(id)) => {
            let Some(parts) = state.parts.get_mut(&id) else {
                return error(404, "NoSuchUpload");
            };
            let number: u32 = asked
                .asks("partNumber")
                .expect("a number")
                .parse()
                .expect("one");
            parts.insert(format!("{number:05}"), asked.body.clone());
            Reply::new(200, "").with("etag", format!("\"part-{number}\""))
        }
        ("POST", Some(id)) => {
            let Some(parts) = state.parts.remove(&id) else {
                return error(404, "NoSuchUpload");
            };
            let named = String::from_utf8_lossy(&asked.body).into_owned();
            let all = (1..=parts.len()).map(|number| {
                format!(
                    "<Part><ETag>\"part-{number}\"</ETag><PartNumber>{number}</PartNumber></Part>"
                )
            });
            let same = |text: &str| text.replace("&quot;", "\"").replace("&#34;", "\"");
            if !same(&named).contains(&all.collect::<String>()) {
                return error(400, "InvalidPart");
            }
            let bytes = parts.into_values().flatten().collect();
            put(state, name, bytes);
            Reply::new(200, "<R><ETag>\"whole\"</ETag></R>")
        }
        ("DELETE", Some(id)) => {
            state.parts.remove(&id);
            Reply::new(204, "")
        }
        ("PUT", None) => {
            let source = asked.header("x-amz-copy-source");
            if source.is_empty() {
                put(state, name, asked.body.clone());
                return Reply::new(200, "").with("etag", "\"x\"");
            }
            let Some(source) = state.objects.get(&decoded(source)) else {
                return error(404, "NoSuchKey");
            };
            let bytes = source.bytes.clone();
            put(state, name, bytes);
            Reply::new(
                200,
                "<CopyObjectResult><ETag>\"x\"</ETag></CopyObjectResult>",
            )
        }
        ("GET" | "HEAD", None) => match state.objects.get(&name) {
            Some(object) => part_of(asked, object),
            None => error(404, "NoSuchKey"),
        },
        _ => error(405, "MethodNotAllowed"),
    }
}

fn put(state: &mut State, name: String, bytes: Vec<u8>) {
    let written = now();
    state.objects.insert(name, Object { bytes, written });
}
