//! The calls of GitHub's cache, version 2.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Asked, Reply, Services, State, sign};

/// An entry, once it is reserved.
pub struct Entry {
    pub key: String,
    version: String,
    finished: bool,
}

/// A token for these git refs, with what each may: 1 read, 3 also write.
pub fn token(accesses: &[(&str, u32)]) -> String {
    let list: Vec<Value> = accesses
        .iter()
        .map(|(scope, permission)| json!({"Scope": scope, "Permission": permission}))
        .collect();
    let claims = json!({
        "ac": Value::from(list).to_string(),
        "exp": 32_503_680_000_u64,
        "nbf": 1,
    });
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = json!({"alg": "HS256", "typ": "JWT"});
    format!("{}.{}.c2ln", encoded(&head), encoded(&claims))
}

impl Services {
    /// Keys of all finished entries, the oldest first.
    pub fn entries(&self) -> Vec<String> {
        let state = self.state();
        let finished = state.entries.iter().filter(|entry| entry.finished);
        finished.map(|entry| entry.key.clone()).collect()
    }

    /// The bytes of an entry.
    pub fn entry(&self, key: &str) -> Option<Vec<u8>> {
        let place = self.state().entries.iter().position(|e| e.key == key)?;
        self.object(&format!("signed/{place}"))
    }

    /// Entries whose key begins so are removed, as GitHub does with the oldest.
    pub fn evict(&self, prefix: &str) {
        for entry in &mut self.state().entries {
            if entry.key.starts_with(prefix) {
                entry.finished = false;
                entry.key.insert_str(0, "evicted-");
            }
        }
    }

    /// Somebody reserves a key and never finishes it.
    pub fn reserve(&self, key: &str, version: &str) {
        self.state().entries.push(Entry {
            key: key.to_owned(),
            version: version.to_owned(),
            finished: false,
        });
    }

    /// The time of all URLs that were given out is over.
    pub fn void_urls(&self) {
        self.state().seal += 1;
    }
}

pub fn answer(asked: &Asked, address: SocketAddr, state: &mut State) -> Reply {
    let bearer = asked.header("authorization").strip_prefix("Bearer ");
    if bearer.is_none_or(|token| token.split('.').count() != 3) {
        return Reply::new(401, r#"{"code":"unauthenticated","msg":"bad token"}"#);
    }
    let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
    let text = |name: &str| body[name].as_str().expect("a text").to_owned();
    let (key, version) = (text("key"), text("version"));
    let url = |place: usize| format!("http://{address}/signed/{place}?{}", sign::seal(state.seal));
    let method = asked.path.rsplit('/').next().unwrap_or_default();
    let reply = match method {
        "CreateCacheEntry" => {
            let taken = |entry: &Entry| entry.key == key && entry.version == version;
            if state.entries.iter().any(taken) {
                let said = r#"{"code":"already_exists","msg":"cache entry with the same key already exists"}"#;
                return Reply::new(409, said);
            }
            let upload = url(state.entries.len());
            state.entries.push(Entry {
                key,
                version,
                finished: false,
            });
            json!({"ok": true, "signed_upload_url": upload})
        }
        "FinalizeCacheEntryUpload" => {
            let place = state.entries.iter().position(|entry| entry.key == key);
            let place = place.expect("a reserved entry");
            let object = state.objects.get(&format!("signed/{place}"));
            let size = object.map_or(0, |object| object.bytes.len());
            let right = body["size_bytes"] == size;
            state.entries[place].finished = right;
            json!({"ok": right, "entry_id": place.to_string()})
        }
        "GetCacheEntryDownloadURL" => {
            let mut entries = state.entries.iter().enumerate().rev();
            let found = entries.find(|(_, entry)| {
                entry.finished && entry.version == version && entry.key.starts_with(&key)
            });
            match found {
                Some((place, entry)) => json!({
                    "ok": true,
                    "signed_download_url": url(place),
                    "matched_key": entry.key,
                }),
                None => json!({"ok": false}),
            }
        }
        _ => return Reply::new(404, r#"{"code":"bad_route","msg":"no such call"}"#),
    };
    Reply::new(200, reply.to_string()).with("content-type", "application/json")
}
