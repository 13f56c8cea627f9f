//! One build: from its request to the answer, whoever drives it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use gateway_api::progress::Progress;
use gateway_api::{Error, FrontendFn, Gateway};
use gateway_bridge::{BuildRequest, BuildResponse, LateExporters, Provenance, SourceJudge};
use gateway_llb::pb;
use gateway_proto::error::to_rpc;
use gateway_session::Session;
use gateway_solver::policy::SourcePolicies;
use prost::Message;
use time::OffsetDateTime;

use super::history::History;
use super::jobs::Entry;
use super::late::SessionExporters;
use super::outputs::{Outputs, Place, wanted};
use super::progress::{timestamp, to_wire};
use super::spans::Trace;
use crate::grants::Granted;
use crate::peer::Peer;
use crate::proto::control::{BuildHistoryRecord, Descriptor, SolveRequest};
use crate::session::{
    ClientLogins, ClientSession, ClientStore, Encoding, NoSession, SessionJudge, finalize_export,
};
use crate::state::Daemon;
use crate::stopped;

/// The version of what builds mean that is known here, as clients number it; 0 is any.
const COMPATIBILITY: i64 = 30;

/// What blobs of errors are called, misspelt as everybody does.
const STATUS: &str = "application/vnd.googeapis.google.rpc.status+proto";

/// What blobs of provenance are called.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// Ids of real builds have 25 characters.
const MAX_REF: usize = 128;

/// Options of one build, in bytes: a client's environment fits many times.
const MAX_OPTIONS: usize = 4 << 20;

/// Cancels what it belongs to when the client stops waiting.
struct Abandon(tokio_util::sync::CancellationToken);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What is known of a client beside its request.
pub struct Terms {
    /// What its builds may be granted.
    pub granted: Granted,
    pub encoding: Encoding,
    /// Files that it sent along, by the ids that the request's options name.
    pub uploads: HashMap<String, PathBuf>,
    /// The trace that the call belongs to.
    pub trace: Option<Trace>,
}

impl Terms {
    /// Of a gRPC call.
    pub fn of_call(granted: Granted, metadata: &tonic::metadata::MetadataMap) -> Terms {
        let parent = metadata.get("traceparent");
        Terms {
            granted,
            encoding: Encoding::Escaped,
            uploads: HashMap::new(),
            trace: parent.and_then(|text| Trace::parse(text.to_str().ok()?)),
        }
    }
}

/// What a build ended with.
struct Built {
    response: BTreeMap<String, String>,
    provenance: Vec<Provenance>,
}

/// Runs a build to its end. When the future is dropped, the build is cancelled and ends by itself.
///
/// # Errors
/// Of the request, or of the build.
pub async fn solve(
    daemon: Daemon,
    peer: Peer,
    terms: Terms,
    request: SolveRequest,
) -> Result<BTreeMap<String, String>, Error> {
    check(&terms, &request)?;
    let state = &daemon.0;
    let name = request.r#ref.clone();
    if state.history.get(&name).is_some() || state.jobs.get(&name).is_some() {
        return Err(Error::new(
            gateway_api::Code::AlreadyExists,
            format!("job ID {name} exists"),
        ));
    }
    let log = state.history.log(&name).map_err(own)?;
    let entry = state.jobs.start(&peer, &name, log).inspect_err(|error| {
        if error.code != gateway_api::Code::AlreadyExists {
            state.history.forget(&name);
        }
    })?;
    let record = BuildHistoryRecord {
        r#ref: name.clone(),
        frontend: request.frontend.clone(),
        frontend_attrs: remembered(&request.frontend_attrs),
        exporters: wanted(&request),
        created_at: Some(timestamp(OffsetDateTime::now_utc())),
        generation: 1,
        ..BuildHistoryRecord::default()
    };
    let keep = !request.internal;
    if keep {
        state.history.started(&record);
    }
    let cancel = entry.running.cancel.clone();
    let abandoned = Abandon(cancel.clone());
    let inner = daemon.clone();
    let task = tokio::spawn(async move {
        let trace = terms.trace.clone();
        // A failure of ours ends this build and no other, and what is known of it is known.
        let built = AssertUnwindSafe(run(&inner, &peer, terms, request, &entry));
        let built = built.catch_unwind().await.unwrap_or_else(|_| {
            Err(Error::new(
                gateway_api::Code::Internal,
                "internal failure of the build (its cause is in the daemon's log)",
            ))
        });
        let built = built.map_err(|error| match inner.0.jobs.is_stopped() {
            true => stopped::instead_of(error),
            false => error,
        });
        end(&inner, entry, record, keep.then_some(trace), &built).await;
        built.map(|built| built.response)
    });
    let built = task.await;
    drop(abandoned);
    built.unwrap_or_else(|_| {
        Err(Error::new(
            gateway_api::Code::Internal,
            "internal failure of the build",
        ))
    })
}

