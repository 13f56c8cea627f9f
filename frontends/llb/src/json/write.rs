//! Writing: zero values are left out.

use serde_json::{Map, Value, json};

use crate::pb;

use super::names::{CACHE_SHARING, CONTENT_CACHE, MOUNT_TYPE, NET_MODE, SECURITY_MODE};

/// A whole definition: ops and metadata by digest, and where they come from.
///
/// # Errors
/// When an op is no message.
pub fn definition(definition: &pb::Definition) -> Result<Value, prost::DecodeError> {
    let mut ops = Map::new();
    for bytes in &definition.def {
        let op = <pb::Op as prost::Message>::decode(bytes.as_slice())?;
        ops.insert(crate::digest_of(bytes), self::op(&op));
    }
    let known = definition.metadata.iter();
    let known: Map<String, Value> = known
        .map(|(digest, known)| (digest.clone(), metadata(known)))
        .collect();
    let source = definition.source.clone().unwrap_or_default();
    Ok(json!({"def": ops, "metadata": known, "source": self::source(&source)}))
}

/// One op.
pub fn op(op: &pb::Op) -> Value {
    let mut out = Object::new();
    out.list("inputs", &op.inputs, |input| {
        let mut out = Object::new();
        out.text("digest", &input.digest);
        out.int64("index", input.index);
        out.done()
    });
    match &op.op {
        Some(pb::op::Op::Exec(exec)) => out.set("exec", self::exec(exec)),
        Some(pb::op::Op::Source(source)) => {
            let mut o = Object::new();
            o.text("identifier", &source.identifier);
            o.map("attrs", &source.attrs);
            out.set("source", o.done());
        }
        Some(pb::op::Op::File(file)) => {
            let mut o = Object::new();
            o.list("actions", &file.actions, action);
            out.set("file", o.done());
        }
        Some(pb::op::Op::Build(build)) => {
            let mut o = Object::new();
            o.int64("builder", build.builder);
            if !build.inputs.is_empty() {
                let inputs = build.inputs.iter();
                let inputs = inputs.map(|(name, i)| (name.clone(), input(i.input)));
                o.set("inputs", Value::Object(inputs.collect()));
            }
            o.maybe("def", build.def.as_ref().map(nested));
            o.map("attrs", &build.attrs);
            out.set("build", o.done());
        }
        Some(pb::op::Op::Merge(merge)) => {
            let mut o = Object::new();
            o.list("inputs", &merge.inputs, |i| input(i.input));
            out.set("merge", o.done());
        }
        Some(pb::op::Op::Diff(diff)) => {
            let mut o = Object::new();
            o.maybe("lower", diff.lower.as_ref().map(|l| input(l.input)));
            o.maybe("upper", diff.upper.as_ref().map(|u| input(u.input)));
            out.set("diff", o.done());
        }
        Some(pb::op::Op::Passthrough(pass)) => {
            let mut o = Object::new();
            o.text("id", &pass.id);
            o.list("outputs", &pass.outputs, |n| json!(n.to_string()));
            out.set("passthrough", o.done());
        }
        None => {}
    }
    out.maybe("platform", op.platform.as_ref().map(platform));
    out.maybe(
        "constraints",
        op.constraints.as_ref().map(|c| {
            let mut o = Object::new();
            o.list("filter", &c.filter, |f| json!(f));
            o.done()
        }),
    );
    out.done()
}

