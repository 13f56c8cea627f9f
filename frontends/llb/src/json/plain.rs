//! Ops as JSON in the form of attestations: fields by the names of the messages' structs, every
//! number a number, enums and numbers alike. Zero values are left out, except where an action's
//! places are told.

use serde_json::{Value, json};

use super::write::{Object, base64, embedded, platform};
use crate::pb;

/// One op without its inputs: those are told beside it.
pub fn plain_op(op: &pb::Op) -> Value {
    let mut kind = Object::new();
    match &op.op {
        Some(pb::op::Op::Exec(exec)) => kind.set("exec", self::exec(exec)),
        Some(pb::op::Op::Source(source)) => {
            let mut o = Object::new();
            o.text("identifier", &source.identifier);
            o.map("attrs", &source.attrs);
            kind.set("source", o.done());
        }
        Some(pb::op::Op::File(file)) => {
            let mut o = Object::new();
            o.list("actions", &file.actions, action);
            kind.set("file", o.done());
        }
        Some(pb::op::Op::Build(build)) => {
            let mut o = Object::new();
            o.number("builder", build.builder);
            if !build.inputs.is_empty() {
                let inputs = build.inputs.iter();
                let inputs = inputs.map(|(name, i)| (name.clone(), input(i.input)));
                o.set("inputs", Value::Object(inputs.collect()));
            }
            o.maybe("def", build.def.as_ref().map(embedded));
            o.map("attrs", &build.attrs);
            kind.set("build", o.done());
        }
        Some(pb::op::Op::Merge(merge)) => {
            let mut o = Object::new();
            o.list("inputs", &merge.inputs, |i| input(i.input));
            kind.set("merge", o.done());
        }
        Some(pb::op::Op::Diff(diff)) => {
            let mut o = Object::new();
            o.maybe("lower", diff.lower.as_ref().map(|l| input(l.input)));
            o.maybe("upper", diff.upper.as_ref().map(|u| input(u.input)));
            kind.set("diff", o.done());
        }
        Some(pb::op::Op::Passthrough(pass)) => {
            let mut o = Object::new();
            o.text("id", &pass.id);
            o.list("outputs", &pass.outputs, |n| json!(n));
            kind.set("passthrough", o.done());
        }
        None => {}
    }
    let mut out = Object::new();
    out.set("Op", kind.done());
    out.maybe("platform", op.platform.as_ref().map(platform));
    let filter = |constraints: &pb::WorkerConstraints| {
        let mut o = Object::new();
        o.list("filter", &constraints.filter, |f| json!(f));
        o.done()
    };
    out.maybe("constraints", op.constraints.as_ref().map(filter));
    out.done()
}

fn input(number: i64) -> Value {
    let mut out = Object::new();
    out.number("input", number);
    out.done()
}

fn exec(exec: &pb::ExecOp) -> Value {
    let mut out = Object::new();
    out.maybe("meta", exec.meta.as_ref().map(meta));
    out.list("mounts", &exec.mounts, mount);
    out.number("network", exec.network.into());
    out.number("security", exec.security.into());
    out.list("secretenv", &exec.secretenv, |secret| {
        let mut o = Object::new();
        o.text("ID", &secret.id);
        o.text("name", &secret.name);
        o.flag("optional", secret.optional);
        o.done()
    });
    out.list("cdiDevices", &exec.cdi_devices, |device| {
        let mut o = Object::new();
        o.text("name", &device.name);
        o.flag("optional", device.optional);
        o.done()
    });
    out.done()
}

