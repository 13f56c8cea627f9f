//! Git repositories as sources, by the git program: a name becomes a commit when keyed, a commit
//! becomes a layer once.

mod bundle;
mod checkout;
mod identifier;
mod program;
mod remote;
mod repository;
mod signed;

use std::sync::Arc;

use base64::Engine as _;
use gateway_api::{Error, GitMeta};
use gateway_llb::pb;

use crate::job::JobInner;
use crate::key::{GitKey, digest_of, git_key, source_digest};
use crate::live::{LiveVertex, VertexKey};
use crate::ops::blob;
use crate::pins::{self, GitPin, Pins};
use crate::shared::{Outcome, blocking, spawn_shared};
use crate::solve::internal;
use crate::store::{Layer, LayerRecord, Snapshot, WorkDir};
pub use identifier::Git;
use program::Program;
pub use remote::Resolved;

/// Hosts whose repositories take one token, so that it serves submodules too.
const ONE_TOKEN: [&str; 2] = ["https://github.com/", "https://www.github.com/"];

fn key(git: &Git, resolved: &Resolved) -> String {
    git_key(&GitKey {
        commit: resolved.checked_out(),
        keep_git_dir: git.keep_git_dir,
        reference: &resolved.reference,
        subdir: &git.subdir,
        skip_submodules: git.skip_submodules,
        mtime: &git.mtime,
        bundle: git.checkout_bundle,
    })
}

/// A program with the source's logins, and the directory that it needs while it is used.
async fn program(job: &Arc<JobInner>, git: &Git) -> Outcome<(Program, WorkDir)> {
    let work = job.store().work_dir().map_err(internal)?;
    let mut program = Program {
        dir: work.sub("home").map_err(internal)?,
        origin: Some(git.remote.clone()),
        ..Program::default()
    };
    if let Some(from) = &git.bundle {
        // Nobody is asked but the bundle: no login goes anywhere.
        let path = bundle_file(job, from, &work).await?;
        program.origin = Some(path.to_string_lossy().into_owned());
        return Ok((program, work));
    }
    if let Some(dir) = job.options.pins.as_deref().and_then(Pins::layout) {
        return Err(Error::unknown(format!(
            "{}#{}: its repository is needed (for a signature, or the names in it), and {} has its files only",
            git.shown(),
            git.reference,
            dir.display()
        )));
    }
    if let Some(login) = git.url_login() {
        program.secrets.push(login.to_owned());
        program.secrets.extend(
            login
                .split_once(':')
                .map(|(_, password)| password.to_owned()),
        );
    }
    if !git.known_hosts.is_empty() {
        let path = work.path().join("known_hosts");
        std::fs::write(&path, &git.known_hosts).map_err(internal)?;
        program.known_hosts = Some(path);
    }
    if !git.ssh_agent.is_empty() {
        let id = &git.ssh_agent;
        let socket = job.options.session.ssh_socket(id).await;
        let socket = socket.map_err(|error| Error::unknown(error.to_string()))?;
        let socket = socket.ok_or_else(|| {
            Error::unknown(format!("no SSH key {id:?} forwarded from the client"))
        })?;
        program.ssh_agent = Some(socket);
    }
    if let Some((header, secret)) = login(job, git).await? {
        program.secrets.push(secret);
        program.secrets.push(header.clone());
        let scope = ONE_TOKEN
            .iter()
            .find(|prefix| git.remote.starts_with(**prefix))
            .map_or_else(|| git.shown(), |prefix| (*prefix).to_owned());
        program.login = Some((scope, format!("Authorization: {header}")));
    }
    Ok((program, work))
}

/// The header's value and the secret that it was made of. Those for the host come first, headers
/// before tokens.
async fn login(job: &Arc<JobInner>, git: &Git) -> Outcome<Option<(String, String)>> {
    if !git.remote.starts_with("http") {
        return Ok(None);
    }
    let host = git.host();
    let names = [
        (
            &git.auth_header,
            format!("{}.{host}", git.auth_header),
            false,
        ),
        (&git.auth_token, format!("{}.{host}", git.auth_token), true),
        (&git.auth_header, git.auth_header.clone(), false),
        (&git.auth_token, git.auth_token.clone(), true),
    ];
    for (_, id, is_token) in names.iter().filter(|(given, ..)| !given.is_empty()) {
        let secret = job.options.session.secret(id).await;
        let Some(secret) = secret.map_err(|error| Error::unknown(error.to_string()))? else {
            continue;
        };
        let text = std::str::from_utf8(secret.expose())
            .map_err(|_| Error::unknown(format!("secret {id} is no text")))?
            .trim()
            .to_owned();
        if text.contains(char::is_control) {
            return Err(Error::unknown(format!(
                "secret {id} has characters that cannot stand in a header"
            )));
        }
        let header = match is_token {
            true => {
                let pair = format!("x-access-token:{text}");
                let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                format!("basic {pair}")
            }
            false => text.clone(),
        };
        return Ok(Some((header, text)));
    }
    Ok(None)
}