/// What is known of an op besides it.
pub fn metadata(metadata: &pb::OpMetadata) -> Value {
    let mut out = Object::new();
    out.flag("ignore_cache", metadata.ignore_cache);
    out.map("description", &metadata.description);
    out.maybe(
        "export_cache",
        metadata.export_cache.as_ref().map(|e| {
            let mut o = Object::new();
            o.flag("Value", e.value);
            o.done()
        }),
    );
    if !metadata.caps.is_empty() {
        let caps = metadata.caps.iter().map(|(k, v)| (k.clone(), json!(v)));
        out.set("caps", Value::Object(caps.collect()));
    }
    out.maybe(
        "progress_group",
        metadata.progress_group.as_ref().map(|group| {
            let mut o = Object::new();
            o.text("id", &group.id);
            o.text("name", &group.name);
            o.flag("weak", group.weak);
            o.done()
        }),
    );
    out.maybe(
        "linux_resources",
        metadata.linux_resources.as_ref().map(|r| {
            let mut o = Object::new();
            o.number("memory", r.memory);
            o.number("memorySwap", r.memory_swap);
            o.number("cpuShares", i64::try_from(r.cpu_shares).unwrap_or(i64::MAX));
            o.number("cpuPeriod", i64::try_from(r.cpu_period).unwrap_or(i64::MAX));
            o.number("cpuQuota", r.cpu_quota);
            o.text("cpusetCpus", &r.cpuset_cpus);
            o.text("cpusetMems", &r.cpuset_mems);
            o.done()
        }),
    );
    out.done()
}

/// A build file, as answers to lint requests carry it.
pub fn source_info(info: &pb::SourceInfo) -> Value {
    let mut out = Object::new();
    out.text("filename", &info.filename);
    if !info.data.is_empty() {
        out.set("data", json!(base64(&info.data)));
    }
    out.maybe("definition", info.definition.as_ref().map(embedded));
    out.text("language", &info.language);
    out.done()
}

/// Where ops came from, as graphs carry it.
pub fn source(source: &pb::Source) -> Value {
    let mut out = Object::new();
    if !source.locations.is_empty() {
        let places = source.locations.iter().map(|(digest, places)| {
            let mut o = Object::new();
            o.list("locations", &places.locations, location);
            (digest.clone(), o.done())
        });
        out.set("locations", Value::Object(places.collect()));
    }
    out.list("infos", &source.infos, source_info);
    out.done()
}

/// Lines of a build file.
pub fn location(location: &pb::Location) -> Value {
    let position = |position: &pb::Position| {
        let mut o = Object::new();
        o.number("line", position.line.into());
        o.number("character", position.character.into());
        o.done()
    };
    let mut out = Object::new();
    out.number("sourceIndex", location.source_index.into());
    out.list("ranges", &location.ranges, |range| {
        let mut o = Object::new();
        o.maybe("start", range.start.as_ref().map(position));
        o.maybe("end", range.end.as_ref().map(position));
        o.done()
    });
    out.done()
}

/// A graph inside an op, in the same form as the op around it.
fn nested(definition: &pb::Definition) -> Value {
    let mut out = Object::new();
    out.list("def", &definition.def, |bytes| json!(base64(bytes)));
    if !definition.metadata.is_empty() {
        let entries = definition.metadata.iter();
        let entries = entries.map(|(digest, known)| (digest.clone(), nested_metadata(known)));
        out.set("metadata", Value::Object(entries.collect()));
    }
    out.maybe("Source", definition.source.as_ref().map(nested_source));
    out.done()
}

fn nested_metadata(metadata: &pb::OpMetadata) -> Value {
    let mut out = Object::new();
    out.flag("ignoreCache", metadata.ignore_cache);
    out.map("description", &metadata.description);
    out.maybe(
        "exportCache",
        metadata.export_cache.as_ref().map(|export| {
            let mut o = Object::new();
            o.flag("Value", export.value);
            o.done()
        }),
    );
    if !metadata.caps.is_empty() {
        let caps = metadata.caps.iter().map(|(k, v)| (k.clone(), json!(v)));
        out.set("caps", Value::Object(caps.collect()));
    }
    out.maybe(
        "progressGroup",
        metadata.progress_group.as_ref().map(|group| {
            let mut o = Object::new();
            o.text("id", &group.id);
            o.text("name", &group.name);
            o.flag("weak", group.weak);
            o.done()
        }),
    );
    out.maybe(
        "linuxResources",
        metadata.linux_resources.as_ref().map(|r| {
            let mut o = Object::new();
            o.int64("memory", r.memory);
            o.int64("memorySwap", r.memory_swap);
            o.uint64("cpuShares", r.cpu_shares);
            o.uint64("cpuPeriod", r.cpu_period);
            o.int64("cpuQuota", r.cpu_quota);
            o.text("cpusetCpus", &r.cpuset_cpus);
            o.text("cpusetMems", &r.cpuset_mems);
            o.done()
        }),
    );
    out.done()
}

