//! One blob of Azure's storage by its URL: what the cache of GitHub Actions and containers of Azure both are made of.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use gateway_images::registry::{SourceReader, WebCall, WebResponse};
use time::OffsetDateTime;
use url::Url;

use super::net::{Net, RemoteError, piece, shown};
use super::sign::{azure_text, hmac};

/// The version of the API that is spoken.
const VERSION: &str = "2021-12-02";
/// Larger blobs are sent in blocks of at least this size.
const BLOCK: u64 = 8 << 20;
/// The service takes no more blocks of one blob.
const MAX_BLOCKS: u64 = 50_000;
/// Blocks of one blob that are on their way at one time.
const BLOCKS_AT_ONCE: usize = 4;

/// The key of a storage account. Not to be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountKey {
    pub account: String,
    key: Vec<u8>,
}

impl AccountKey {
    /// `None` when the key is no base64.
    pub fn new(account: &str, key: &str) -> Option<AccountKey> {
        Some(AccountKey {
            account: account.to_owned(),
            key: STANDARD.decode(key.trim()).ok()?,
        })
    }
}

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccountKey({}, ..)", self.account)
    }
}

/// A call, signed when there is a key; else the URL holds its own signature.
pub fn call(
    key: Option<&AccountKey>,
    method: &'static str,
    url: &str,
    own: &[(&str, &str)],
    body: Bytes,
) -> Result<WebCall, RemoteError> {
    let wrong = |error: url::ParseError| RemoteError::Answer(format!("{}: {error}", shown(url)));
    let url = Url::parse(url).map_err(wrong)?;
    let mut headers: Vec<(String, String)> = own
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    headers.push(("x-ms-version".into(), VERSION.into()));
    headers.push(("x-ms-date".into(), date(OffsetDateTime::now_utc())));
    if let Some(key) = key {
        let text = azure_text(&key.account, method, &url, &headers, body.len());
        let signature = STANDARD.encode(hmac(&key.key, text.as_bytes()));
        let login = format!("SharedKey {}:{signature}", key.account);
        headers.push(("authorization".into(), login));
    }
    Ok(WebCall {
        method,
        url: url.into(),
        headers,
        body,
    })
}

/// A date as HTTP writes it.
fn date(now: OffsetDateTime) -> String {
    let day = &now.weekday().to_string()[..3];
    let month = &now.month().to_string()[..3];
    let (hour, minute, second) = now.to_hms();
    format!(
        "{day}, {:02} {month} {:04} {hour:02}:{minute:02}:{second:02} GMT",
        now.day(),
        now.year()
    )
}

/// A URL with more of a query.
pub fn with_query(url: &str, query: &str) -> String {
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}{query}")
}

pub async fn get(
    net: &Net,
    key: Option<&AccountKey>,
    url: &str,
    from: u64,
) -> Result<WebResponse, RemoteError> {
    let range = format!("bytes={from}-");
    let headers: &[_] = if from > 0 {
        &[("x-ms-range", range.as_str())]
    } else {
        &[]
    };
    net.send(|| call(key, "GET", url, headers, Bytes::new()))
        .await
}

/// Writes a blob of this size. `new` refuses one that is there.
pub async fn put(
    net: &Net,
    key: Option<&AccountKey>,
    url: &str,
    size: u64,
    mut source: SourceReader,
    new: bool,
) -> Result<(), RemoteError> {
    let condition: &[_] = if new { &[("if-none-match", "*")] } else { &[] };
    if size <= BLOCK {
        let body = piece(&mut source, size).await?;
        let mut headers = vec![("x-ms-blob-type", "BlockBlob")];
        headers.extend(condition);
        net.send(|| call(key, "PUT", url, &headers, body.clone()))
            .await?;
        return Ok(());
    }
    let block = BLOCK.max(size.div_ceil(MAX_BLOCKS));
    let mut running = FuturesUnordered::new();
    let (mut sent, mut number) = (0, 0_u32);
    let mut list = String::new();
    while sent < size || !running.is_empty() {
        if sent < size && running.len() < BLOCKS_AT_ONCE {
            let body = piece(&mut source, block.min(size - sent)).await?;
            sent += body.len() as u64;
            // Ids of one blob must be equally long.
            let id = STANDARD.encode(format!("block-{number:08}"));
            number += 1;
            list.push_str(&format!("<Latest>{id}</Latest>"));
            let id = super::sign::encoded(&id, false);
            let place = with_query(url, &format!("comp=block&blockid={id}"));
            running.push(async move {
                net.send(|| call(key, "PUT", &place, &[], body.clone()))
                    .await
                    .map(drop)
            });
            continue;
        }
        if let Some(done) = running.next().await {
            done?;
        }
    }
    let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
    let body = Bytes::from(body);
    let place = with_query(url, "comp=blocklist");
    net.send(|| call(key, "PUT", &place, condition, body.clone()))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_that_of_http() {
        let day = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        assert_eq!(date(day), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = AccountKey::new("account", "c2VjcmV0").unwrap();
        assert_eq!(format!("{key:?}"), "AccountKey(account, ..)");
        assert!(AccountKey::new("account", "no base64!").is_none());
    }
}