fn pin(resolved: &Resolved) -> GitPin {
    GitPin {
        reference: resolved.reference.clone(),
        checksum: resolved.checksum.clone(),
        commit: resolved.commit.clone(),
    }
}

/// What a pin says, if the source may have that.
fn pinned(pins: &Pins, git: &Git, pin: &GitPin) -> Outcome<Resolved> {
    let fits = |id: &str| id.starts_with(&git.checksum);
    if !fits(&pin.checksum) && !pin.commit.as_deref().is_some_and(fits) {
        let error = Error::unknown(format!(
            "{}#{} must have the checksum {}",
            git.shown(),
            git.reference,
            git.checksum
        ));
        return Err(pins.drifted(error, &git.shown(), &pin.checksum));
    }
    pins.took_git(&git.remote, &git.reference, pin.clone());
    Ok(Resolved {
        reference: pin.reference.clone(),
        checksum: pin.checksum.clone(),
        // With `.git` kept, the tag object is part of what is checked out.
        commit: pin.commit.clone().filter(|_| !git.keep_git_dir),
    })
}

/// What the source's name means, once per build.
async fn resolved(job: &Arc<JobInner>, git: &Git) -> Outcome<Arc<Resolved>> {
    // A bundle is pinned as it is.
    let pins = job.options.pins.as_deref();
    let pins = pins.filter(|_| git.bundle.is_none());
    if let Some(pins) = pins
        && let Some(pin) = pins.git(&git.remote, &git.reference)?
    {
        return pinned(pins, git, pin).map(Arc::new);
    }
    let known = match git.bundle {
        Some(_) => bundle::known(git)?,
        None => remote::known(git)?,
    };
    if let Some(known) = known {
        if let Some(pins) = pins {
            pins.took_git(&git.remote, &git.reference, pin(&known));
        }
        return Ok(Arc::new(known));
    }
    let identity = format!(
        "{} {} {} {} {:?}",
        git.remote,
        git.reference,
        git.checksum,
        git.keep_git_dir,
        git.bundle
            .as_ref()
            .map(|bundle| (&bundle.locator, &bundle.oci_store))
    );
    let work = {
        let mut commits = job.git_commits();
        match commits.get(&identity) {
            Some(work) => work.clone(),
            None => {
                let (inner, git) = (job.clone(), git.clone());
                let work = spawn_shared(async move {
                    let ask = async {
                        let (program, _work) = program(&inner, &git).await?;
                        remote::ask(&program, &git).await
                    };
                    let found = inner.until_cancelled(ask).await?;
                    if let Some(pins) = &inner.options.pins
                        && git.bundle.is_none()
                    {
                        pins.took_git(&git.remote, &git.reference, pin(&found));
                    }
                    Ok(Arc::new(found))
                });
                commits.insert(identity, work.clone());
                work
            }
        }
    };
    work.await
}

pub async fn keys(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
) -> Outcome<VertexKey> {
    let git = Git::of(op)?.shown_by(&vertex.digest);
    let running = job.reports.start(&vertex.digest);
    let resolved = async {
        let resolved = resolved(job, &git).await?;
        verified(job, &git, &resolved).await?;
        Ok(resolved)
    }
    .await;
    if let Ok(resolved) = &resolved {
        let _ = vertex.pin.set(resolved.checked_out().to_owned());
        let line = format!("{}\t{}\n", resolved.checked_out(), resolved.reference);
        job.reports.log(&vertex.digest, 1, line.into_bytes());
    }
    running.finish(&resolved);
    Ok(VertexKey::Source(vec![source_digest(&key(
        &git,
        &*resolved?,
    ))]))
}

/// The source, what it means, and the layer that its checkout is.
pub async fn layer(
    job: &Arc<JobInner>,
    op: &pb::SourceOp,
) -> Outcome<(Git, Arc<Resolved>, String)> {
    let git = Git::of(op)?;
    let resolved = resolved(job, &git).await?;
    let digest = digest_of(format!("{}:{}", key(&git, &resolved), git.subdir).as_bytes());
    let layer = format!("git-{}", digest.replace("sha256:", ""));
    Ok((git, resolved, layer))
}

pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
) -> Outcome<Vec<Snapshot>> {
    let (git, resolved, layer) = layer(job, op).await?;
    let git = git.shown_by(&vertex.digest);
    let done = || Ok(vec![Snapshot::new(vec![Layer::stored(layer.clone())])]);
    let _lock = job.store().lock(&layer).await.map_err(internal)?;
    if job.store().has_layer(&layer) {
        job.reports.cached(&vertex.digest);
        return done();
    }
    if let Some(pins) = job
        .options
        .pins
        .as_deref()
        .filter(|pins| pins.layout().is_some())
    {
        let made = (&git, &*resolved);
        let saved = pins::saved_checkout(job, pins, &vertex.digest, made, &layer).await?;
        return Ok(vec![Snapshot::new(vec![saved])]);
    }
    let running = job.reports.start(&vertex.digest);
    let status = job
        .reports
        .status(&vertex.digest, format!("fetch {}", git.shown()), "fetch");
    let outcome = make(job, &git, &resolved, &layer).await;
    let outcome = outcome.map_err(|error| match &job.options.pins {
        Some(pins) => pins.drifted(error, &git.shown(), &resolved.checksum),
        None => error,
    });
    status.done();
    running.finish(&outcome);
    outcome?;
    done()
}

async fn make(job: &Arc<JobInner>, git: &Git, resolved: &Resolved, layer: &str) -> Outcome<()> {
    let (program, _work) = program(job, git).await?;
    let copy = repository::fetch(job, &program, git, resolved).await?;
    let made = match git.checkout_bundle {
        true => bundle::create(job, &program, git, resolved, &copy).await?,
        false => checkout::checkout(job, &program, git, resolved, &copy).await?,
    };
    let record = LayerRecord {
        id: layer.to_owned(),
        base: Vec::new(),
        description: format!("git snapshot for {}#{}", git.shown(), git.reference),
        created_at: time::OffsetDateTime::now_utc().unix_timestamp(),
        opaque_root: false,
        kind: String::new(),
    };
    let job = job.clone();
    blocking(move || {
        let store = job.store();
        store.add_layer(&record).map_err(internal)?;
        store
            .commit_layer(&made.dir, &record.id)
            .map_err(internal)?;
        drop(made.work);
        Ok(())
    })
    .await
}

/// What is known of the source; with the objects themselves when they are asked for.
/// `shown` is the vertex that shows a transfer.
pub async fn meta(
    job: &Arc<JobInner>,
    op: &pb::SourceOp,
    objects: bool,
    shown: &str,
) -> Outcome<GitMeta> {
    let git = Git::of(op)?.shown_by(shown);
    let resolved = resolved(job, &git).await?;
    verified(job, &git, &resolved).await?;
    let mut meta = GitMeta {
        checksum: resolved.checksum.clone(),
        reference: resolved.reference.clone(),
        commit_checksum: resolved.commit.clone().unwrap_or_default(),
        ..GitMeta::default()
    };
    if !objects {
        return Ok(meta);
    }
    let objects = self::objects(job, &git, &resolved).await?;
    meta.commit_checksum.clear();
    if !objects.tag.is_empty() {
        meta.commit_checksum = objects.commit_name;
    }
    meta.tag_object = objects.tag;
    meta.commit_object = objects.commit;
    Ok(meta)
}

async fn objects(job: &Arc<JobInner>, git: &Git, resolved: &Resolved) -> Outcome<signed::Objects> {
    let (program, _work) = program(job, git).await?;
    let copy = repository::fetch(job, &program, git, resolved).await?;
    signed::objects(&program, &copy, resolved).await
}

/// Nothing of a source is used, not even its key, before its signature was seen.
async fn verified(job: &Arc<JobInner>, git: &Git, resolved: &Resolved) -> Outcome<()> {
    let Some(signed_by) = &git.signed_by else {
        return Ok(());
    };
    let objects = objects(job, git, resolved).await?;
    signed::verify(git, signed_by, resolved, objects).await
}

/// The file of a bundle, brought here from where it lies. It stays as long as `work`.
async fn bundle_file(
    job: &Arc<JobInner>,
    bundle: &identifier::Bundle,
    work: &WorkDir,
) -> Outcome<std::path::PathBuf> {
    let op = bundle.blob();
    let failed =
        |error: Error| error.context(format!("failed to fetch git bundle {}", bundle.locator));
    let digest = blob::fetch(job, &bundle.vertex, &op)
        .await
        .map_err(failed)?;
    let (job, path) = (job.clone(), work.path().join("bundle"));
    blocking(move || {
        let blobs = job.store().blobs();
        // A name of its own: the blob may be collected.
        if std::fs::hard_link(blobs.path(&digest), &path).is_err() {
            let mut from = blobs.reader(&digest).map_err(internal)?;
            let mut to = std::fs::File::create_new(&path).map_err(internal)?;
            std::io::copy(&mut from, &mut to).map_err(internal)?;
        }
        Ok(path)
    })
    .await
}
