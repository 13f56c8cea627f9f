//! Containers, by path behind the account's name, and blobs in them.

use super::{Asked, Object, Reply, State, decoded, now, part_of, sign};

fn error(status: u16, code: &'static str) -> Reply {
    Reply::new(status, "").with("x-ms-error-code", code)
}

pub fn answer(asked: &Asked, state: &mut State) -> Reply {
    if !sign::azure(asked) {
        return error(403, "AuthenticationFailed");
    }
    let path = decoded(asked.path.trim_start_matches('/'));
    let (_, name) = path.split_once('/').expect("an account");
    if asked.asks("restype").as_deref() == Some("container") {
        let there = state.containers.iter().any(|known| known == name);
        return match (asked.method.as_str(), there) {
            ("GET", true) => Reply::new(200, ""),
            ("GET", false) => error(404, "ContainerNotFound"),
            (_, true) => error(409, "ContainerAlreadyExists"),
            (_, false) => {
                state.containers.push(name.to_owned());
                Reply::new(201, "")
            }
        };
    }
    let container = name.split('/').next().unwrap_or_default();
    match state.containers.iter().any(|known| known == container) {
        true => blob(asked, name.to_owned(), state),
        false => error(404, "ContainerNotFound"),
    }
}

pub fn blob(asked: &Asked, name: String, state: &mut State) -> Reply {
    if asked.header("x-ms-version").is_empty() {
        return error(400, "MissingRequiredHeader");
    }
    let exists = state.objects.contains_key(&name);
    let refused = exists && asked.header("if-none-match") == "*";
    let written = now();
    match (asked.method.as_str(), asked.asks("comp").as_deref()) {
        ("PUT", Some("block")) => {
            let id = asked.asks("blockid").expect("an id");
            let blocks = state.parts.entry(name).or_default();
            blocks.insert(id, asked.body.clone());
            Reply::new(201, "").with("x-ms-request-id", "1")
        }
        ("PUT", _) if refused => error(409, "BlobAlreadyExists"),
        ("PUT", Some("blocklist")) => {
            let list = String::from_utf8_lossy(&asked.body).into_owned();
            let mut blocks = state.parts.remove(&name).unwrap_or_default();
            let mut bytes = Vec::new();
            for part in list.split("<Latest>").skip(1) {
                let id = part.split("</Latest>").next().unwrap_or_default();
                match blocks.remove(id) {
                    Some(block) => bytes.extend(block),
                    None => return error(400, "InvalidBlockList"),
                }
            }
            state.objects.insert(name, Object { bytes, written });
            Reply::new(201, "").with("x-ms-request-id", "1")
        }
        ("PUT", None) if asked.header("x-ms-blob-type") == "BlockBlob" => {
            let bytes = asked.body.clone();
            state.objects.insert(name, Object { bytes, written });
            Reply::new(201, "").with("x-ms-request-id", "1")
        }
        ("GET" | "HEAD", None) => match state.objects.get(&name) {
            Some(object) => part_of(asked, object),
            None => error(404, "BlobNotFound"),
        },
        _ => error(400, "InvalidOperation"),
    }
}
