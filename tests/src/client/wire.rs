//! The messages, as far as tests need them; fields that nobody looks at are left out.

use std::collections::BTreeMap;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct BytesMessage {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Definition {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub def: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Exporter {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// A cache to read or to write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CacheEntry {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Caches {
    #[prost(message, repeated, tag = "4")]
    pub exports: Vec<CacheEntry>,
    #[prost(message, repeated, tag = "5")]
    pub imports: Vec<CacheEntry>,
}

/// `Control.Solve`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub definition: Option<Definition>,
    #[prost(string, tag = "5")]
    pub session: String,
    #[prost(string, tag = "6")]
    pub frontend: String,
    #[prost(btree_map = "string, string", tag = "7")]
    pub options: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub cache: Option<Caches>,
    #[prost(string, repeated, tag = "9")]
    pub entitlements: Vec<String>,
    #[prost(message, repeated, tag = "13")]
    pub exporters: Vec<Exporter>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveResponse {
    #[prost(btree_map = "string, string", tag = "1")]
    pub exporter: BTreeMap<String, String>,
}

/// `Control.Status`, and `LLBBridge.Evaluate`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Named {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Progress {
    #[prost(message, repeated, tag = "1")]
    pub vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "3")]
    pub logs: Vec<Log>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Vertex {
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(bool, tag = "4")]
    pub cached: bool,
    #[prost(string, tag = "7")]
    pub error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Log {
    #[prost(bytes = "vec", tag = "4")]
    pub text: Vec<u8>,
}

/// `LLBBridge.Solve`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BridgeSolveRequest {
    #[prost(message, optional, tag = "1")]
    pub definition: Option<Definition>,
    #[prost(string, tag = "2")]
    pub frontend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub options: BTreeMap<String, String>,
    #[prost(bool, tag = "5")]
    pub return_result: bool,
    #[prost(bool, tag = "14")]
    pub evaluate: bool,
}

/// `LLBBridge.Return` with nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReturnRequest {
    #[prost(message, optional, tag = "1")]
    pub result: Option<Nothing>,
}

/// `ListenBuildHistory`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HistoryRequest {
    #[prost(bool, tag = "1")]
    pub active_only: bool,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(bool, tag = "3")]
    pub early_exit: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HistoryEvent {
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub record: Option<HistoryRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HistoryRecord {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    #[prost(string, tag = "1")]
    pub path: String,
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(int64, tag = "5")]
    pub size: i64,
    #[prost(int64, tag = "6")]
    pub time: i64,
    #[prost(string, tag = "7")]
    pub link: String,
    #[prost(int64, tag = "8")]
    pub major: i64,
    #[prost(int64, tag = "9")]
    pub minor: i64,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

pub const STAT: i32 = 0;
pub const REQ: i32 = 1;
pub const DATA: i32 = 2;
pub const FIN: i32 = 3;
pub const ERR: i32 = 4;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Packet {
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub data: bytes::Bytes,
}

/// `LLBBridge.NewContainer`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewContainerRequest {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(int32, tag = "3")]
    pub network: i32,
}