fn meta(meta: &pb::Meta) -> Value {
    let mut out = Object::new();
    out.list("args", &meta.args, |s| json!(s));
    out.list("env", &meta.env, |s| json!(s));
    out.text("cwd", &meta.cwd);
    out.text("user", &meta.user);
    let proxies = |proxy: &pb::ProxyEnv| {
        let mut o = Object::new();
        o.text("http_proxy", &proxy.http_proxy);
        o.text("https_proxy", &proxy.https_proxy);
        o.text("ftp_proxy", &proxy.ftp_proxy);
        o.text("no_proxy", &proxy.no_proxy);
        o.text("all_proxy", &proxy.all_proxy);
        o.done()
    };
    out.maybe("proxy_env", meta.proxy_env.as_ref().map(proxies));
    out.list("extraHosts", &meta.extra_hosts, |host| {
        let mut o = Object::new();
        o.text("Host", &host.host);
        o.text("IP", &host.ip);
        o.done()
    });
    out.text("hostname", &meta.hostname);
    out.list("ulimit", &meta.ulimit, |limit| {
        let mut o = Object::new();
        o.text("Name", &limit.name);
        o.number("Soft", limit.soft);
        o.number("Hard", limit.hard);
        o.done()
    });
    out.text("cgroupParent", &meta.cgroup_parent);
    out.flag(
        "removeMountStubsRecursive",
        meta.remove_mount_stubs_recursive,
    );
    out.list("validExitCodes", &meta.valid_exit_codes, |code| json!(code));
    out.done()
}

fn mount(mount: &pb::Mount) -> Value {
    let forwarded = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
        let mut o = Object::new();
        o.text("ID", id);
        o.number("uid", uid.into());
        o.number("gid", gid.into());
        o.number("mode", mode.into());
        o.flag("optional", optional);
        o.done()
    };
    let mut out = Object::new();
    out.number("input", mount.input);
    out.text("selector", &mount.selector);
    out.text("dest", &mount.dest);
    out.number("output", mount.output);
    out.flag("readonly", mount.readonly);
    out.number("mountType", mount.mount_type.into());
    let tmpfs = |tmpfs: &pb::TmpfsOpt| {
        let mut o = Object::new();
        o.number("size", tmpfs.size);
        o.done()
    };
    out.maybe("TmpfsOpt", mount.tmpfs_opt.as_ref().map(tmpfs));
    let cache = |cache: &pb::CacheOpt| {
        let mut o = Object::new();
        o.text("ID", &cache.id);
        o.number("sharing", cache.sharing.into());
        o.done()
    };
    out.maybe("cacheOpt", mount.cache_opt.as_ref().map(cache));
    let secret = mount.secret_opt.as_ref();
    out.maybe(
        "secretOpt",
        secret.map(|s| forwarded(&s.id, s.uid, s.gid, s.mode, s.optional)),
    );
    let ssh = mount.ssh_opt.as_ref();
    out.maybe(
        "SSHOpt",
        ssh.map(|s| forwarded(&s.id, s.uid, s.gid, s.mode, s.optional)),
    );
    out.text("resultID", &mount.result_id);
    out.number("contentCache", mount.content_cache.into());
    out.done()
}

fn action(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;
    let mut o = Object::new();
    let kind = match &action.action {
        Some(Action::Copy(a)) => {
            o.text("src", &a.src);
            o.text("dest", &a.dest);
            o.maybe("owner", a.owner.as_ref().map(owner));
            o.number("mode", a.mode.into());
            o.flag("followSymlink", a.follow_symlink);
            o.flag("dirCopyContents", a.dir_copy_contents);
            o.flag(
                "attemptUnpackDockerCompatibility",
                a.attempt_unpack_docker_compatibility,
            );
            o.flag("createDestPath", a.create_dest_path);
            o.flag("allowWildcard", a.allow_wildcard);
            o.flag("allowEmptyWildcard", a.allow_empty_wildcard);
            o.number("timestamp", a.timestamp);
            o.list("include_patterns", &a.include_patterns, |s| json!(s));
            o.list("exclude_patterns", &a.exclude_patterns, |s| json!(s));
            o.flag(
                "alwaysReplaceExistingDestPaths",
                a.always_replace_existing_dest_paths,
            );
            o.text("modeStr", &a.mode_str);
            o.list("required_paths", &a.required_paths, |s| json!(s));
            Some("copy")
        }
        Some(Action::Mkfile(a)) => {
            o.text("path", &a.path);
            o.number("mode", a.mode.into());
            if !a.data.is_empty() {
                o.set("data", json!(base64(&a.data)));
            }
            o.maybe("owner", a.owner.as_ref().map(owner));
            o.number("timestamp", a.timestamp);
            Some("mkfile")
        }
        Some(Action::Mkdir(a)) => {
            o.text("path", &a.path);
            o.number("mode", a.mode.into());
            o.flag("makeParents", a.make_parents);
            o.maybe("owner", a.owner.as_ref().map(owner));
            o.number("timestamp", a.timestamp);
            Some("mkdir")
        }
        Some(Action::Rm(a)) => {
            o.text("path", &a.path);
            o.flag("allowNotFound", a.allow_not_found);
            o.flag("allowWildcard", a.allow_wildcard);
            Some("rm")
        }
        Some(Action::Symlink(a)) => {
            o.text("oldpath", &a.oldpath);
            o.text("newpath", &a.newpath);
            o.maybe("owner", a.owner.as_ref().map(owner));
            o.number("timestamp", a.timestamp);
            Some("symlink")
        }
        None => None,
    };
    let mut named = Object::new();
    if let Some(kind) = kind {
        named.set(kind, o.done());
    }
    json!({
        "input": action.input,
        "secondaryInput": action.secondary_input,
        "output": action.output,
        "Action": named.done(),
    })
}