/// Options that history keeps, in bytes together: for their reader's eyes, and in memory.
const MAX_REMEMBERED: usize = 64 << 10;

/// The options of a build as everybody may read them later. A session is found by whoever knows its id,
/// so ids are no part of it.
fn remembered(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut left = MAX_REMEMBERED;
    let kept = options.iter().filter(|(key, value)| {
        let size = key.len() + value.len();
        let fits = size <= left && !key.starts_with("local-sessionid:");
        left -= if fits { size } else { 0 };
        fits
    });
    kept.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn own(error: impl std::fmt::Display) -> Error {
    Error::unknown(format!("the daemon's own files: {error}"))
}

/// Refuses what cannot be done before anything is.
fn check(terms: &Terms, request: &SolveRequest) -> Result<(), Error> {
    let name = &request.r#ref;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > MAX_REF || !name.bytes().all(plain) {
        return Err(Error::invalid("a build needs a ref of letters and digits"));
    }
    let options = request.frontend_attrs.iter();
    let size: usize = options.map(|(key, value)| key.len() + value.len()).sum();
    if size > MAX_OPTIONS {
        return Err(Error::invalid(format!(
            "the options of the build are {size} bytes, more than {MAX_OPTIONS}"
        )));
    }
    for entitlement in &request.entitlements {
        if !terms.granted.covers(entitlement) {
            return Err(Error::unknown(format!(
                "granting entitlement {entitlement} is not allowed by build daemon configuration"
            )));
        }
    }
    if !matches!(request.compatibility_version, 0 | COMPATIBILITY) {
        return Err(Error::invalid(format!(
            "compatibility version {} is not known, only {COMPATIBILITY} is",
            request.compatibility_version
        )));
    }
    let refused = |what: &str| {
        Err(Error::new(
            gateway_api::Code::Unimplemented,
            format!("{what} are not supported by this daemon"),
        ))
    };
    if request.proxy_network {
        return refused("networks with a proxy (ProxyNetwork)");
    }
    Ok(())
}

