//! One record of a usage list.

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What kind of thing a record is, in the reference's words. `Image` is ours: the reference keeps
/// images elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordType {
    Regular,
    LocalSource,
    GitCheckout,
    CacheMount,
    Frontend,
    Internal,
    /// The blobs of a named image that no layer of the cache has.
    Image,
}

impl RecordType {
    pub fn as_str(self) -> &'static str {
        match self {
            RecordType::Regular => "regular",
            RecordType::LocalSource => "source.local",
            RecordType::GitCheckout => "source.git.checkout",
            RecordType::CacheMount => "exec.cachemount",
            RecordType::Frontend => "frontend",
            RecordType::Internal => "internal",
            RecordType::Image => "image",
        }
    }

    /// Of a layer's row; what is not known counts as regular.
    pub fn parse(text: &str) -> RecordType {
        [
            RecordType::LocalSource,
            RecordType::GitCheckout,
            RecordType::CacheMount,
            RecordType::Frontend,
            RecordType::Internal,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .unwrap_or(RecordType::Regular)
    }
}

/// What is told of one thing in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRecord {
    pub id: String,
    /// Its content may change: cache mounts, copies of repositories.
    pub mutable: bool,
    /// A running build uses it, or it is no garbage by its nature.
    pub in_use: bool,
    /// In bytes, as the disk counts them.
    pub size: u64,
    /// Records that must stay as long as this one.
    pub parents: Vec<String>,
    /// Nanoseconds since the epoch, like all times here; RFC 3339 in JSON.
    #[serde(serialize_with = "as_time")]
    pub created_at: i64,
    #[serde(serialize_with = "as_optional_time")]
    pub last_used_at: Option<i64>,
    pub usage_count: u64,
    #[serde(serialize_with = "as_text")]
    pub record_type: RecordType,
    /// A named image has it too.
    pub shared: bool,
    pub description: String,
}

/// As text in UTC; numbers that are no time as they are.
pub fn time_text(nanoseconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| nanoseconds.to_string())
}

fn as_time<S: Serializer>(time: &i64, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&time_text(*time))
}

fn as_optional_time<S: Serializer>(time: &Option<i64>, out: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_time(time, out),
        None => out.serialize_none(),
    }
}

fn as_text<S: Serializer>(kind: &RecordType, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(kind.as_str())
}
