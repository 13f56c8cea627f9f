//! What a frontend returns: one file system or one for each platform, with image configs and the
//! list of platforms that exporters ask for.

use std::collections::BTreeMap;

use gateway_api::result::{Refs, metadata};
use gateway_api::{Attestation, BuildResult, Ref};
use gateway_llb::{pb, platform};

use crate::image_config::Image;

/// The result for one platform.
#[derive(Clone, Debug)]
pub struct PlatformResult {
    /// What it is listed under: the platform as it was asked for.
    pub id: String,
    /// What it is for; that of Windows has the version of its base.
    pub platform: pb::Platform,
    /// Its files.
    pub reference: Ref,
    /// How it is run.
    pub image: Image,
    /// The config that it began with, when it began with an image.
    pub base_image: Option<Image>,
    /// Times in it are no later; seconds since 1970.
    pub epoch: Option<i64>,
    /// Statements about it.
    pub attestations: Vec<Attestation>,
}

impl PlatformResult {
    /// Files and how they are run, and nothing else.
    pub fn new(platform: pb::Platform, reference: Ref, image: Image) -> Self {
        Self {
            id: platform::format_all(&platform),
            platform,
            reference,
            image,
            base_image: None,
            epoch: None,
            attestations: Vec::new(),
        }
    }
}

/// One result of all platforms. With `multi` it is a map, even of one: see
/// [`Config::multi_platform`](crate::conventions::Config::multi_platform); else the last one counts.
pub fn assemble(results: Vec<PlatformResult>, multi: bool) -> BuildResult {
    let mut out = BuildResult::default();
    let mut listed = Vec::with_capacity(results.len());
    let mut refs = BTreeMap::new();
    for result in results {
        let id = result.id;
        listed.push(serde_json::json!({
            "ID": id,
            "Platform": platform_json(&result.platform),
        }));
        let mut set = |key: &str, value: Vec<u8>| {
            let key = if multi {
                format!("{key}/{id}")
            } else {
                key.to_owned()
            };
            out.metadata.insert(key, value);
        };
        set(metadata::IMAGE_CONFIG, result.image.to_json());
        if let Some(base) = &result.base_image {
            set(metadata::BASE_IMAGE_CONFIG, base.to_json());
        }
        if let Some(epoch) = result.epoch {
            set(metadata::SOURCE_DATE_EPOCH, epoch.to_string().into_bytes());
        }
        if !result.attestations.is_empty() {
            out.attestations.insert(id.clone(), result.attestations);
        }
        if multi {
            refs.insert(id, result.reference);
        } else {
            out.refs = Refs::Single(result.reference);
        }
    }
    if multi {
        out.refs = Refs::Map(refs);
    }
    let list = serde_json::json!({ "Platforms": listed }).to_string();
    out.metadata
        .insert(metadata::PLATFORMS.to_owned(), list.into_bytes());
    out
}

fn platform_json(platform: &pb::Platform) -> serde_json::Value {
    let mut out = serde_json::Map::new();
    for (key, value) in [
        ("architecture", &platform.architecture),
        ("os", &platform.os),
        ("os.version", &platform.os_version),
        ("variant", &platform.variant),
    ] {
        if !value.is_empty() {
            out.insert(key.to_owned(), value.clone().into());
        }
    }
    if !platform.os_features.is_empty() {
        out.insert(
            "os.features".to_owned(),
            platform.os_features.clone().into(),
        );
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &str, id: &str) -> PlatformResult {
        let platform = platform::parse(text).unwrap();
        let image = Image::scratch(&platform);
        PlatformResult::new(platform, Ref::new(id, None), image)
    }

    #[test]
    fn one_platform_is_a_single_result_unless_a_map_is_asked_for() {
        let one = assemble(vec![result("linux/amd64", "a")], false);
        assert_eq!(one.refs, Refs::Single(Ref::new("a", None)));
        assert!(one.metadata.contains_key("containerimage.config"));
        let map = assemble(vec![result("linux/amd64", "a")], true);
        assert!(
            map.metadata
                .contains_key("containerimage.config/linux/amd64")
        );
        assert!(matches!(map.refs, Refs::Map(map) if map.len() == 1));
    }

    #[test]
    fn platforms_are_listed_in_their_order() {
        let both = vec![result("linux/arm64", "b"), result("linux/amd64", "a")];
        let out = assemble(both, true);
        let list: serde_json::Value =
            serde_json::from_slice(&out.metadata["refs.platforms"]).unwrap();
        assert_eq!(list["Platforms"][0]["ID"], "linux/arm64");
        assert_eq!(list["Platforms"][1]["Platform"]["architecture"], "amd64");
    }
}
