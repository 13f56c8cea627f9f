//! The forms in which a layer's blob is known, and what is kept of its descriptor with each: a media
//! type, whose parameters hold the annotations without which an eStargz layer is an ordinary one.

use std::collections::BTreeMap;

use gateway_images::digest::Digest;
use gateway_images::layer::estargz;
use gateway_images::media::essence;

use crate::store::{LazyBlob, VariantRecord};

/// The form of a layer's blob as it was pulled.
pub(crate) const ANY_FORM: &str = "any";

/// What an eStargz layer is annotated with is kept as parameters of its media type.
const TOC_PARAMETER: &str = "estargz-toc";
const SIZE_PARAMETER: &str = "estargz-size";

/// The media type of an eStargz layer; its tar has `size` bytes, the table of contents included.
pub(super) fn estargz_type(media_type: &str, toc: &Digest, size: u64) -> String {
    format!("{media_type}; {TOC_PARAMETER}={toc}; {SIZE_PARAMETER}={size}")
}

/// The annotations of a layer's descriptor, from what was kept of it.
pub(super) fn annotations_of(media_type: &str) -> BTreeMap<String, String> {
    let parameters = media_type.split("; ").skip(1);
    let parameters = parameters.filter_map(|parameter| parameter.split_once('='));
    let annotations = parameters.filter_map(|(name, value)| match name {
        TOC_PARAMETER => Some((estargz::TOC_DIGEST, value)),
        SIZE_PARAMETER => Some((estargz::UNCOMPRESSED_SIZE, value)),
        _ => None,
    });
    annotations
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A layer of an image in the form in which its registry has it. Of its annotations those of
/// eStargz are kept, as the reference does; what is not well-formed is none.
pub(crate) fn pulled(lazy: &LazyBlob) -> VariantRecord {
    let descriptor = &lazy.descriptor;
    let said = |name: &str| descriptor.annotations.get(name);
    let toc = said(estargz::TOC_DIGEST).and_then(|toc| toc.parse().ok());
    let size = said(estargz::UNCOMPRESSED_SIZE).and_then(|size| size.parse().ok());
    // A registry's parameters are none of ours.
    let media_type = essence(&descriptor.media_type);
    let media_type = match (toc, size) {
        (Some(toc), Some(size)) => estargz_type(&media_type, &toc, size),
        _ => media_type,
    };
    VariantRecord {
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
        media_type,
        diff_id: lazy.diff_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use gateway_images::media::Descriptor;

    use super::*;

    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn annotated(toc: &str, size: &str) -> VariantRecord {
        let said = format!("{GZIP}; estargz-toc=false");
        let mut descriptor = Descriptor::new(said, Digest::of(b"blob"), 4);
        descriptor.annotations = BTreeMap::from([
            (estargz::TOC_DIGEST.to_owned(), toc.to_owned()),
            (estargz::UNCOMPRESSED_SIZE.to_owned(), size.to_owned()),
            ("com.example.other".to_owned(), "x".to_owned()),
        ]);
        pulled(&LazyBlob {
            descriptor,
            diff_id: Digest::of(b"tar").to_string(),
            base: Vec::new(),
            reference: String::new(),
            file: None,
            remote: None,
            vertex: String::new(),
            kind: String::new(),
        })
    }

    #[test]
    fn a_pulled_estargz_layer_keeps_the_annotations_that_make_it_one() {
        let toc = Digest::of(b"toc").to_string();
        let kept = annotations_of(&annotated(&toc, "4096").media_type);
        assert_eq!(kept.get(estargz::TOC_DIGEST), Some(&toc));
        assert_eq!(
            kept.get(estargz::UNCOMPRESSED_SIZE).map(String::as_str),
            Some("4096")
        );
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn annotations_that_make_no_sense_are_not_kept() {
        let toc = Digest::of(b"toc").to_string();
        for (toc, size) in [
            ("sha256:1; estargz-size=9", "1"),
            (toc.as_str(), "1; x=y"),
            (toc.as_str(), "-1"),
        ] {
            assert_eq!(annotated(toc, size).media_type, GZIP);
        }
    }
}
