//! What frontends ask of sources before they build: digests, configs, commits.

use std::sync::Arc;

use gateway_api::{
    AttestationChain, Error, ImageConfig, ImageMeta as ApiImageMeta, ResolveImageConfigRequest,
    ResolveSourceMetaRequest, SourceMeta,
};
use gateway_images::registry::shown_url;
use gateway_llb::{pb, platform};

use crate::attestation_chain;
use crate::job::Job;
use crate::key::digest_of;
use crate::ops::image::{self, ImageMeta, ResolveMode, platform_of};
use crate::ops::{git, http, oci_layout};
use crate::policy::SourcePolicies;
use crate::report::vertex;
use crate::shared::Outcome;

/// The number of the resolver for OCI layouts.
const OCI_LAYOUT: i32 = 1;
/// That for images of registries.
const REGISTRY: i32 = 0;
/// The stream of log lines that are not a step's output.
const STDERR: i64 = 2;

impl Job {
    /// Does something under a progress vertex of its own, whose digest the work is given.
    async fn shown<T, F: Future<Output = Outcome<T>>>(
        &self,
        log_name: &str,
        default: &str,
        work: impl FnOnce(String) -> F,
    ) -> Outcome<T> {
        let job = self.inner();
        let name = if log_name.is_empty() {
            default
        } else {
            log_name
        };
        let digest = digest_of(name.as_bytes());
        job.reports
            .announce(vec![vertex(&digest, name, Vec::new(), None)]);
        let running = job.reports.start(&digest);
        let outcome = job.until_cancelled(work(digest.clone())).await;
        running.finish(&outcome);
        outcome
    }

    /// The platform of a request.
    fn platform_or_default(&self, given: Option<&pb::Platform>) -> pb::Platform {
        let given = given.filter(|platform| !platform.os.is_empty());
        platform::normalize(given.unwrap_or(self.solver().default_platform()))
    }