fn owner(owner: &pb::ChownOpt) -> Value {
    let mut out = Object::new();
    out.maybe("user", owner.user.as_ref().map(user));
    out.maybe("group", owner.group.as_ref().map(user));
    out.done()
}

fn user(user: &pb::UserOpt) -> Value {
    let mut out = Object::new();
    match &user.user {
        Some(pb::user_opt::User::ById(id)) => out.number("byId", (*id).into()),
        Some(pb::user_opt::User::ByName(name)) => {
            let mut o = Object::new();
            o.text("name", &name.name);
            o.number("input", name.input);
            out.set("byName", o.done());
        }
        None => {}
    }
    json!({"User": out.done()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers_and_places_of_actions_are_always_told() {
        let copy = pb::FileActionCopy {
            src: "/a".into(),
            mode: -1,
            timestamp: -1,
            include_patterns: vec!["*.rs".into()],
            owner: Some(pb::ChownOpt {
                user: Some(pb::UserOpt {
                    user: Some(pb::user_opt::User::ById(7)),
                }),
                group: None,
            }),
            ..pb::FileActionCopy::default()
        };
        let op = pb::Op {
            inputs: vec![pb::Input {
                digest: "sha256:ab".into(),
                index: 0,
            }],
            op: Some(pb::op::Op::File(pb::FileOp {
                actions: vec![pb::FileAction {
                    input: 0,
                    secondary_input: 1,
                    output: 0,
                    action: Some(pb::file_action::Action::Copy(copy)),
                }],
            })),
            constraints: Some(pb::WorkerConstraints::default()),
            ..pb::Op::default()
        };
        assert_eq!(
            plain_op(&op),
            json!({
                "Op": {"file": {"actions": [{
                    "input": 0,
                    "secondaryInput": 1,
                    "output": 0,
                    "Action": {"copy": {
                        "src": "/a",
                        "owner": {"user": {"User": {"byId": 7}}},
                        "mode": -1,
                        "timestamp": -1,
                        "include_patterns": ["*.rs"],
                    }},
                }]}},
                "constraints": {},
            })
        );
        assert_eq!(plain_op(&pb::Op::default()), json!({"Op": {}}));
        let exec = pb::ExecOp {
            network: pb::NetMode::None.into(),
            mounts: vec![pb::Mount {
                input: -1,
                mount_type: pb::MountType::Secret.into(),
                secret_opt: Some(pb::SecretOpt {
                    id: "s".into(),
                    mode: 0o400,
                    ..pb::SecretOpt::default()
                }),
                ..pb::Mount::default()
            }],
            ..pb::ExecOp::default()
        };
        let op = pb::Op {
            op: Some(pb::op::Op::Exec(exec)),
            ..pb::Op::default()
        };
        assert_eq!(
            plain_op(&op)["Op"]["exec"],
            json!({
                "mounts": [{"input": -1, "mountType": 1, "secretOpt": {"ID": "s", "mode": 256}}],
                "network": 2,
            })
        );
    }
}
