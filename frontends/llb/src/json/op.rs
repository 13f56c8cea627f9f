//! One op, in either form.

use serde_json::{Value, json};

use super::form::{Form, Object, base64};
use super::names::{CACHE_SHARING, CONTENT_CACHE, MOUNT_TYPE, NET_MODE, SECURITY_MODE};
use super::write::graph;
use crate::pb;

/// One op.
pub fn op(op: &pb::Op) -> Value {
    let form = Form::Message;
    let mut out = form.object();
    out.list("inputs", &op.inputs, |input| {
        let mut out = form.object();
        out.text("digest", &input.digest);
        out.int64("index", input.index);
        out.done()
    });
    if let Some((name, kind)) = op.op.as_ref().map(|op| form.kind(op)) {
        out.set(name, kind);
    }
    form.surround(&mut out, op);
    out.done()
}

/// One op as attestations tell of it: without its inputs, which are told beside it.
pub fn plain_op(op: &pb::Op) -> Value {
    let form = Form::Struct;
    let mut kind = form.object();
    if let Some((name, value)) = op.op.as_ref().map(|op| form.kind(op)) {
        kind.set(name, value);
    }
    let mut out = form.object();
    out.set("Op", kind.done());
    form.surround(&mut out, op);
    out.done()
}

impl Form {
    /// The kind of an op, and what it says.
    fn kind(self, op: &pb::op::Op) -> (&'static str, Value) {
        use pb::op::Op;
        let mut o = self.object();
        let name = match op {
            Op::Exec(exec) => return ("exec", self.exec(exec)),
            Op::Source(source) => {
                o.text("identifier", &source.identifier);
                o.map("attrs", &source.attrs);
                "source"
            }
            Op::File(file) => {
                o.list("actions", &file.actions, |a| self.action(a));
                "file"
            }
            Op::Build(build) => {
                o.int64("builder", build.builder);
                o.entries("inputs", &build.inputs, |i| self.input(i.input));
                o.maybe("def", build.def.as_ref().map(|def| graph(self, def)));
                o.map("attrs", &build.attrs);
                "build"
            }
            Op::Merge(merge) => {
                o.list("inputs", &merge.inputs, |i| self.input(i.input));
                "merge"
            }
            Op::Diff(diff) => {
                o.maybe("lower", diff.lower.as_ref().map(|l| self.input(l.input)));
                o.maybe("upper", diff.upper.as_ref().map(|u| self.input(u.input)));
                "diff"
            }
            Op::Passthrough(pass) => {
                o.text("id", &pass.id);
                o.list("outputs", &pass.outputs, |n| self.int64(*n));
                "passthrough"
            }
        };
        (name, o.done())
    }

    /// Where an op may run.
    fn surround(self, out: &mut Object, op: &pb::Op) {
        out.maybe("platform", op.platform.as_ref().map(|p| self.platform(p)));
        let filter = |constraints: &pb::WorkerConstraints| {
            let mut o = self.object();
            o.list("filter", &constraints.filter, |f| json!(f));
            o.done()
        };
        out.maybe("constraints", op.constraints.as_ref().map(filter));
    }

    fn platform(self, platform: &pb::Platform) -> Value {
        let mut out = self.object();
        out.text("Architecture", &platform.architecture);
        out.text("OS", &platform.os);
        out.text("Variant", &platform.variant);
        out.text("OSVersion", &platform.os_version);
        out.list("OSFeatures", &platform.os_features, |f| json!(f));
        out.done()
    }

    fn input(self, number: i64) -> Value {
        let mut out = self.object();
        out.int64("input", number);
        out.done()
    }

    fn exec(self, exec: &pb::ExecOp) -> Value {
        let mut out = self.object();
        out.maybe("meta", exec.meta.as_ref().map(|m| self.meta(m)));
        out.list("mounts", &exec.mounts, |m| self.mount(m));
        out.one_of("network", exec.network, NET_MODE);
        out.one_of("security", exec.security, SECURITY_MODE);
        out.list("secretenv", &exec.secretenv, |secret| {
            let mut o = self.object();
            o.text("ID", &secret.id);
            o.text("name", &secret.name);
            o.flag("optional", secret.optional);
            o.done()
        });
        out.list("cdiDevices", &exec.cdi_devices, |device| {
            let mut o = self.object();
            o.text("name", &device.name);
            o.flag("optional", device.optional);
            o.done()
        });
        out.done()
    }