async fn run(
    daemon: &Daemon,
    peer: &Peer,
    terms: Terms,
    request: SolveRequest,
    entry: &Entry,
) -> Result<Built, Error> {
    let state = &daemon.0;
    let scratch = tempfile::Builder::new()
        .prefix("b")
        .tempdir_in(state.options.root.join("tmp"))
        .map_err(own)?;
    let scratch = Arc::new(scratch);
    let builds = daemon.builds(peer);
    // Calls may come before the frontend can take them.
    let driven = request.frontend.is_empty() && request.definition.is_none();
    let announced = driven.then(|| builds.announce(&request.r#ref));
    let place = Place {
        sessions: &state.sessions,
        peer,
        session: &request.session,
        scratch: scratch.path(),
    };
    let outputs = tokio::select! {
        outputs = Outputs::of(&request, &place) => outputs?,
        () = entry.running.cancel.cancelled() => return Err(Error::canceled()),
    };
    let session: Arc<dyn Session> = match request.session.as_str() {
        "" if terms.uploads.is_empty() => Arc::new(NoSession),
        id => Arc::new(ClientSession::new(
            id,
            peer.clone(),
            terms.encoding,
            state.sessions.clone(),
            state.locals.clone(),
            scratch.clone(),
            terms.uploads,
        )),
    };
    let late = request.enable_session_exporter.then(|| {
        Arc::new(SessionExporters::new(
            state.sessions.clone(),
            peer.clone(),
            request.session.clone(),
            outputs.exporters.len(),
            scratch.path().to_owned(),
        ))
    });
    let logins = ClientLogins::new(state.sessions.clone(), peer.clone(), &request.session);
    let registries = state.options.solver.registries();
    let log = entry.running.log.clone();
    let policies = match &request.source_policy {
        Some(policy) => gateway_bridge::read_source_policies(&[policy.encode_to_vec()])?,
        None => SourcePolicies::default(),
    };
    let judge = match request.source_policy_session.as_str() {
        "" => None,
        id => {
            let judge = SessionJudge::new(state.sessions.clone(), peer.clone(), id);
            Some(Arc::new(judge) as Arc<dyn SourceJudge>)
        }
    };
    let build = BuildRequest {
        frontend: request.frontend.clone(),
        opts: request.frontend_attrs.clone(),
        inputs: request.frontend_inputs.clone(),
        session,
        progress: Progress::new(move |status| log.write(to_wire(status))),
        entitlements: request
            .entitlements
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>(),
        source_policies: policies,
        source_judge: judge,
        pins: None,
        collect: None,
        verify_replay: false,
        registries: Some(registries.with_credentials(Arc::new(logins))),
        exporters: outputs.exporters,
        late_exporters: late.clone().map(|late| late as Arc<dyn LateExporters>),
        record_provenance: !request.internal,
        cache_imports: outputs.imports,
        cache_exports: outputs.exports,
        cancel: entry.running.cancel.clone(),
    };
    let engine = &state.options.engine;
    let response = match (request.definition, driven) {
        (Some(definition), _) if request.frontend.is_empty() => {
            engine.build_with(build, of_definition(definition)).await
        }
        (_, true) => {
            let limits = &state.options.limits;
            engine
                .build_with(build, builds.frontend(&request.r#ref, limits))
                .await
        }
        _ => engine.build(build).await,
    };
    drop(announced);
    let mut response: BuildResponse = response?;
    let mut deliveries = outputs.deliveries;
    if let Some(late) = &late {
        deliveries.extend(late.deliveries());
    }
    for delivery in deliveries {
        let handle = state.sessions.find(peer, &request.session).await?;
        if delivery.cache && !delivery.from.exists() {
            continue;
        }
        let store = ClientStore::new(handle, delivery.store);
        store.push_layout(&delivery.from).await?;
        if delivery.cache
            && let Some(manifest) = manifest(&delivery.from)
        {
            response
                .exporter
                .insert("cache.manifest".to_owned(), manifest);
        }
    }
    if late.is_some() {
        let handle = state.sessions.find(peer, &request.session).await?;
        finalize_export(&handle, &response.exporter).await?;
    }
    Ok(Built {
        response: response.exporter,
        provenance: response.provenance,
    })
}

/// The manifest that a layout is of, as JSON.
fn manifest(layout: &std::path::Path) -> Option<String> {
    let index = std::fs::read(layout.join("index.json")).ok()?;
    let index: serde_json::Value = serde_json::from_slice(&index).ok()?;
    let mut manifest = index.get("manifests")?.get(0)?.clone();
    // Names are the client's to give.
    manifest.as_object_mut()?.remove("annotations");
    Some(manifest.to_string())
}

/// A frontend that solves one definition.
fn of_definition(definition: pb::Definition) -> FrontendFn {
    Arc::new(move |gateway: Arc<dyn Gateway>| {
        let definition = definition.clone();
        Box::pin(async move {
            let request = gateway_api::SolveRequest {
                definition: Some(definition),
                ..gateway_api::SolveRequest::default()
            };
            gateway.solve(request).await
        })
    })
}

/// Writes down how it ended.
async fn end(
    daemon: &Daemon,
    entry: Entry,
    mut record: BuildHistoryRecord,
    remembered: Option<Option<Trace>>,
    built: &Result<Built, Error>,
) {
    let history = daemon.0.history.clone();
    let counts = entry.running.log.counts();
    entry.running.log.end();
    let Some(trace) = remembered else {
        history.forget(&record.r#ref);
        return;
    };
    record.completed_at = Some(timestamp(OffsetDateTime::now_utc()));
    (
        record.num_cached_steps,
        record.num_total_steps,
        record.num_completed_steps,
        record.num_warnings,
    ) = counts.numbers();
    match built {
        Ok(built) => {
            record.exporter_response.clone_from(&built.response);
            results(&history, &mut record, built);
        }
        Err(error) => {
            let mut status = to_rpc(error);
            let whole = status.encode_to_vec();
            record.external_error = history.keep(&record.r#ref, STATUS, &whole);
            // The details are in the blob; lists of builds stay small.
            if record.external_error.is_some() {
                status.details.clear();
            }
            record.error = Some(status);
        }
    }
    // It reads all that was said.
    let _ = tokio::task::spawn_blocking(move || history.finished(record, trace)).await;
    // The build is over, also for those who look for it by its ref, only when history knows it.
    drop(entry);
}

/// What came out of a build, and what it was made of, as history tells.
fn results(history: &History, record: &mut BuildHistoryRecord, built: &Built) {
    for provenance in &built.provenance {
        let Some(mut descriptor) = history.keep(&record.r#ref, STATEMENT, &provenance.predicate)
        else {
            continue;
        };
        descriptor.annotations.insert(
            "in-toto.io/predicate-type".to_owned(),
            provenance.predicate_type.clone(),
        );
        let info = match &provenance.key {
            None => record.result.get_or_insert_default(),
            Some(key) => record.results.entry(key.clone()).or_default(),
        };
        info.attestations.push(descriptor);
    }
    let described = built.response.get("containerimage.descriptor");
    if let Some(descriptor) = described.and_then(|text| descriptor(text)) {
        let info = record.result.get_or_insert_default();
        info.result_deprecated = Some(descriptor.clone());
        info.results.insert(0, descriptor);
    }
}

/// A descriptor as responses carry it: JSON in base64.
fn descriptor(text: &str) -> Option<Descriptor> {
    use base64::Engine as _;
    let json = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    let value: serde_json::Value = serde_json::from_slice(&json).ok()?;
    let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
    Some(Descriptor {
        media_type: text("mediaType")?,
        digest: text("digest")?,
        size: value.get("size")?.as_i64()?,
        ..Descriptor::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(size: usize) -> BTreeMap<String, String> {
        [("build-arg:A".to_owned(), "x".repeat(size - 11))].into()
    }

    #[test]
    fn p37_options_of_more_than_four_mebibytes_are_refused_with_the_numbers() {
        let terms = Terms::of_call(Granted::default(), &tonic::metadata::MetadataMap::new());
        let checked = |size| {
            let request = SolveRequest {
                r#ref: "a".to_owned(),
                frontend_attrs: options(size),
                ..SolveRequest::default()
            };
            check(&terms, &request)
        };
        assert!(checked(4 << 20).is_ok());
        let error = checked((4 << 20) + 1).unwrap_err();
        assert!(
            error.message.contains("4194305 bytes, more than 4194304"),
            "{error:?}"
        );
    }

    #[test]
    fn p51_history_keeps_options_that_can_be_read_and_no_sessions() {
        let mut given = options(64 << 10);
        given.insert("local-sessionid:context".to_owned(), "secret".to_owned());
        given.insert("zzz".to_owned(), "does not fit any more".to_owned());
        assert_eq!(remembered(&given), options(64 << 10));
        assert!(remembered(&options((64 << 10) + 1)).is_empty());
    }
}