fn nested_source(source: &pb::Source) -> Value {
    let mut out = Object::new();
    if !source.locations.is_empty() {
        let places = source.locations.iter().map(|(digest, places)| {
            let mut o = Object::new();
            o.list("locations", &places.locations, location);
            (digest.clone(), o.done())
        });
        out.set("locations", Value::Object(places.collect()));
    }
    out.list("infos", &source.infos, |info| {
        let mut o = Object::new();
        o.text("filename", &info.filename);
        if !info.data.is_empty() {
            o.set("data", json!(base64(&info.data)));
        }
        o.maybe("definition", info.definition.as_ref().map(nested));
        o.text("language", &info.language);
        o.done()
    });
    out.done()
}

/// A definition as build files carry it: its ops as bytes.
pub fn embedded(definition: &pb::Definition) -> Value {
    let mut out = Object::new();
    out.list("def", &definition.def, |bytes| json!(base64(bytes)));
    if !definition.metadata.is_empty() {
        let entries = definition
            .metadata
            .iter()
            .map(|(digest, known)| (digest.clone(), metadata(known)));
        out.set("metadata", Value::Object(entries.collect()));
    }
    out.maybe("Source", definition.source.as_ref().map(source));
    out.done()
}

/// Standard base64 with padding.
pub fn bytes(bytes: &[u8]) -> Value {
    json!(base64(bytes))
}

pub(super) fn platform(platform: &pb::Platform) -> Value {
    let mut out = Object::new();
    out.text("Architecture", &platform.architecture);
    out.text("OS", &platform.os);
    out.text("Variant", &platform.variant);
    out.text("OSVersion", &platform.os_version);
    out.list("OSFeatures", &platform.os_features, |f| json!(f));
    out.done()
}

fn input(number: i64) -> Value {
    let mut out = Object::new();
    out.int64("input", number);
    out.done()
}

