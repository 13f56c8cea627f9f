//! Bills of materials: a scanner image that looks at each result, when the caller asks for it. Here because frontends
//! and the engine, for results of frontends that make none, must ask for the very same step.

use std::collections::BTreeMap;

use gateway_api::result::Refs;
use gateway_api::{Attestation, Error, Gateway, Ref, SolveRequest};
use gateway_llb::{Constraints, ImageSource, MarshalOptions, Mount, State, path, pb};

use crate::conventions::options::Sbom;
use crate::conventions::reference::ImageRef;
use crate::conventions::{BuildClient, ResolvedImage};
use crate::image_config::Image;

const SOURCES: &str = "/run/src";
const OUTPUT: &str = "/run/out/";

/// What bills of materials are, among attestations.
pub const PREDICATE: &str = "https://spdx.dev/Document";

/// How results are told to be bundles of statements, on the wire.
const BUNDLE: i32 = 1;

/// A scanner that is ready to run.
pub struct Scanner {
    reference: String,
    image: Image,
    platform: pb::Platform,
    params: BTreeMap<String, String>,
}

/// What a scanner is to look at.
pub struct Scan<'a> {
    /// The result's platform, for eyes.
    pub id: &'a str,
    pub state: &'a State,
    /// Others that went into it, by name.
    pub extras: &'a BTreeMap<String, State>,
    /// It runs also where it ran before.
    pub ignores_cache: bool,
}

/// The reference of the scanner's image, whole.
///
/// # Errors
/// When it is none.
pub fn reference(wanted: &Sbom) -> Result<String, Error> {
    let generator = &wanted.generator;
    let reference = ImageRef::parse(generator)
        .map_err(|e| Error::unknown(format!("failed to parse sbom scanner {generator}: {e}")))?;
    Ok(reference.tagged().to_string())
}

impl Scanner {
    /// The scanner that was asked for.
    ///
    /// # Errors
    /// When its image cannot be had, or runs nothing.
    pub async fn find(client: &BuildClient, wanted: &Sbom) -> Result<Self, Error> {
        let reference = reference(wanted)?;
        let platforms = &client.config().build_platforms;
        let platform = platforms.first().cloned().unwrap_or_default();
        let resolved = client.resolve_image(&reference, &platform, String::new());
        Self::of(resolved.await?, platform, wanted)
    }

    /// The scanner whose image is known.
    ///
    /// # Errors
    /// When it cannot be read, or runs nothing.
    pub fn of(image: ResolvedImage, platform: pb::Platform, wanted: &Sbom) -> Result<Self, Error> {
        let reference = image.reference;
        let image = Image::parse(&image.config)?;
        if image.config.entrypoint.is_empty() && image.config.cmd.is_empty() {
            return Err(Error::unknown(format!(
                "scanner {reference} does not have cmd"
            )));
        }
        Ok(Self {
            reference,
            image,
            platform,
            params: wanted.params.clone(),
        })
    }

    /// Scans one result. The scan itself is run when the attestation is used.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn scan(&self, gateway: &dyn Gateway, scan: Scan<'_>) -> Result<Attestation, Error> {
        let state = self.state(&scan);
        let definition = state
            .marshal(&MarshalOptions {
                sets_default_path: false,
                ..MarshalOptions::new(self.platform.clone())
            })
            .map_err(|e| Error::unknown(format!("failed to marshal LLB definition: {e}")))?;
        let solved = gateway
            .solve(SolveRequest {
                definition: Some(definition),
                ..SolveRequest::default()
            })
            .await?;
        let reference = match solved.refs {
            Refs::Single(reference) => reference,
            Refs::None => Ref::scratch(),
            Refs::Map(_) => return Err(Error::unknown("failed to get single ref")),
        };
        let metadata = [("reason", "sbom"), ("sbom-core", "sbom")]
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        Ok(Attestation {
            kind: BUNDLE,
            metadata: metadata.into(),
            reference: Some(reference),
            path: String::new(),
            in_toto_predicate_type: PREDICATE.to_owned(),
            in_toto_subjects: Vec::new(),
        })
    }

    fn state(&self, scan: &Scan<'_>) -> State {
        let config = &self.image.config;
        let core = path::join(&[SOURCES, "core", "sbom"]);
        let mut state = ImageSource::new(self.reference.as_str())
            .state(Constraints::new().platform(self.platform.clone()))
            .envs(self.image.env())
            .env("BUILDKIT_SCAN_DESTINATION", OUTPUT)
            .env("BUILDKIT_SCAN_SOURCE", &core);
        if !config.working_dir.is_empty() {
            state = state.dir(&config.working_dir);
        }
        if !scan.extras.is_empty() {
            let extras = path::join(&[SOURCES, "extras"]);
            state = state.env("BUILDKIT_SCAN_SOURCE_EXTRAS", &extras);
        }
        for (key, value) in &self.params {
            state = state.env(&format!("BUILDKIT_SCAN_{key}"), value);
        }
        let name = format!("[{}] generating sbom using {}", scan.id, self.reference);
        let mut constraints = Constraints::new().name(name);
        if scan.ignores_cache {
            constraints = constraints.ignore_cache();
        }
        let mut step = state
            .run(config.entrypoint.iter().chain(&config.cmd).cloned())
            .with(constraints)
            .mount(Mount::tmpfs("/tmp", 0))
            .mount(Mount::bind(core, scan.state).readonly());
        for (name, extra) in scan.extras {
            let target = path::join(&[SOURCES, "extras", &format!("sbom-{name}")]);
            step = step.mount(Mount::bind(target, extra).readonly());
        }
        let done = step.mount(Mount::bind(OUTPUT, &State::scratch())).exec();
        done.mount(OUTPUT).cloned().unwrap_or_default()
    }
}
