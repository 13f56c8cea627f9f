//! What a result was made of, for attestations of its provenance: the sources that its graph
//! names, and the images that were looked at on the way.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use gateway_api::Error;
use gateway_images::platform::Platform;
use gateway_images::purl;
use gateway_images::reference::Reference;
use gateway_images::registry::shown_url;
use gateway_llb::pb;

use crate::export::{SolvedAttestation, SolvedResult, wanted};
use crate::job::{Job, JobInner};
use crate::ops::git::Git;
use crate::ops::image::platform_of;
use crate::result::ResultRef;
use crate::shared::Outcome;

/// Something that went into a result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    pub uri: String,
    /// By algorithm.
    pub digest: BTreeMap<String, String>,
}

/// All that went into one result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Materials {
    pub list: Vec<Material>,
    /// Directories of the client, which nothing can vouch for.
    pub locals: Vec<String>,
    /// Secrets that steps were given, by id: whether all could do without. Never their values.
    pub secrets: BTreeMap<String, bool>,
    /// Agents of ssh, in the same way.
    pub ssh: BTreeMap<String, bool>,
    /// A step could reach the network.
    pub network: bool,
    /// A part of the graph is made while it is solved.
    pub incomplete: bool,
    /// What the steps that ran used, by the digests of their ops; only when the build counts it.
    pub usage: BTreeMap<String, serde_json::Value>,
}

impl Materials {
    /// Takes down what a step is given of the client's.
    fn given(&mut self, op: &pb::ExecOp) {
        fn add(known: &mut BTreeMap<String, bool>, id: &str, optional: bool) {
            let known = known.entry(id.to_owned()).or_insert(true);
            *known &= optional;
        }
        for mount in &op.mounts {
            if let (pb::MountType::Secret, Some(secret)) = (mount.mount_type(), &mount.secret_opt) {
                add(&mut self.secrets, &secret.id, secret.optional);
            }
            if mount.mount_type() == pb::MountType::Ssh {
                let ssh = mount.ssh_opt.clone().unwrap_or_default();
                let id = if ssh.id.is_empty() {
                    "default"
                } else {
                    &ssh.id
                };
                add(&mut self.ssh, id, ssh.optional);
            }
        }
        for secret in &op.secretenv {
            add(&mut self.secrets, &secret.id, secret.optional);
        }
    }
}

/// An image that was looked at.
struct Image {
    reference: Reference,
    platform: Platform,
    digest: String,
}

impl Job {
    /// Adds to every platform of a result what `attest` says of its materials. Does the work of
    /// the results.
    ///
    /// # Errors
    /// A build failure, or what `attest` says.
    pub async fn attest_provenance(
        &self,
        result: &mut SolvedResult,
        attest: impl Fn(Materials, Option<&ResultRef>) -> Result<SolvedAttestation, Error>,
    ) -> Result<(), Error> {
        let job = self.inner();
        let mut roots = BTreeMap::new();
        let mut results = BTreeMap::new();
        let mut platforms = Vec::new();
        let mut keys = Vec::new();
        {
            let (wanted, lone) = wanted(self, result)?;
            let works = wanted.iter().filter_map(|(_, _, result)| *result);
            try_join_all(works.map(|result| self.evaluate(result))).await?;
            for (id, platform, reference) in wanted {
                let key = if id.is_empty() { lone.clone() } else { id };
                if let Some(reference) = reference {
                    roots.insert(key.clone(), reference.loaded(job)?.0);
                    results.insert(key.clone(), reference.clone());
                }
                platforms.push(platform);
                keys.push(key);
            }
        }
        let all = job.roots().clone();
        for (key, platform) in keys.iter().zip(&platforms) {
            // All that was solved on the way, but nothing that only another platform needs.
            let mut own = all.clone();
            for (other, root) in &roots {
                if other != key {
                    own.remove(root);
                }
            }
            own.extend(roots.get(key).cloned());
            let materials = materials(job, &own, platform, &platforms)?;
            let attestation = attest(materials, results.get(key))?;
            let list = result.attestations.entry(key.clone()).or_default();
            list.push(attestation);
        }
        Ok(())
    }
}

