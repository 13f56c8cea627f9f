//! Definitions: a few operations, one on top of the other.

use std::collections::BTreeMap;

use prost::Message;
use sha2::{Digest, Sha256};

use super::wire::Definition;

#[derive(Clone, PartialEq, prost::Message)]
struct Input {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    index: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Op {
    #[prost(message, repeated, tag = "1")]
    inputs: Vec<Input>,
    #[prost(message, optional, tag = "2")]
    exec: Option<Exec>,
    #[prost(message, optional, tag = "3")]
    source: Option<Source>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Source {
    #[prost(string, tag = "1")]
    identifier: String,
    #[prost(btree_map = "string, string", tag = "2")]
    attrs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Exec {
    #[prost(message, optional, tag = "1")]
    meta: Option<Meta>,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
    #[prost(int32, tag = "3")]
    network: i32,
    #[prost(int32, tag = "4")]
    security: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Meta {
    #[prost(string, repeated, tag = "1")]
    args: Vec<String>,
    #[prost(string, tag = "3")]
    cwd: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mount {
    #[prost(int64, tag = "1")]
    input: i64,
    #[prost(string, tag = "3")]
    dest: String,
    #[prost(int64, tag = "4")]
    output: i64,
}

/// What a step may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rights {
    pub host_network: bool,
    pub insecure: bool,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Operations, the last one being the result.
fn chain(ops: Vec<Op>) -> Definition {
    let mut def: Vec<Vec<u8>> = Vec::new();
    for mut op in ops {
        if let Some(before) = def.last() {
            op.inputs = vec![Input {
                digest: digest(before),
                index: 0,
            }];
        }
        def.push(op.encode_to_vec());
    }
    let last = Op {
        inputs: vec![Input {
            digest: digest(def.last().expect("an operation")),
            index: 0,
        }],
        ..Op::default()
    };
    def.push(last.encode_to_vec());
    Definition { def }
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> Op {
    Op {
        source: Some(Source {
            identifier: identifier.to_owned(),
            attrs: attrs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }),
        ..Op::default()
    }
}

/// A directory of the client.
pub fn local(name: &str, attrs: &[(&str, &str)]) -> Definition {
    chain(vec![source(&format!("local://{name}"), attrs)])
}

/// A command on an image.
pub fn run(image: &str, args: &[&str], rights: Rights) -> Definition {
    let exec = Exec {
        meta: Some(Meta {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            cwd: "/".to_owned(),
        }),
        mounts: vec![Mount {
            input: 0,
            dest: "/".to_owned(),
            output: 0,
        }],
        network: i32::from(rights.host_network),
        security: i32::from(rights.insecure),
    };
    let step = Op {
        exec: Some(exec),
        ..Op::default()
    };
    chain(vec![source(&format!("docker-image://{image}"), &[]), step])
}
