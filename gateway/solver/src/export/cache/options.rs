//! Attributes of cache exporters, read.

use std::collections::BTreeMap;

use gateway_api::Error;
use gateway_images::archive::Family;

use super::{CacheDestination, CacheExport};
use crate::export::options::{ImageOptions, flag};

/// How a cache is written.
pub struct Options {
    /// Compression and media types of the layers.
    pub image: ImageOptions,
    /// As the manifest of an image, not as an index over blobs.
    pub image_manifest: bool,
}

impl Options {
    pub fn parse(export: &CacheExport) -> Result<Options, Error> {
        let attrs = &export.attrs;
        let mut image = ImageOptions::parse(attrs, &[], &BTreeMap::new(), true)?;
        let oci = image.family == Family::Oci;
        let image_manifest = flag(attrs, "image-manifest")?.unwrap_or(oci);
        if image_manifest && !oci {
            return Err(Error::unknown(
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
            ));
        }
        // Blobs that a registry or service holds already need not come here.
        image.push = matches!(
            export.to,
            CacheDestination::Registry { .. } | CacheDestination::Remote(_)
        );
        image.store = !image.push;
        Ok(Options {
            image,
            image_manifest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(attrs: &[(&str, &str)]) -> Result<Options, Error> {
        let attrs = attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Options::parse(&CacheExport {
            to: CacheDestination::Registry {
                reference: "r".into(),
            },
            max: false,
            ignore_error: false,
            attrs: attrs.collect(),
        })
    }

    #[test]
    fn docker_types_alone_mean_an_index_and_not_a_manifest() {
        assert!(parsed(&[]).unwrap().image_manifest);
        assert!(
            !parsed(&[("oci-mediatypes", "false")])
                .unwrap()
                .image_manifest
        );
        assert!(
            !parsed(&[("image-manifest", "false")])
                .unwrap()
                .image_manifest
        );
        let both = [("oci-mediatypes", "false"), ("image-manifest", "true")];
        let error = parsed(&both).err().unwrap();
        assert!(error.message.contains("OCI mediatypes are required"));
    }
}