impl Job {
    /// The results of which things are attested, with the keys of those; `None` for scratch.
    ///
    /// # Errors
    /// Several results without platforms, or platforms that cannot be read.
    pub fn attested_results(
        &self,
        result: &SolvedResult,
    ) -> Result<Vec<(String, Option<ResultRef>)>, Error> {
        let (wanted, lone) = wanted(self, result)?;
        let keyed = wanted.into_iter().map(|(id, _, reference)| {
            let key = if id.is_empty() { lone.clone() } else { id };
            (key, reference.cloned())
        });
        Ok(keyed.collect())
    }
}

fn materials(
    job: &JobInner,
    roots: &BTreeSet<String>,
    platform: &Platform,
    platforms: &[Platform],
) -> Outcome<Materials> {
    let mut found = Materials::default();
    let mut locals = BTreeSet::new();
    let mut list = BTreeSet::new();
    let mut seen = roots.clone();
    let mut todo: Vec<String> = roots.iter().cloned().collect();
    while let Some(key) = todo.pop() {
        let vertex = job.graph.get(&key)?;
        match &vertex.op.op {
            Some(pb::op::Op::Source(op)) => {
                let pin = vertex.pin.get().map_or("", String::as_str);
                let platform = platform_of(&job.platform(&vertex.op));
                list.extend(source(op, pin, &platform, &mut locals)?);
            }
            Some(pb::op::Op::Exec(op)) => {
                found.network |= op.network() != pb::NetMode::None;
                found.given(op);
                if let Some(usage) = vertex.usage.get() {
                    found.usage.insert(vertex.digest.clone(), usage.clone());
                }
            }
            Some(pb::op::Op::Build(_)) => found.incomplete = true,
            _ => {}
        }
        for (input, _) in &vertex.inputs {
            if seen.insert(input.clone()) {
                todo.push(input.clone());
            }
        }
    }
    let mut images = chosen(looked_at(job), platform, platforms);
    images.sort_by_key(|image| image.reference.to_string());
    found.list = images.into_iter().map(image).collect();
    found.list.dedup();
    found.list.extend(list);
    found.locals = locals.into_iter().collect();
    Ok(found)
}

/// The images of registries that the build resolved, by tag or by digest.
fn looked_at(job: &JobInner) -> Vec<Image> {
    let images = job.images();
    let known = images
        .iter()
        .filter_map(|((reference, platform, _), work)| {
            let meta = work.peek()?.as_ref().ok()?;
            Some(Image {
                reference: Reference::parse(reference).ok()?,
                platform: platform.parse().ok()?,
                digest: meta.root.to_string(),
            })
        });
    known.collect()
}

/// Without those that another platform of the result looked at in the same way, and without
/// names by digest of what is there by its tag.
fn chosen(images: Vec<Image>, platform: &Platform, platforms: &[Platform]) -> Vec<Image> {
    let same = |a: &Platform, b: &Platform| a.normalized() == b.normalized();
    let everywhere: BTreeSet<String> = images
        .iter()
        .filter(|image| {
            platforms.iter().all(|platform| {
                images.iter().any(|other| {
                    other.reference == image.reference && same(&other.platform, platform)
                })
            })
        })
        .map(|image| image.reference.to_string())
        .collect();
    let tag = |image: &Image| {
        let tag = image.reference.tag().unwrap_or("latest");
        format!("{}:{tag}", image.reference.name())
    };
    let tagged: BTreeSet<String> = images
        .iter()
        .filter(|image| image.reference.digest().is_none())
        .map(tag)
        .collect();
    images
        .into_iter()
        .filter(|image| {
            !everywhere.contains(&image.reference.to_string()) || same(&image.platform, platform)
        })
        .filter(|image| image.reference.digest().is_none() || !tagged.contains(&tag(image)))
        .collect()
}

fn image(image: Image) -> Material {
    Material {
        uri: purl::image(&image.reference, &image.platform),
        digest: digest(&image.digest),
    }
}

/// `ALGORITHM:HEX` as a map; nothing for other texts.
fn digest(text: &str) -> BTreeMap<String, String> {
    let parts = text.split_once(':');
    parts
        .map(|(algorithm, hex)| (algorithm.to_owned(), hex.to_owned()))
        .into_iter()
        .collect()
}

