//! The bytes of ops, and their digests.

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::pb;

/// The canonical bytes of an op: those that Go's deterministic encoder makes, with the kind of
/// the op after all other fields (observed). Other encodings are read as well, but have other
/// digests, and find no cache.
pub fn encode_op(op: &pb::Op) -> Vec<u8> {
    let around = pb::Op {
        inputs: op.inputs.clone(),
        platform: op.platform.clone(),
        constraints: op.constraints.clone(),
        op: None,
    };
    let mut bytes = around.encode_to_vec();
    if let Some(kind) = &op.op {
        kind.encode(&mut bytes);
    }
    bytes
}

/// The digest of a vertex: `sha256:` and the hex SHA-256 of its op's bytes as they travelled.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_recorded_op_has_its_recorded_digest() {
        let name = "docker-image://docker.io/library/busybox:latest@sha256:5cd64af2f032a43d6b63e25b01db8ced5680d37fec27066ce9d8d6d71e88e66a";
        let op = crate::pb::Op {
            op: Some(crate::pb::op::Op::Source(crate::pb::SourceOp {
                identifier: name.to_owned(),
                ..Default::default()
            })),
            platform: crate::platform::parse("linux/amd64").ok(),
            constraints: Some(crate::pb::WorkerConstraints::default()),
            ..Default::default()
        };
        assert_eq!(
            super::digest_of(&super::encode_op(&op)),
            "sha256:2db03d358a880b91769326915f35a2ad275f92e736669283934a0b2d0087e22d"
        );
    }

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(
            super::digest_of(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
