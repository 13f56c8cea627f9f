//! Bills of materials: a scanner image that looks at each result, when the caller asks for it.

use std::collections::BTreeMap;

use gateway_api::{Attestation, Error, SolveRequest};
use gateway_llb::{Constraints, ImageSource, MarshalOptions, Mount, State, path, pb};

use crate::convert::Converted;
use crate::convert::image::Image;
use gateway_frontend::conventions::BuildClient;
use gateway_frontend::conventions::options::Sbom;
use gateway_frontend::conventions::reference::ImageRef;

const SOURCES: &str = "/run/src";
const OUTPUT: &str = "/run/out/";
const PREDICATE: &str = "https://spdx.dev/Document";

/// How results are told to be bundles of statements, on the wire.
const BUNDLE: i32 = 1;

/// A scanner that is ready to run.
pub struct Scanner {
    reference: String,
    image: Image,
    platform: pb::Platform,
    params: BTreeMap<String, String>,
}

impl Scanner {
    /// The scanner that was asked for.
    ///
    /// # Errors
    /// When its image cannot be had, or runs nothing.
    pub async fn find(client: &BuildClient, wanted: &Sbom) -> Result<Self, Error> {
        let generator = &wanted.generator;
        let reference = ImageRef::parse(generator)
            .map_err(|e| Error::unknown(format!("failed to parse sbom scanner {generator}: {e}")))?
            .tagged();
        let platforms = &client.config().build_platforms;
        let platform = platforms.first().cloned().unwrap_or_default();
        let resolved = client
            .resolve_image(&reference.to_string(), &platform, String::new())
            .await?;
        let image = Image::parse(&resolved.config)?;
        if image.config.entrypoint.is_empty() && image.config.cmd.is_empty() {
            return Err(Error::unknown(format!(
                "scanner {} does not have cmd",
                resolved.reference
            )));
        }
        Ok(Self {
            reference: resolved.reference,
            image,
            platform,
            params: wanted.params.clone(),
        })
    }

    /// Scans one result. The scan itself is run when the attestation is used.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn scan(
        &self,
        client: &BuildClient,
        id: &str,
        converted: &Converted,
    ) -> Result<Attestation, Error> {
        let state = self.state(id, converted);
        let definition = state
            .marshal(&MarshalOptions {
                sets_default_path: false,
                ..MarshalOptions::new(self.platform.clone())
            })
            .map_err(|e| Error::unknown(format!("failed to marshal LLB definition: {e}")))?;
        let reference = client
            .solve(SolveRequest {
                definition: Some(definition),
                ..SolveRequest::default()
            })
            .await?;
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

    fn state(&self, id: &str, converted: &Converted) -> State {
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
        if !converted.scanned.is_empty() {
            let extras = path::join(&[SOURCES, "extras"]);
            state = state.env("BUILDKIT_SCAN_SOURCE_EXTRAS", &extras);
        }
        for (key, value) in &self.params {
            state = state.env(&format!("BUILDKIT_SCAN_{key}"), value);
        }
        let name = format!("[{id}] generating sbom using {}", self.reference);
        let mut constraints = Constraints::new().name(name);
        if converted.ignores_cache {
            constraints = constraints.ignore_cache();
        }
        let mut step = state
            .run(config.entrypoint.iter().chain(&config.cmd).cloned())
            .with(constraints)
            .mount(Mount::tmpfs("/tmp", 0))
            .mount(Mount::bind(core, &converted.state).readonly());
        for (name, extra) in &converted.scanned {
            let target = path::join(&[SOURCES, "extras", &format!("sbom-{name}")]);
            step = step.mount(Mount::bind(target, extra).readonly());
        }
        let done = step.mount(Mount::bind(OUTPUT, &State::scratch())).exec();
        done.mount(OUTPUT).cloned().unwrap_or_default()
    }
}
