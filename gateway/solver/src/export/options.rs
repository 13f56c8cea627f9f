//! Attributes of image exporters, read.

use std::collections::BTreeMap;

use gateway_api::result::metadata;
use gateway_api::{Code, Error};
use gateway_images::archive::Family;
use gateway_images::layer::{CompressOptions, Compression};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;

/// How an image is written.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    pub names: Vec<Reference>,
    /// The same as they were given.
    pub given_names: Vec<String>,
    pub family: Family,
    pub compression: CompressOptions,
    /// Also layers that exist in another form.
    pub force: bool,
    /// Seconds since the epoch.
    pub epoch: Option<i64>,
    pub rewrite_timestamp: bool,
    pub annotations: Vec<Annotation>,
    /// Also to the registries that the names say.
    pub push: bool,
    /// There without the tag.
    pub push_by_digest: bool,
    /// To a registry whose certificate nobody vouches for, or without one.
    pub insecure: bool,
    /// Also under a name with the digest.
    pub canonical_name: bool,
    /// `PREFIX@DIGEST` as a name; for images without another one only, if so wanted.
    pub dangling_prefix: Option<String>,
    pub dangling_empty_only: bool,
    /// Under its names in the store's list.
    pub store: bool,
    /// What is attested only for images makes an index of a lone image too.
    pub attest_inline: bool,
    /// Statements as OCI artifacts.
    pub oci_artifact: bool,
    /// The layers of what gets a name in the store are unpacked at once.
    pub unpack: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationPlace {
    Manifest,
    Index,
    ManifestDescriptor,
    IndexDescriptor,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    pub place: AnnotationPlace,
    /// For one platform only, by its normalised id.
    pub platform: Option<String>,
    pub key: String,
    pub value: String,
}

/// A truth value as Go reads them.
pub fn flag(attrs: &BTreeMap<String, String>, key: &str) -> Result<Option<bool>, Error> {
    let Some(value) = attrs.get(key) else {
        return Ok(None);
    };
    // A key alone says yes.
    let given = match value.as_str() {
        "" => Some(true),
        value => gateway_api::parse_bool(value),
    };
    given
        .map(Some)
        .ok_or_else(|| Error::unknown(format!("non-bool value specified for {key}: {value:?}")))
}

impl ImageOptions {
    /// Unknown attributes are passed over, as by the reference.
    pub fn parse(
        attrs: &BTreeMap<String, String>,
        names: &[String],
        result: &BTreeMap<String, Vec<u8>>,
        oci_by_default: bool,
    ) -> Result<Self, Error> {
        let oci = flag(attrs, "oci-mediatypes")?.unwrap_or(oci_by_default);
        let family = if oci { Family::Oci } else { Family::Docker };
        let annotations = annotations(attrs, result)?;
        // Manifests have them in either family.
        let beyond = |a: &Annotation| a.place != AnnotationPlace::Manifest;
        if annotations.iter().any(beyond) && !oci {
            return Err(Error::unknown(
                "cannot export annotations with \"oci-mediatypes=false\"",
            ));
        }
        let compression = compression(attrs, !oci)?;
        if compression.compression == Compression::Zstd && !oci {
            return Err(Error::unknown(
                "unable to export zstd layers with \"oci-mediatypes=false\"",
            ));
        }
        if compression.estargz && !oci {
            return Err(Error::unknown(
                "exporter option \"compression=estargz\" conflicts with \"oci-mediatypes=false\"",
            ));
        }
        let rewrite_timestamp = flag(attrs, "rewrite-timestamp")?.unwrap_or(false);
        let unpack = flag(attrs, "unpack")?.unwrap_or(false);
        if rewrite_timestamp && unpack {
            return Err(Error::unknown(
                "exporter option \"rewrite-timestamp\" conflicts with \"unpack\"",
            ));
        }
        if flag(attrs, "prefer-nondist-layers")? == Some(true) {
            return Err(Error::new(
                Code::Unimplemented,
                "prefer-nondist-layers is not supported: every layer of an image goes with it",
            ));
        }
        let (given_names, names) = parse_names(attrs, names, result)?.into_iter().unzip();
        Ok(ImageOptions {
            names,
            given_names,
            family,
            compression,
            force: flag(attrs, "force-compression")?.unwrap_or(false),
            epoch: epoch(attrs, result)?,
            rewrite_timestamp,
            annotations,
            push: flag(attrs, "push")?.unwrap_or(false),
            push_by_digest: flag(attrs, "push-by-digest")?.unwrap_or(false),
            insecure: flag(attrs, "registry.insecure")?.unwrap_or(false),
            canonical_name: flag(attrs, "name-canonical")?.unwrap_or(false),
            dangling_prefix: attrs.get("dangling-name-prefix").cloned(),
            // The reference's spelling.
            dangling_empty_only: flag(attrs, "danging-name-empty-only")?.unwrap_or(false),
            store: flag(attrs, "store")?.unwrap_or(true),
            attest_inline: flag(attrs, "attestation-inline")?.unwrap_or(false),
            oci_artifact: flag(attrs, "oci-artifact")?.unwrap_or(true),
            unpack,
        })
    }

