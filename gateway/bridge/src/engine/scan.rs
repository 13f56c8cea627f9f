//! Bills of materials for results whose frontend made none though the client asked for them: graphs of clients,
//! frontends older than such requests.

use std::collections::BTreeMap;

use gateway_api::{Code, Error, Gateway, ResolveImageConfigRequest};
use gateway_frontend::conventions::ResolvedImage;
use gateway_frontend::conventions::options::Sbom;
use gateway_frontend::scanner::{self, PREDICATE, Scan, Scanner};
use gateway_llb::State;
use gateway_solver::{AttestationContent, Job, SolvedAttestation, SolvedResult};

use super::local::LocalGateway;
use super::{Engine, FrontendCall, late};

/// What a client asked to be found in its results.
pub(super) struct Scanning {
    wanted: Sbom,
    ignores_cache: bool,
    resolve_mode: String,
    /// The build's outermost call, for what holds for its sources.
    call: FrontendCall,
}

impl Scanning {
    /// None when nobody asked.
    ///
    /// # Errors
    /// A request for an attestation cannot be read.
    pub fn of(call: &FrontendCall) -> Result<Option<Scanning>, Error> {
        let Some(wanted) = Sbom::of(&call.opts)? else {
            return Ok(None);
        };
        let mode = call.opts.get("image-resolve-mode");
        Ok(Some(Scanning {
            wanted,
            // Any other value names stages.
            ignores_cache: call.opts.get("no-cache").is_some_and(String::is_empty),
            resolve_mode: mode.cloned().unwrap_or_default(),
            call: call.clone(),
        }))
    }

    /// A scan of each result by its key, unless the frontend made some of its own. They run when they are used.
    ///
    /// # Errors
    /// The scanner cannot be had, or is none.
    pub async fn scans(
        &self,
        engine: &Engine,
        job: &Job,
        result: &SolvedResult,
    ) -> Result<BTreeMap<String, SolvedAttestation>, Error> {
        let mut scans = BTreeMap::new();
        let mut own = result.attestations.values().flatten();
        if own.any(|own| own.attestation.in_toto_predicate_type == PREDICATE)
            || !late::is_exportable(result)
        {
            return Ok(scans);
        }
        let gateway = engine.gateway(job, self.call.clone());
        let scanner = self.scanner(engine, gateway.as_ref()).await?;
        for (key, result) in job.attested_results(result)? {
            let Some(result) = result else { continue };
            let state = State::from_definition(result.definition())
                .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
            let scan = Scan {
                id: &key,
                state: &state,
                extras: &BTreeMap::new(),
                ignores_cache: self.ignores_cache,
            };
            let attestation = scanner.scan(gateway.as_ref(), scan).await?;
            let (attestation, content) = gateway.attested(attestation)?;
            let content = content.map_or(AttestationContent::Missing, AttestationContent::Result);
            scans.insert(
                key,
                SolvedAttestation {
                    attestation,
                    content,
                },
            );
        }
        Ok(scans)
    }

    async fn scanner(&self, engine: &Engine, gateway: &LocalGateway) -> Result<Scanner, Error> {
        let reference = scanner::reference(&self.wanted)?;
        let platform = engine.0.solver.default_platform().clone();
        let resolved = gateway
            .resolve_image_config(ResolveImageConfigRequest {
                reference: reference.clone(),
                platform: Some(platform.clone()),
                resolve_mode: self.resolve_mode.clone(),
                ..ResolveImageConfigRequest::default()
            })
            .await?;
        let image = ResolvedImage {
            reference: match resolved.reference.is_empty() {
                true => reference,
                false => resolved.reference,
            },
            digest: resolved.digest,
            config: resolved.config,
        };
        Scanner::of(image, platform, &self.wanted)
    }
}
