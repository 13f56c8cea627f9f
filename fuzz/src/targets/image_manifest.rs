//! Manifests and indexes under any announced type (the first byte chooses). The bytes stay as they
//! came, embedded data is of its digest.

use gateway_images::digest::Digest;
use gateway_images::media::{self, RawManifest};
use gateway_images::platform::Platform;

const ANNOUNCED: [Option<&str>; 6] = [
    None,
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
    Some("application/json"),
    Some("text/html"),
    Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
];

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    let announced = ANNOUNCED[usize::from(*choice) % ANNOUNCED.len()];
    match RawManifest::parse(body.to_vec(), announced) {
        Ok(manifest) => {
            assert_eq!(manifest.bytes, body);
            let mut descriptors = Vec::new();
            if let Some(index) = manifest.index() {
                let _ = Platform::host().choose(&index.manifests);
                Platform::host().matching(&index.manifests);
                descriptors.extend(&index.manifests);
            }
            if let Some(image) = manifest.image() {
                descriptors.push(&image.config);
                descriptors.extend(&image.layers);
            }
            for descriptor in descriptors {
                descriptor.is_attestation();
                if let Some(data) = descriptor.embedded() {
                    assert_eq!(Digest::of(&data), descriptor.digest);
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
    if let Ok(text) = std::str::from_utf8(body) {
        media::essence(text);
    }
}