    /// Layers of base images may stay where they are: only a registry gets the image.
    pub fn may_be_lazy(&self) -> bool {
        self.push && !self.store
    }

    /// Annotations of a place, for a platform. There is one index for all of them.
    pub fn annotations(&self, place: AnnotationPlace, id: &str) -> BTreeMap<String, String> {
        let of_index = matches!(
            place,
            AnnotationPlace::Index | AnnotationPlace::IndexDescriptor
        );
        self.annotations
            .iter()
            .filter(|a| a.place == place)
            .filter(|a| of_index || a.platform.as_deref().is_none_or(|p| p == id))
            .map(|a| (a.key.clone(), a.value.clone()))
            .collect()
    }
}

fn parse_names(
    attrs: &BTreeMap<String, String>,
    names: &[String],
    result: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<(String, Reference)>, Error> {
    let mut texts: Vec<String> = names.to_vec();
    if texts.is_empty()
        && let Some(list) = attrs.get("name")
    {
        texts = list.split(',').map(str::to_owned).collect();
    }
    if texts == ["*"] {
        let given = result
            .get(metadata::IMAGE_NAME)
            .cloned()
            .unwrap_or_default();
        let given = String::from_utf8(given)
            .map_err(|_| Error::unknown("the frontend's image name is not text"))?;
        texts = given.split(',').map(str::to_owned).collect();
    }
    texts
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .map(|text| {
            Reference::parse(text)
                .map(|name| (text.to_owned(), name))
                .map_err(|error| Error::invalid(format!("failed to parse {text}: {error}")))
        })
        .collect()
}

fn compression(
    attrs: &BTreeMap<String, String>,
    docker_types: bool,
) -> Result<CompressOptions, Error> {
    let name = attrs.get("compression").map_or("gzip", String::as_str);
    let kind = match name {
        "uncompressed" => Compression::None,
        "gzip" => Compression::Gzip,
        "zstd" => Compression::Zstd,
        "estargz" => Compression::Gzip,
        other => {
            return Err(Error::unknown(format!(
                "unsupported layer compression type {other}"
            )));
        }
    };
    let mut options = CompressOptions::new(kind);
    options.docker_types = docker_types;
    options.estargz = name == "estargz";
    if let Some(level) = attrs.get("compression-level") {
        options.level = Some(level.parse().map_err(|_| {
            Error::unknown(format!(
                "non-integer value {level} specified for compression-level"
            ))
        })?);
    }
    Ok(options)
}

/// Seconds of `source-date-epoch`: the exporter's attribute, else what the frontend says.
pub fn epoch(
    attrs: &BTreeMap<String, String>,
    result: &BTreeMap<String, Vec<u8>>,
) -> Result<Option<i64>, Error> {
    let text = match attrs.get("source-date-epoch") {
        Some(text) => text.clone(),
        None => match result.get(metadata::SOURCE_DATE_EPOCH) {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => return Ok(None),
        },
    };
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(seconds) => Ok(Some(seconds)),
        Err(error) => Err(Error::unknown(format!(
            "invalid SOURCE_DATE_EPOCH: {text}: {error}"
        ))),
    }
}