    async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        mode: &str,
        log_name: &str,
    ) -> Outcome<Arc<ImageMeta>> {
        let job = self.inner();
        let mode = ResolveMode::parse(mode)?;
        let platform = self.platform_or_default(platform);
        let name = format!("resolve image config for docker-image://{reference}");
        self.shown(log_name, &name, |digest| {
            let platform = &platform;
            async move {
                let meta = image::resolve(job, reference, platform, mode).await?;
                for notice in &meta.notices {
                    let line = format!("{notice}\n").into_bytes();
                    job.reports.log(&digest, STDERR, line);
                }
                Ok(meta)
            }
        })
        .await
    }

    async fn resolve_layout(
        &self,
        reference: &str,
        store: &str,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Outcome<Arc<ImageMeta>> {
        let platform = self.platform_or_default(platform);
        let name = format!("resolve image config for oci-layout://{reference}");
        self.shown(log_name, &name, |_| {
            oci_layout::resolve(self.inner(), reference, store, &platform)
        })
        .await
    }

    /// What vouches for an image.
    async fn vouched(
        &self,
        meta: &ImageMeta,
        platform: Option<&pb::Platform>,
        predicates: &[String],
    ) -> Outcome<Option<AttestationChain>> {
        let job = self.inner();
        let reference = image::parse(&meta.reference)?;
        let platform = platform_of(&self.platform_or_default(platform));
        let found = attestation_chain::find(job, &reference, &meta.root, &platform, predicates);
        job.until_cancelled(found).await
    }

    /// What the policies make of a source that is asked about.
    fn judged(&self, source: &pb::SourceOp, policies: &SourcePolicies) -> Outcome<pb::SourceOp> {
        // Those of the question first, as the reference does; for a definition it is the other
        // way round.
        let converted = policies
            .and(&self.inner().options.policies)
            .evaluate(source)
            .map_err(|error| error.context("could not resolve image due to policy"))?;
        Ok(converted.unwrap_or_else(|| source.clone()))
    }

    /// The config of an image, under a progress vertex of the request's log name. `policies` hold
    /// for it beside the build's own.
    pub async fn resolve_image_config(
        &self,
        mut request: ResolveImageConfigRequest,
        policies: &SourcePolicies,
    ) -> Result<ImageConfig, Error> {
        let scheme = match request.resolver_type {
            OCI_LAYOUT => "oci-layout",
            _ => "docker-image",
        };
        let mut asked = pb::SourceOp {
            identifier: format!("{scheme}://{}", request.reference),
            ..pb::SourceOp::default()
        };
        if request.resolver_type == OCI_LAYOUT {
            let store = ("oci.store".to_owned(), request.store_id.clone());
            asked.attrs.extend([store]);
        }
        let judged = self.judged(&asked, policies).map_err(|error| {
            let shown = image::canonical(&request.reference);
            error.context(format!("failed to resolve source metadata for {shown}"))
        })?;
        match judged.identifier.split_once("://") {
            _ if judged == asked => {}
            Some(("docker-image", reference)) => {
                request.reference = reference.to_owned();
                request.resolver_type = REGISTRY;
            }
            Some(("oci-layout", reference)) => {
                request.reference = reference.to_owned();
                request.resolver_type = OCI_LAYOUT;
                request.store_id = judged.attrs.get("oci.store").cloned().unwrap_or_default();
            }
            _ => {
                return Err(Error::unknown(format!(
                    "ref {:?} resolved to non-image {:?}",
                    asked.identifier, judged.identifier
                )));
            }
        }
        let (reference, platform) = (&request.reference, request.platform.as_ref());
        let meta = match request.resolver_type {
            OCI_LAYOUT => {
                self.resolve_layout(reference, &request.store_id, platform, &request.log_name)
                    .await?
            }
            _ => {
                self.resolve_image(
                    reference,
                    platform,
                    &request.resolve_mode,
                    &request.log_name,
                )
                .await
                // The other call leaves this to the frontend (observed).
                .map_err(|error| {
                    let shown = image::canonical(reference);
                    error.context(format!("failed to resolve source metadata for {shown}"))
                })?
            }
        };
        Ok(ImageConfig {
            digest: meta.root.to_string(),
            config: meta.config.clone(),
            reference: meta.reference.clone(),
        })
    }

    /// What is known of a source; of client directories only the identifier. `policies` hold for it
    /// beside the build's own: the answer is about what they make of the source.
    pub async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
        policies: &SourcePolicies,
    ) -> Result<SourceMeta, Error> {
        let judged = self.judged(&request.source, policies)?;
        let source = &judged;
        let Some((scheme, reference)) = source.identifier.split_once("://") else {
            return Err(Error::unknown(format!(
                "failed to parse {}: invalid",
                source.identifier
            )));
        };
        let attr = |name: &str| source.attrs.get(name).map_or("", String::as_str);
        let name = format!("load metadata for {}", shown_url(&source.identifier));
        let platform = request.platform.as_ref();
        let mut answer = SourceMeta {
            source: source.clone(),
            ..SourceMeta::default()
        };
        let image_asked = request.image.clone().unwrap_or_default();
        // Without the config there is no digest either, as observed.
        let of_image = |meta: &ImageMeta| match image_asked.no_config {
            true => ApiImageMeta::default(),
            false => ApiImageMeta {
                digest: meta.root.to_string(),
                config: meta.config.clone(),
                attestation_chain: None,
            },
        };
        match scheme {
            "docker-image" => {
                let mode = match request.resolve_mode.as_str() {
                    "" => attr("image.resolvemode"),
                    mode => mode,
                };
                let meta = self
                    .resolve_image(reference, platform, mode, &request.log_name)
                    .await?;
                answer.source.identifier = format!("docker-image://{}", meta.reference);
                let mut found = of_image(&meta);
                let predicates = &image_asked.resolve_attestations;
                if image_asked.attestation_chain || !predicates.is_empty() {
                    found.attestation_chain = self.vouched(&meta, platform, predicates).await?;
                }
                if let Some(chain) = &found.attestation_chain {
                    found.digest.clone_from(&chain.root);
                }
                answer.image = Some(found);
            }
            "oci-layout" => {
                let store = attr("oci.store");
                let meta = self
                    .resolve_layout(reference, store, platform, &request.log_name)
                    .await?;
                answer.image = Some(of_image(&meta));
            }
            "git" => {
                let objects = request.git_return_object;
                let job = self.inner();
                let work =
                    |digest: String| async move { git::meta(job, source, objects, &digest).await };
                answer.git = Some(self.shown(&request.log_name, &name, work).await?);
            }
            "http" | "https" => {
                let (job, asked) = (self.inner(), request.http_checksum.as_ref());
                let work =
                    |digest: String| async move { http::meta(job, source, asked, &digest).await };
                answer.http = Some(self.shown(&request.log_name, &name, work).await?);
            }
            // The identifier says all.
            "local" | "docker-image+blob" | "oci-layout+blob" => {}
            scheme => {
                return Err(Error::unknown(format!(
                    "unknown scheme {scheme}: not found"
                )));
            }
        }
        Ok(answer)
    }
}