    fn meta(self, meta: &pb::Meta) -> Value {
        let mut out = self.object();
        out.list("args", &meta.args, |s| json!(s));
        out.list("env", &meta.env, |s| json!(s));
        out.text("cwd", &meta.cwd);
        out.text("user", &meta.user);
        out.maybe(
            self.name("proxyEnv", "proxy_env"),
            meta.proxy_env.as_ref().map(|proxy| {
                let mut o = self.object();
                o.text(self.name("httpProxy", "http_proxy"), &proxy.http_proxy);
                o.text(self.name("httpsProxy", "https_proxy"), &proxy.https_proxy);
                o.text(self.name("ftpProxy", "ftp_proxy"), &proxy.ftp_proxy);
                o.text(self.name("noProxy", "no_proxy"), &proxy.no_proxy);
                o.text(self.name("allProxy", "all_proxy"), &proxy.all_proxy);
                o.done()
            }),
        );
        out.list("extraHosts", &meta.extra_hosts, |host| {
            let mut o = self.object();
            o.text("Host", &host.host);
            o.text("IP", &host.ip);
            o.done()
        });
        out.text("hostname", &meta.hostname);
        out.list("ulimit", &meta.ulimit, |limit| {
            let mut o = self.object();
            o.text("Name", &limit.name);
            o.int64("Soft", limit.soft);
            o.int64("Hard", limit.hard);
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

    fn mount(self, mount: &pb::Mount) -> Value {
        let mut out = self.object();
        out.int64("input", mount.input);
        out.text("selector", &mount.selector);
        out.text("dest", &mount.dest);
        out.int64("output", mount.output);
        out.flag("readonly", mount.readonly);
        out.one_of("mountType", mount.mount_type, MOUNT_TYPE);
        out.maybe(
            "TmpfsOpt",
            mount.tmpfs_opt.as_ref().map(|tmpfs| {
                let mut o = self.object();
                o.int64("size", tmpfs.size);
                o.done()
            }),
        );
        out.maybe(
            "cacheOpt",
            mount.cache_opt.as_ref().map(|cache| {
                let mut o = self.object();
                o.text("ID", &cache.id);
                o.one_of("sharing", cache.sharing, CACHE_SHARING);
                o.done()
            }),
        );
        let forwarded = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
            let mut o = self.object();
            o.text("ID", id);
            o.number("uid", uid.into());
            o.number("gid", gid.into());
            o.number("mode", mode.into());
            o.flag("optional", optional);
            o.done()
        };
        out.maybe(
            "secretOpt",
            mount
                .secret_opt
                .as_ref()
                .map(|s| forwarded(&s.id, s.uid, s.gid, s.mode, s.optional)),
        );
        out.maybe(
            "SSHOpt",
            mount
                .ssh_opt
                .as_ref()
                .map(|s| forwarded(&s.id, s.uid, s.gid, s.mode, s.optional)),
        );
        out.text("resultID", &mount.result_id);
        out.one_of("contentCache", mount.content_cache, CONTENT_CACHE);
        out.done()
    }

    fn action(self, action: &pb::FileAction) -> Value {
        use pb::file_action::Action;
        let mut kind = self.object();
        let mut o = self.object();
        match &action.action {
            Some(Action::Copy(a)) => {
                o.text("src", &a.src);
                o.text("dest", &a.dest);
                o.maybe("owner", a.owner.as_ref().map(|m| self.owner(m)));
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
                o.int64("timestamp", a.timestamp);
                o.list(
                    self.name("includePatterns", "include_patterns"),
                    &a.include_patterns,
                    |s| json!(s),
                );
                o.list(
                    self.name("excludePatterns", "exclude_patterns"),
                    &a.exclude_patterns,
                    |s| json!(s),
                );
                o.flag(
                    "alwaysReplaceExistingDestPaths",
                    a.always_replace_existing_dest_paths,
                );
                o.text("modeStr", &a.mode_str);
                o.list(
                    self.name("requiredPaths", "required_paths"),
                    &a.required_paths,
                    |s| json!(s),
                );
                kind.set("copy", o.done());
            }
            Some(Action::Mkfile(a)) => {
                o.text("path", &a.path);
                o.number("mode", a.mode.into());
                if !a.data.is_empty() {
                    o.set("data", json!(base64(&a.data)));
                }
                o.maybe("owner", a.owner.as_ref().map(|m| self.owner(m)));
                o.int64("timestamp", a.timestamp);
                kind.set("mkfile", o.done());
            }
            Some(Action::Mkdir(a)) => {
                o.text("path", &a.path);
                o.number("mode", a.mode.into());
                o.flag("makeParents", a.make_parents);
                o.maybe("owner", a.owner.as_ref().map(|m| self.owner(m)));
                o.int64("timestamp", a.timestamp);
                kind.set("mkdir", o.done());
            }
            Some(Action::Rm(a)) => {
                o.text("path", &a.path);
                o.flag("allowNotFound", a.allow_not_found);
                o.flag("allowWildcard", a.allow_wildcard);
                kind.set("rm", o.done());
            }
            Some(Action::Symlink(a)) => {
                o.text("oldpath", &a.oldpath);
                o.text("newpath", &a.newpath);
                o.maybe("owner", a.owner.as_ref().map(|m| self.owner(m)));
                o.int64("timestamp", a.timestamp);
                kind.set("symlink", o.done());
            }
            None => {}
        }
        let places = [
            ("input", action.input),
            ("secondaryInput", action.secondary_input),
            ("output", action.output),
        ];
        let mut out = self.object();
        for (name, place) in places {
            match self {
                Self::Message => out.int64(name, place),
                // Also where they are zero.
                Self::Struct => out.set(name, json!(place)),
            }
        }
        match self {
            Self::Message => out.append(kind),
            Self::Struct => out.set("Action", kind.done()),
        }
        out.done()
    }

    fn owner(self, owner: &pb::ChownOpt) -> Value {
        let mut out = self.object();
        out.maybe("user", owner.user.as_ref().map(|m| self.user(m)));
        out.maybe("group", owner.group.as_ref().map(|m| self.user(m)));
        out.done()
    }

    fn user(self, user: &pb::UserOpt) -> Value {
        let mut out = self.object();
        match &user.user {
            Some(pb::user_opt::User::ById(id)) => match self {
                Self::Message => out.set("byID", json!(id)),
                Self::Struct => out.number("byId", (*id).into()),
            },
            Some(pb::user_opt::User::ByName(name)) => {
                let mut o = self.object();
                o.text("name", &name.name);
                o.int64("input", name.input);
                out.set("byName", o.done());
            }
            None => {}
        }
        match self {
            Self::Message => out.done(),
            Self::Struct => json!({"User": out.done()}),
        }
    }
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