/// From attributes and result metadata alike: `annotation[-PLACE][[PLATFORM]].KEY`.
fn annotations(
    attrs: &BTreeMap<String, String>,
    result: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<Annotation>, Error> {
    let from_result = result
        .iter()
        .map(|(key, value)| (key.as_str(), String::from_utf8_lossy(value).into_owned()));
    let from_attrs = attrs
        .iter()
        .map(|(key, value)| (key.as_str(), value.clone()));
    let mut found = Vec::new();
    for (name, value) in from_result.chain(from_attrs) {
        if let Some(annotation) = annotation(name, value)? {
            found.push(annotation);
        }
    }
    Ok(found)
}

fn annotation(name: &str, value: String) -> Result<Option<Annotation>, Error> {
    let Some(rest) = name.strip_prefix("annotation") else {
        return Ok(None);
    };
    if !rest.starts_with(['-', '[', '.']) {
        return Ok(None);
    }
    let invalid = || Error::unknown(format!("invalid annotation {name:?}"));
    let (place, rest) = match rest.strip_prefix('-') {
        None => ("manifest", rest),
        Some(rest) => {
            let end = rest.find(['[', '.']).ok_or_else(invalid)?;
            rest.split_at(end)
        }
    };
    let (platform, rest) = match rest.strip_prefix('[') {
        None => (None, rest),
        Some(rest) => {
            let (text, rest) = rest.split_once(']').ok_or_else(invalid)?;
            let platform: Platform = text
                .parse()
                .map_err(|error| Error::unknown(format!("invalid annotation {name:?}: {error}")))?;
            (Some(platform.normalized().to_string()), rest)
        }
    };
    let key = rest.strip_prefix('.').ok_or_else(invalid)?;
    let place = match place {
        "manifest" => AnnotationPlace::Manifest,
        "index" => AnnotationPlace::Index,
        "manifest-descriptor" => AnnotationPlace::ManifestDescriptor,
        "index-descriptor" => AnnotationPlace::IndexDescriptor,
        _ => return Err(invalid()),
    };
    Ok(Some(Annotation {
        place,
        platform,
        key: key.to_owned(),
        value,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_name_place_platform_and_key() {
        let parsed = annotation("annotation-manifest[linux/amd64].a.b", "v".into());
        assert_eq!(
            parsed.unwrap().unwrap(),
            Annotation {
                place: AnnotationPlace::Manifest,
                platform: Some("linux/amd64".into()),
                key: "a.b".into(),
                value: "v".into(),
            }
        );
        let spelled = annotation("annotation[linux/aarch64].k", "v".into());
        assert_eq!(
            spelled.unwrap().unwrap().platform.as_deref(),
            Some("linux/arm64")
        );
        assert!(annotation("annotation[no such].k", "v".into()).is_err());
        assert!(annotation("annotation.k", "v".into()).unwrap().is_some());
        assert!(annotation("annotations", "v".into()).unwrap().is_none());
        assert!(annotation("annotation-nowhere.k", "v".into()).is_err());
    }

    fn parsed(attrs: &[(&str, &str)]) -> Result<ImageOptions, Error> {
        let attrs = attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        ImageOptions::parse(&attrs, &[], &BTreeMap::new(), true)
    }

    #[test]
    fn dockers_types_have_annotations_on_manifests_alone() {
        let docker = ("oci-mediatypes", "false");
        assert!(parsed(&[docker, ("annotation.k", "v")]).is_ok());
        for place in ["index", "index-descriptor", "manifest-descriptor"] {
            let error = parsed(&[docker, (&format!("annotation-{place}.k"), "v")]).unwrap_err();
            assert_eq!(
                error.message,
                "cannot export annotations with \"oci-mediatypes=false\""
            );
        }
    }

    #[test]
    fn flags_that_exclude_each_other_or_are_no_flags_are_refused() {
        let error = parsed(&[("unpack", "true"), ("rewrite-timestamp", "true")]).unwrap_err();
        assert!(error.message.contains("conflicts with \"unpack\""));
        for key in ["unpack", "prefer-nondist-layers"] {
            let error = parsed(&[(key, "perhaps")]).unwrap_err();
            assert!(
                error
                    .message
                    .contains(&format!("non-bool value specified for {key}"))
            );
        }
    }

    #[test]
    fn a_wrong_compression_is_refused_by_name() {
        let attrs = BTreeMap::from([("compression".to_owned(), "rar".to_owned())]);
        let error = ImageOptions::parse(&attrs, &[], &BTreeMap::new(), true).unwrap_err();
        assert_eq!(error.message, "unsupported layer compression type rar");
    }
}
