//! Signatures of requests: AWS Signature Version 4, and the shared keys of Azure. Both are HMACs over a canonical
//! form of the request.

use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;
use url::Url;

const AMZ_DATE: &[FormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
const SERVICE: &str = "s3";

/// HMAC-SHA256; a key may have any length.
pub fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // `new_from_slice` of an HMAC fails for no length.
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| Vec::new(),
        |mut mac| {
            mac.update(text);
            mac.finalize().into_bytes().to_vec()
        },
    )
}

/// Percent-encoded but for what needs none; `/` stays where `slash` says so.
pub fn encoded(text: &str, slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if slash => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `host[:port]` as a client sends it.
pub fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

/// A login of AWS.
pub struct AwsLogin<'a> {
    pub key_id: &'a str,
    pub secret: &'a str,
    pub token: Option<&'a str>,
    pub region: &'a str,
}

/// Adds what signs a request to S3: its time, the digest of its body, the session's token, the signature. The headers
/// that are there already are signed with it.
pub fn aws(
    login: &AwsLogin,
    method: &str,
    url: &Url,
    headers: &mut Vec<(String, String)>,
    body: &[u8],
    now: OffsetDateTime,
) {
    // A date of any year can be written so.
    let time = now.format(AMZ_DATE).unwrap_or_default();
    let date = time.get(..8).unwrap_or_default();
    let hash = hex::encode(Sha256::digest(body));
    headers.push(("x-amz-date".into(), time.clone()));
    headers.push(("x-amz-content-sha256".into(), hash.clone()));
    if let Some(token) = login.token {
        headers.push(("x-amz-security-token".into(), token.to_owned()));
    }
    let mut signed: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    signed.push(("host".into(), host(url)));
    signed.sort();
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let lines: String = signed.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    let mut query: Vec<String> = url
        .query_pairs()
        .map(|(key, value)| format!("{}={}", encoded(&key, false), encoded(&value, false)))
        .collect();
    query.sort();
    let request = format!(
        "{method}\n{}\n{}\n{lines}\n{names}\n{hash}",
        url.path(),
        query.join("&")
    );
    let scope = format!("{date}/{}/{SERVICE}/aws4_request", login.region);
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hex::encode(Sha256::digest(request))
    );
    let mut key = hmac(format!("AWS4{}", login.secret).as_bytes(), date.as_bytes());
    for part in [login.region, SERVICE, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    let signature = hex::encode(hmac(&key, text.as_bytes()));
    headers.push((
        "authorization".into(),
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            login.key_id
        ),
    ));
}

