//! Cache key of an exec op, and which of its inputs may be matched by content.

use gateway_llb::{path, pb};

use super::go_json::Object;
use super::{Dep, OpKey, Selector, dedupe_paths, digest_of, selector_digest};

/// The key. `platform` is the normalised one that the op runs on.
///
/// # Errors
/// In BuildKit's words: a mount of an input that is not there, content hashing where it is unsafe.
pub fn exec_key(
    exec: &pb::ExecOp,
    platform: &pb::Platform,
    inputs: usize,
) -> Result<OpKey, String> {
    let json = Object::new()
        .text_always("Type", "buildkit.exec.v0")
        .raw("Exec", &exec_json(exec))
        .text_always("OS", &platform.os)
        .text_always("Arch", &platform.architecture)
        .text("Variant", &platform.variant)
        .text("OSVersion", &platform.os_version)
        .texts("OSFeatures", &platform.os_features)
        .done();
    Ok(OpKey {
        digest: digest_of(json.as_bytes()),
        deps: mount_deps(exec, inputs)?,
    })
}

fn exec_json(exec: &pb::ExecOp) -> String {
    let mut out = Object::new();
    out.maybe("meta", exec.meta.as_ref().map(meta));
    if !is_default_root(&exec.mounts) {
        out.list("mounts", &exec.mounts, mount);
    }
    out.int("network", exec.network)
        .int("security", exec.security)
        .list("secretenv", &exec.secretenv, |secret| {
            Object::new()
                .text("ID", &secret.id)
                .text("name", &secret.name)
                .flag("optional", secret.optional)
                .done()
        })
        .list("cdiDevices", &exec.cdi_devices, |device| {
            Object::new()
                .text("name", &device.name)
                .flag("optional", device.optional)
                .done()
        })
        .done()
}

/// The lone root mount of a plain step is not in the key.
fn is_default_root(mounts: &[pb::Mount]) -> bool {
    let [root] = mounts else { return false };
    root.dest == "/"
        && !root.readonly
        && root.mount_type == pb::MountType::Bind as i32
        && root.cache_opt.is_none()
        && root.ssh_opt.is_none()
        && root.secret_opt.is_none()
        && root.result_id.is_empty()
}

/// Proxy variables and the addresses of extra hosts differ between machines: not in the key.
fn meta(meta: &pb::Meta) -> String {
    Object::new()
        .texts("args", &meta.args)
        .texts("env", &meta.env)
        .text("cwd", &meta.cwd)
        .text("user", &meta.user)
        .list("extraHosts", &meta.extra_hosts, |host| {
            Object::new().text("Host", &host.host).done()
        })
        .text("hostname", &meta.hostname)
        .list("ulimit", &meta.ulimit, |limit| {
            Object::new()
                .text("Name", &limit.name)
                .int("Soft", limit.soft)
                .int("Hard", limit.hard)
                .done()
        })
        .text("cgroupParent", &meta.cgroup_parent)
        .flag(
            "removeMountStubsRecursive",
            meta.remove_mount_stubs_recursive,
        )
        .list("validExitCodes", &meta.valid_exit_codes, |code| {
            code.to_string()
        })
        .done()
}

fn mount(mount: &pb::Mount) -> String {
    let forwarded = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
        Object::new()
            .text("ID", id)
            .int("uid", uid)
            .int("gid", gid)
            .int("mode", mode)
            .flag("optional", optional)
            .done()
    };
    Object::new()
        .int("input", mount.input)
        .text("dest", &mount.dest)
        .int("output", mount.output)
        .flag("readonly", mount.readonly)
        .int("mountType", mount.mount_type)
        .maybe(
            "TmpfsOpt",
            mount
                .tmpfs_opt
                .as_ref()
                .map(|tmpfs| Object::new().int("size", tmpfs.size).done()),
        )
        .maybe(
            "cacheOpt",
            mount.cache_opt.as_ref().map(|cache| {
                if !is_default_cache(mount, cache) {
                    return "{}".into();
                }
                Object::new()
                    .text("ID", &cache.id)
                    .int("sharing", cache.sharing)
                    .done()
            }),
        )
        .maybe(
            "secretOpt",
            mount
                .secret_opt
                .as_ref()
                .map(|s| forwarded(&s.id, s.uid, s.gid, s.mode, s.optional)),
        )
        .maybe(
            "SSHOpt",
            mount
                .ssh_opt
                .as_ref()
                .map(|s| forwarded(&s.id, s.uid, s.gid, s.mode, s.optional)),
        )
        .text("resultID", &mount.result_id)
        .int("contentCache", mount.content_cache)
        .done()
}

/// Only the id that a Dockerfile's cache mount has by default stays in the key.
fn is_default_cache(mount: &pb::Mount, cache: &pb::CacheOpt) -> bool {
    let behind_namespace = cache.id.split_once('/').map(|(_, rest)| rest);
    cache.sharing == pb::CacheSharingOpt::Shared as i32
        && (cache.id == mount.dest || behind_namespace == Some(mount.dest.as_str()))
}

#[derive(Default)]
struct MountDep {
    paths: Vec<String>,
    content: bool,
}

fn mount_deps(exec: &pb::ExecOp, inputs: usize) -> Result<Vec<Dep>, String> {
    let mut deps: Vec<MountDep> = (0..inputs).map(|_| MountDep::default()).collect();
    for mount in &exec.mounts {
        let kind = mount.mount_type();
        if !matches!(kind, pb::MountType::Bind | pb::MountType::Cache) || mount.input == -1 {
            continue;
        }
        let dep = usize::try_from(mount.input)
            .ok()
            .and_then(|index| deps.get_mut(index))
            .ok_or_else(|| format!("invalid mountinput {}", mount.input))?;
        let selected = path::clean(&format!("/{}", mount.selector));
        let safe = mount.output == -1 || mount.readonly || selected == "/";
        dep.content = match mount.content_cache() {
            pb::MountContentCache::Off => false,
            pb::MountContentCache::On if !safe => {
                return Err(format!("invalid mount cache content {}", mount.dest));
            }
            pb::MountContentCache::On => true,
            // The root is too large to hash for nothing: it hardly ever is equal.
            pb::MountContentCache::Default => safe && mount.dest != "/",
        };
        dep.paths.push(selected);
    }
    Ok(deps
        .into_iter()
        .map(|dep| Dep {
            selector: (!dep.paths.is_empty())
                .then(|| selector_digest(dep.paths.iter().map(String::as_str))),
            content: dep.content.then(|| content_selectors(dep.paths)),
        })
        .collect())
}

/// An empty list stands for the whole tree.
fn content_selectors(paths: Vec<String>) -> Vec<Selector> {
    let paths = dedupe_paths(paths);
    if paths.iter().any(|path| path.is_empty() || path == "/") {
        return Vec::new();
    }
    paths
        .into_iter()
        .map(|path| Selector {
            path,
            follow_links: true,
            ..Selector::default()
        })
        .collect()
}