fn exec(exec: &pb::ExecOp) -> Value {
    let mut out = Object::new();
    out.maybe("meta", exec.meta.as_ref().map(meta));
    out.list("mounts", &exec.mounts, mount);
    out.name("network", exec.network, NET_MODE);
    out.name("security", exec.security, SECURITY_MODE);
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
    out.maybe(
        "proxyEnv",
        meta.proxy_env.as_ref().map(|proxy| {
            let mut o = Object::new();
            o.text("httpProxy", &proxy.http_proxy);
            o.text("httpsProxy", &proxy.https_proxy);
            o.text("ftpProxy", &proxy.ftp_proxy);
            o.text("noProxy", &proxy.no_proxy);
            o.text("allProxy", &proxy.all_proxy);
            o.done()
        }),
    );
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

fn mount(mount: &pb::Mount) -> Value {
    let mut out = Object::new();
    out.int64("input", mount.input);
    out.text("selector", &mount.selector);
    out.text("dest", &mount.dest);
    out.int64("output", mount.output);
    out.flag("readonly", mount.readonly);
    out.name("mountType", mount.mount_type, MOUNT_TYPE);
    out.maybe(
        "TmpfsOpt",
        mount.tmpfs_opt.as_ref().map(|tmpfs| {
            let mut o = Object::new();
            o.int64("size", tmpfs.size);
            o.done()
        }),
    );
    out.maybe(
        "cacheOpt",
        mount.cache_opt.as_ref().map(|cache| {
            let mut o = Object::new();
            o.text("ID", &cache.id);
            o.name("sharing", cache.sharing, CACHE_SHARING);
            o.done()
        }),
    );
    let forwarded = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
        let mut o = Object::new();
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
    out.name("contentCache", mount.content_cache, CONTENT_CACHE);
    out.done()
}

fn action(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;
    let mut out = Object::new();
    out.int64("input", action.input);
    out.int64("secondaryInput", action.secondary_input);
    out.int64("output", action.output);
    let mut o = Object::new();
    match &action.action {
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
            o.int64("timestamp", a.timestamp);
            o.list("includePatterns", &a.include_patterns, |s| json!(s));
            o.list("excludePatterns", &a.exclude_patterns, |s| json!(s));
            o.flag(
                "alwaysReplaceExistingDestPaths",
                a.always_replace_existing_dest_paths,
            );
            o.text("modeStr", &a.mode_str);
            o.list("requiredPaths", &a.required_paths, |s| json!(s));
            out.set("copy", o.done());
        }
        Some(Action::Mkfile(a)) => {
            o.text("path", &a.path);
            o.number("mode", a.mode.into());
            if !a.data.is_empty() {
                o.set("data", json!(base64(&a.data)));
            }
            o.maybe("owner", a.owner.as_ref().map(owner));
            o.int64("timestamp", a.timestamp);
            out.set("mkfile", o.done());
        }
        Some(Action::Mkdir(a)) => {
            o.text("path", &a.path);
            o.number("mode", a.mode.into());
            o.flag("makeParents", a.make_parents);
            o.maybe("owner", a.owner.as_ref().map(owner));
            o.int64("timestamp", a.timestamp);
            out.set("mkdir", o.done());
        }
        Some(Action::Rm(a)) => {
            o.text("path", &a.path);
            o.flag("allowNotFound", a.allow_not_found);
            o.flag("allowWildcard", a.allow_wildcard);
            out.set("rm", o.done());
        }
        Some(Action::Symlink(a)) => {
            o.text("oldpath", &a.oldpath);
            o.text("newpath", &a.newpath);
            o.maybe("owner", a.owner.as_ref().map(owner));
            o.int64("timestamp", a.timestamp);
            out.set("symlink", o.done());
        }
        None => {}
    }
    out.done()
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
        Some(pb::user_opt::User::ById(id)) => out.set("byID", json!(id)),
        Some(pb::user_opt::User::ByName(name)) => {
            let mut o = Object::new();
            o.text("name", &name.name);
            o.int64("input", name.input);
            out.set("byName", o.done());
        }
        None => {}
    }
    out.done()
}

/// Standard base64 with padding. Written out here, as nothing else in this crate needs it.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, byte)| {
            word | u32::from(*byte) << (16 - 8 * i)
        });
        for i in 0..4 {
            if i <= chunk.len() {
                let index = (word >> (18 - 6 * i)) & 63;
                out.push(char::from(ALPHABET[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// A JSON object without zero values.
pub(super) struct Object(Map<String, Value>);

impl Object {
    pub(super) fn new() -> Self {
        Self(Map::new())
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    pub(super) fn maybe(&mut self, key: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.set(key, json!(value));
        }
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.set(key, json!(true));
        }
    }

    pub(super) fn number(&mut self, key: &str, value: i64) {
        if value != 0 {
            self.set(key, json!(value));
        }
    }

    fn uint64(&mut self, key: &str, value: u64) {
        if value != 0 {
            self.set(key, json!(value.to_string()));
        }
    }

    fn int64(&mut self, key: &str, value: i64) {
        if value != 0 {
            self.set(key, json!(value.to_string()));
        }
    }

    /// A number that has no name yet is written as it is.
    fn name(&mut self, key: &str, number: i32, names: &[&str]) {
        if number != 0 {
            let at = usize::try_from(number).ok();
            let name = at.and_then(|at| names.get(at));
            self.set(key, name.map_or_else(|| json!(number), |name| json!(name)));
        }
    }

    pub(super) fn map(&mut self, key: &str, value: &std::collections::BTreeMap<String, String>) {
        if !value.is_empty() {
            let entries = value.iter().map(|(k, v)| (k.clone(), json!(v)));
            self.set(key, Value::Object(entries.collect()));
        }
    }

    pub(super) fn list<T>(&mut self, key: &str, value: &[T], item: impl Fn(&T) -> Value) {
        if !value.is_empty() {
            self.set(key, Value::Array(value.iter().map(item).collect()));
        }
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_printed_as_base64() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