/// What is signed of a request to Azure's blobs with the account's key.
pub fn azure_text(
    account: &str,
    method: &str,
    url: &Url,
    headers: &[(String, String)],
    length: usize,
) -> String {
    let header = |name: &str| {
        let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    };
    let length = match length {
        0 => String::new(),
        length => length.to_string(),
    };
    let mut ms: Vec<(String, &str)> = headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.trim()))
        .filter(|(name, _)| name.starts_with("x-ms-"))
        .collect();
    ms.sort();
    let ms: String = ms.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    let mut query: Vec<(String, String)> = url
        .query_pairs()
        .map(|(key, value)| (key.to_lowercase(), value.into_owned()))
        .collect();
    query.sort();
    let query: String = query.iter().map(|(n, v)| format!("\n{n}:{v}")).collect();
    // By place: encoding, language, length, MD5, type, date, the conditions, range.
    format!(
        "{method}\n\n\n{length}\n\n{}\n\n\n{}\n{}\n\n{}\n{ms}/{account}{}{query}",
        header("content-type"),
        header("if-match"),
        header("if-none-match"),
        header("range"),
        url.path(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> AwsLogin<'static> {
        AwsLogin {
            key_id: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            token: None,
            region: "us-east-1",
        }
    }

    fn signed(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let url = Url::parse(url).unwrap();
        let own = headers.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        let mut headers: Vec<(String, String)> = own.collect();
        let now = OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap();
        aws(&login(), method, &url, &mut headers, body, now);
        headers.pop().unwrap().1
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let base = signed("GET", "https://b.example/k?a=1&b=2", &[], b"");
        assert!(base.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date,"));
        assert_eq!(base, signed("GET", "https://b.example/k?b=2&a=1", &[], b""));
        for other in [
            signed("PUT", "https://b.example/k?a=1&b=2", &[], b""),
            signed("GET", "https://c.example/k?a=1&b=2", &[], b""),
            signed("GET", "https://b.example:81/k?a=1&b=2", &[], b""),
            signed("GET", "https://b.example/l?a=1&b=2", &[], b""),
            signed("GET", "https://b.example/k?a=1&b=3", &[], b""),
            signed(
                "GET",
                "https://b.example/k?a=1&b=2",
                &[("range", "bytes=1-")],
                b"",
            ),
            signed("GET", "https://b.example/k?a=1&b=2", &[], b"x"),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Made with botocore 1.43 (`S3SigV4Auth`), for the calls that a cache makes.
    #[test]
    fn signatures_of_aws_are_those_of_its_own_client() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let now = OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap();
        let thousand = [b'x'; 1000];
        let copy: &[(&str, &str)] = &[
            ("x-amz-copy-source", "team/blobs/sha256%3A00ff"),
            ("x-amz-metadata-directive", "REPLACE"),
            ("x-amz-meta-updated-at", "now"),
        ];
        let none: &[(&str, &str)] = &[];
        let cases: [(_, _, _, _, _, &[u8], _); 6] = [
            (
                None,
                "us-east-1",
                "HEAD",
                "https://team.s3.us-east-1.amazonaws.com/blobs/sha256%3A00ff",
                none,
                b"",
                "fe4b8c657302bcb2358d4afbdb4fe22fac75ddc89cc080d751b34b453b0f4f2c",
            ),
            (
                None,
                "eu-west-3",
                "GET",
                "http://127.0.0.1:9000/team/a%20b/blobs/sha256%3A00ff",
                none,
                b"",
                "2642b3928a29172a08a49e421e17f779966d48c97c2a3aa2d7d144a69eb98020",
            ),
            (
                Some("the/token+="),
                "eu-west-3",
                "PUT",
                "https://minio.example:9000/team/manifests/buildkit",
                none,
                br#"{"layers":[]}"#,
                "d19a5edee2ff314d738328b313ae49928bd9dec8cf908ca4c5f0c26c325573ab",
            ),
            (
                None,
                "us-east-1",
                "PUT",
                "https://minio.example/team/k?partNumber=2&uploadId=a%2Fb%2Bc%3D",
                none,
                &thousand,
                "773465f017b45a7e063527c91cde8b3f44c89eae242e4d20868b7537ab6b4719",
            ),
            (
                None,
                "us-east-1",
                "POST",
                "https://minio.example/team/k?uploads=",
                none,
                b"",
                "0819ef6e05013400f44e4970e5139c6f2f57f7777c49eccb34b66898e0a73ee1",
            ),
            (
                None,
                "us-east-1",
                "PUT",
                "https://team.s3.us-east-1.amazonaws.com/k",
                copy,
                b"",
                "f2278f599a1f839594efe9a924da8575e2fe94f341e07c76a9f0123d300cc6d2",
            ),
        ];
        for (token, region, method, url, own, body, expected) in cases {
            let login = AwsLogin {
                key_id: "AKIDEXAMPLE",
                secret,
                token,
                region,
            };
            let parsed = Url::parse(url).unwrap();
            let own = own.iter().map(|(n, v)| ((*n).into(), (*v).into()));
            let mut headers: Vec<(String, String)> = own.collect();
            aws(&login, method, &parsed, &mut headers, body, now);
            let (_, login) = headers.pop().unwrap();
            assert!(
                login.ends_with(&format!("Signature={expected}")),
                "{url}: {login}"
            );
        }
    }

    /// Made with azure-storage-blob 12 (`SharedKeyCredentialPolicy`).
    #[test]
    fn signatures_of_azure_are_those_of_its_own_client() {
        use base64::Engine as _;
        for (method, url, own, length, expected) in [
            (
                "HEAD",
                "https://acc.blob.example/c/blobs/sha256%3A00ff",
                &[][..],
                0,
                "lJdU4AEJb8GdNZe/1LaszPD9S2Jufy5kqq6qvzUdWiw=",
            ),
            (
                "GET",
                "https://acc.blob.example/c/team/blobs/sha256%3A00ff",
                &[("x-ms-range", "bytes=5-")],
                0,
                "t29bnP21bCUxijHRb21SG4Pk0kOKPAsjgbyi4mvV33I=",
            ),
            (
                "PUT",
                "https://acc.blob.example/c/manifests/buildkit",
                &[("x-ms-blob-type", "BlockBlob"), ("if-none-match", "*")],
                3,
                "BpLoqF3H5qJbmmAB3JaDWIVYGhuOu9QXVpVq1O2fRFQ=",
            ),
            (
                "PUT",
                "https://acc.blob.example/c/b?comp=block&blockid=QUJD%3D",
                &[],
                1000,
                "Dp5gzvkr6JiKBG+4fYcnYDUH9O/K6D5JaUK4VJfXSsg=",
            ),
            (
                "GET",
                "http://127.0.0.1:10000/acc/c?restype=container",
                &[],
                0,
                "1eMpH64im03UQqCgfA3mPFWIoTDRyivSOzKXa5CpsHw=",
            ),
        ] {
            let date = ("x-ms-date", "Sun, 06 Nov 1994 08:49:37 GMT");
            let all = own.iter().chain([&date, &("x-ms-version", "2021-12-02")]);
            let all: Vec<(String, String)> = all.map(|(n, v)| ((*n).into(), (*v).into())).collect();
            let url = Url::parse(url).unwrap();
            let text = azure_text("acc", method, &url, &all, length);
            let signature = hmac(b"secret-key", text.as_bytes());
            let signature = base64::engine::general_purpose::STANDARD.encode(signature);
            assert_eq!(signature, expected, "{method} {url}");
        }
    }

    #[test]
    fn hmacs_are_those_of_the_standard() {
        // RFC 4231, test case 2.
        assert_eq!(
            hex::encode(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn names_are_encoded_byte_by_byte() {
        assert_eq!(encoded("a b/ü:~", true), "a%20b/%C3%BC%3A~");
        assert_eq!(encoded("a/b", false), "a%2Fb");
    }

    #[test]
    fn a_text_for_azure_has_every_place() {
        let url = Url::parse("https://acc.blob.example/c/b?comp=block&blockid=QQ%3D%3D").unwrap();
        let headers = [
            ("x-ms-version".to_owned(), "2021-12-02".to_owned()),
            ("x-ms-date".to_owned(), "now".to_owned()),
            ("If-None-Match".to_owned(), "*".to_owned()),
        ];
        assert_eq!(
            azure_text("acc", "PUT", &url, &headers, 3),
            "PUT\n\n\n3\n\n\n\n\n\n*\n\n\nx-ms-date:now\nx-ms-version:2021-12-02\n/acc/c/b\nblockid:QQ==\ncomp:block"
        );
    }
}
