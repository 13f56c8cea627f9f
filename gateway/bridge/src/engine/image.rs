//! An image of a frontend: where it comes from and what it says about itself.

use std::collections::BTreeSet;

use gateway_api::{Code, Detail, Error, ResolveImageConfigRequest};
use gateway_images::config::RunConfig;
use gateway_images::reference::Reference;
use gateway_llb::{Constraints, ImageSource, MarshalOptions, State, pb};
use gateway_solver::Job;

use super::{Engine, FrontendCall};

/// What callers may require of a frontend, and what having inputs requires.
const LABEL_CAPS: &str = "moby.buildkit.frontend.caps";
const LABEL_NETWORK_NONE: &str = "moby.buildkit.frontend.network.none";
const CAP_INPUTS: &str = "moby.buildkit.frontend.inputs";

/// docker/dockerfile 1.1.6 and 1.1.7 and their experimental variants: they take inputs, but are
/// older than the label that says so.
const INPUTS_WITHOUT_LABEL: [&str; 4] = [
    "sha256:9ac1c43a60e31dca741a6fe8314130a9cd4c4db0311fbbc636ff992ef60ae76d",
    "sha256:080bd74d8778f83e7b670de193362d8c593c8b14f5c8fb919d28ee8feda0d069",
    "sha256:60543a9d92b92af5088fb2938fb09b2072684af8384399e153e137fe081f8ab4",
    "sha256:de85b2f3a3e8a2f7fe48e8e84a65f6fdd5cd5183afa6412fff9caa6871649c44",
];

/// A frontend image that can be run.
pub(super) struct FrontendImage {
    pub definition: pb::Definition,
    pub config: RunConfig,
    /// Empty for what is no image.
    pub digest: String,
    /// What was resolved in the end; empty for what is no image of a registry.
    pub name: String,
}

/// An image of a registry, as a source.
pub(super) fn image_source(reference: String) -> pb::SourceOp {
    pb::SourceOp {
        identifier: format!("docker-image://{reference}"),
        ..pb::SourceOp::default()
    }
}

/// The image of a registry, for the host's platform.
pub(super) async fn resolve_image(
    engine: &Engine,
    job: &Job,
    call: &FrontendCall,
    reference: &Reference,
) -> Result<FrontendImage, Error> {
    if let Some(pins) = job.pins() {
        pins.is_frontend(reference);
    }
    let policies = match &call.judge {
        Some(judge) => {
            let source = image_source(reference.to_string());
            let policies = call.policies.clone();
            Box::pin(judge.of_source(job, source, None, policies)).await?
        }
        None => call.policies.clone(),
    };
    let resolved = job
        .resolve_image_config(
            ResolveImageConfigRequest {
                reference: reference.to_string(),
                log_name: format!("resolve image config for docker-image://{reference}"),
                ..ResolveImageConfigRequest::default()
            },
            &policies,
        )
        .await?;
    let config = gateway_images::config::ImageConfig::parse(&resolved.config).map_err(|error| {
        Error::unknown(format!(
            "invalid config of the frontend image {reference}: {error}"
        ))
    })?;
    // Pinned: what runs is what was looked at. A policy may have meant another image.
    let reference = Reference::parse(&resolved.reference).map_err(|error| {
        let reference = &resolved.reference;
        Error::unknown(format!("failed to parse ref {reference:?}: {error}"))
    })?;
    let pinned = match reference.digest() {
        Some(_) => reference.to_string(),
        None => format!("{reference}@{}", resolved.digest),
    };
    let source = ImageSource {
        record_type: Some("frontend".to_owned()),
        ..ImageSource::new(pinned.clone())
    };
    let constraints = Constraints::new().name(format!("docker-image://{pinned}"));
    Ok(FrontendImage {
        definition: marshal(engine, source.state(constraints))?,
        config: config.config,
        digest: resolved.digest,
        name: pinned,
    })
}