/// A source that is no image of a registry.
fn source(
    op: &pb::SourceOp,
    pin: &str,
    platform: &Platform,
    locals: &mut BTreeSet<String>,
) -> Outcome<Option<Material>> {
    let Some((scheme, rest)) = op.identifier.split_once("://") else {
        return Ok(None);
    };
    Ok(match scheme {
        "local" => {
            locals.insert(rest.to_owned());
            None
        }
        "docker-image+blob" | "oci-layout+blob" => Reference::parse(rest).ok().map(|reference| {
            let uri = purl::blob(&reference);
            Material {
                digest: digest(pin),
                uri: match scheme {
                    "oci-layout+blob" => uri.replacen("pkg:docker/", "pkg:oci/", 1),
                    _ => uri,
                },
            }
        }),
        "oci-layout" => Reference::parse(rest).ok().map(|reference| Material {
            digest: reference
                .digest()
                .map(|found| digest(&found.to_string()))
                .unwrap_or_default(),
            uri: purl::image(&reference, platform).replacen("pkg:docker/", "pkg:oci/", 1),
        }),
        "git" => {
            let git = Git::of(op)?;
            let algorithm = if pin.len() == 64 { "sha256" } else { "sha1" };
            let reference = match git.reference.as_str() {
                "" => String::new(),
                reference => format!("#{reference}"),
            };
            Some(Material {
                uri: format!("{}{reference}", git.shown()),
                digest: [(algorithm.to_owned(), pin.to_owned())].into(),
            })
        }
        "http" | "https" => Some(Material {
            uri: shown_url(&op.identifier),
            digest: digest(pin),
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(reference: &str, architecture: &str) -> Image {
        Image {
            reference: Reference::parse(reference).unwrap(),
            platform: Platform::new("linux", architecture, ""),
            digest: "sha256:00".into(),
        }
    }

    #[test]
    fn images_of_other_platforms_and_second_names_are_left_out() {
        let pinned = format!("alpine:3@sha256:{}", "0".repeat(64));
        let images = vec![
            looked("alpine:3", "amd64"),
            looked("alpine:3", "arm64"),
            looked(&pinned, "amd64"),
            looked("frontend:1", "amd64"),
        ];
        let platforms = ["amd64", "arm64"].map(|name| Platform::new("linux", name, ""));
        let chosen = chosen(images, &platforms[1], &platforms);
        let names: Vec<String> = chosen.into_iter().map(|i| image(i).uri).collect();
        assert_eq!(
            names,
            [
                "pkg:docker/alpine@3?platform=linux%2Farm64",
                "pkg:docker/frontend@1?platform=linux%2Famd64"
            ]
        );
    }

    #[test]
    fn sources_are_named_without_passwords() {
        let mut locals = BTreeSet::new();
        let mut named = |identifier: &str, pin: &str| {
            let op = pb::SourceOp {
                identifier: identifier.into(),
                attrs: BTreeMap::new(),
            };
            let platform = Platform::new("linux", "amd64", "");
            source(&op, pin, &platform, &mut locals).unwrap()
        };
        let web = named("https://me:pw@h.example/f", "sha256:01").unwrap();
        assert!(!web.uri.contains("pw"), "{}", web.uri);
        assert_eq!(web.digest["sha256"], "01");
        let git = named("git://h.example/r.git#v1", &"a".repeat(40)).unwrap();
        assert_eq!(git.uri, "https://h.example/r.git#v1");
        assert!(git.digest.contains_key("sha1"));
        assert_eq!(named("local://context", ""), None);
        assert_eq!(locals, BTreeSet::from(["context".to_owned()]));
    }

    #[test]
    fn what_one_step_cannot_do_without_is_not_optional() {
        let secret = |optional| pb::Mount {
            mount_type: pb::MountType::Secret.into(),
            secret_opt: Some(pb::SecretOpt {
                id: "s".into(),
                optional,
                ..pb::SecretOpt::default()
            }),
            ..pb::Mount::default()
        };
        let agent = pb::Mount {
            mount_type: pb::MountType::Ssh.into(),
            ssh_opt: Some(pb::SshOpt {
                optional: true,
                ..pb::SshOpt::default()
            }),
            ..pb::Mount::default()
        };
        let step = |mounts| pb::ExecOp {
            mounts,
            ..pb::ExecOp::default()
        };
        let mut found = Materials::default();
        found.given(&step(vec![secret(true), agent]));
        assert_eq!(found.secrets, BTreeMap::from([("s".to_owned(), true)]));
        found.given(&step(vec![secret(false)]));
        found.given(&step(vec![secret(true)]));
        assert_eq!(found.secrets, BTreeMap::from([("s".to_owned(), false)]));
        assert_eq!(found.ssh, BTreeMap::from([("default".to_owned(), true)]));
    }
}