pub(super) fn marshal(engine: &Engine, state: State) -> Result<pb::Definition, Error> {
    let platform = engine.0.solver.default_platform().clone();
    state
        .marshal(&MarshalOptions::new(platform))
        .map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// Go's spelling of true; any other text means nothing.
pub(super) fn network_none(config: &RunConfig) -> bool {
    config
        .labels
        .get(LABEL_NETWORK_NONE)
        .is_some_and(|text| gateway_api::parse_bool(text) == Some(true))
}

/// What the caller requires, compared with the image's label.
pub(super) fn check_caps(image: &FrontendImage, call: &FrontendCall) -> Result<(), Error> {
    let names = |list: &str| -> BTreeSet<String> {
        list.split(',')
            .map(|entry| {
                entry
                    .split('+')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            })
            .filter(|name| !name.is_empty())
            .collect()
    };
    let mut required = names(call.opts.get("frontend.caps").map_or("", String::as_str));
    if !call.inputs.is_empty() {
        required.insert(CAP_INPUTS.to_owned());
    }
    let mut offered = names(
        image
            .config
            .labels
            .get(LABEL_CAPS)
            .map_or("", String::as_str),
    );
    if INPUTS_WITHOUT_LABEL.contains(&image.digest.as_str()) {
        offered.insert(CAP_INPUTS.to_owned());
    }
    match required.difference(&offered).next() {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Code::Unimplemented,
            format!("unsupported frontend capability {name}"),
        )
        .with(Detail::FrontendCap { name: name.clone() })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(labels: &[(&str, &str)], digest: &str) -> FrontendImage {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        FrontendImage {
            definition: pb::Definition::default(),
            config: RunConfig {
                labels: labels.collect(),
                ..RunConfig::default()
            },
            digest: digest.to_owned(),
            name: String::new(),
        }
    }

    fn call(caps: &str, inputs: bool) -> FrontendCall {
        let mut call = FrontendCall {
            verify_replay: false,
            name: "gateway.v0".to_owned(),
            opts: Default::default(),
            inputs: Default::default(),
            depth: 0,
            policies: Default::default(),
            judge: None,
            caches: std::sync::Arc::new(super::super::cache::Caches::of_client(&[])),
            root: None,
        };
        call.opts
            .insert("frontend.caps".to_owned(), caps.to_owned());
        if inputs {
            call.inputs.insert("context".to_owned(), Default::default());
        }
        call
    }

    #[test]
    fn p12_required_caps_and_inputs_need_the_label() {
        let labelled = image(&[(LABEL_CAPS, "moby.buildkit.frontend.inputs+x, a")], "");
        assert!(check_caps(&labelled, &call("", true)).is_ok());
        assert!(check_caps(&labelled, &call("a+forward", true)).is_ok());
        let error = check_caps(&labelled, &call("a,b+forward", false)).unwrap_err();
        assert_eq!(error.code, Code::Unimplemented);
        assert_eq!(error.message, "unsupported frontend capability b");
        assert_eq!(
            error.details,
            [Detail::FrontendCap {
                name: "b".to_owned()
            }]
        );
        let bare = image(&[], "");
        assert!(check_caps(&bare, &call("", false)).is_ok());
        assert!(check_caps(&bare, &call("", true)).is_err());
    }

    #[test]
    fn p12_four_known_images_take_inputs_without_the_label() {
        for digest in INPUTS_WITHOUT_LABEL {
            assert!(check_caps(&image(&[], digest), &call("", true)).is_ok());
        }
    }

    #[test]
    fn p11_only_gos_true_takes_the_network_away() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert!(network_none(
                &image(&[(LABEL_NETWORK_NONE, text)], "").config
            ));
        }
        for text in ["0", "yes", "tRUE", "", "false"] {
            assert!(!network_none(
                &image(&[(LABEL_NETWORK_NONE, text)], "").config
            ));
        }
        assert!(!network_none(&RunConfig::default()));
    }
}
