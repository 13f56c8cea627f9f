//! Reading, as protobuf's JSON is read: names in camel case or as they are defined, enums by name
//! or number, numbers as numbers or text, bytes in either alphabet of base64. Null is absent, and
//! what is not known is passed over, so that ops of newer builders read.
//!
//! Depth is bounded by the JSON parser that made the value; sizes by what carried it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::names::{CACHE_SHARING, CONTENT_CACHE, MOUNT_TYPE, NET_MODE, SECURITY_MODE};
use crate::pb;

/// A value that cannot stand where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not {expected}", if path.is_empty() { "the value" } else { path })]
pub struct ReadError {
    /// The way to the value, like `exec.mounts[0].dest`.
    pub path: String,
    /// What can stand there.
    pub expected: &'static str,
}

type Read<T> = Result<T, ReadError>;

impl ReadError {
    fn of<T>(expected: &'static str) -> Read<T> {
        let path = String::new();
        Err(ReadError { path, expected })
    }

    /// The same error, seen from one step further out.
    fn within(mut self, step: &str) -> ReadError {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }
}

/// One op in the form that [`op`](super::op) writes, or that another program of the field writes.
///
/// # Errors
/// Names the first value that cannot stand where it stands.
pub fn read_op(value: &Value) -> Result<pb::Op, ReadError> {
    let o = Fields::of(value)?;
    let kinds = [
        o.message("exec", exec)?.map(pb::op::Op::Exec),
        o.message("source", source_op)?.map(pb::op::Op::Source),
        o.message("file", file)?.map(pb::op::Op::File),
        o.message("build", build)?.map(pb::op::Op::Build),
        o.message("merge", merge)?.map(pb::op::Op::Merge),
        o.message("diff", diff)?.map(pb::op::Op::Diff),
        o.message("passthrough", passthrough)?
            .map(pb::op::Op::Passthrough),
    ];
    Ok(pb::Op {
        inputs: o.list("inputs", |value| {
            let o = Fields::of(value)?;
            Ok(pb::Input {
                digest: o.text("digest")?,
                index: o.number("index")?,
            })
        })?,
        op: one_of(kinds)?,
        platform: o.message("platform", platform)?,
        constraints: o.message("constraints", |value| {
            let filter = Fields::of(value)?.list("filter", text)?;
            Ok(pb::WorkerConstraints { filter })
        })?,
    })
}

fn one_of<T, const N: usize>(kinds: [Option<T>; N]) -> Read<Option<T>> {
    let mut kinds = kinds.into_iter().flatten();
    let kind = kinds.next();
    match kinds.next() {
        None => Ok(kind),
        Some(_) => ReadError::of("of one kind"),
    }
}

fn platform(value: &Value) -> Read<pb::Platform> {
    let o = Fields::of(value)?;
    Ok(pb::Platform {
        architecture: o.text("Architecture")?,
        os: o.text("OS")?,
        variant: o.text("Variant")?,
        os_version: o.text("OSVersion")?,
        os_features: o.list("OSFeatures", text)?,
    })
}

fn exec(value: &Value) -> Read<pb::ExecOp> {
    let o = Fields::of(value)?;
    Ok(pb::ExecOp {
        meta: o.message("meta", meta)?,
        mounts: o.list("mounts", mount)?,
        network: o.name("network", NET_MODE)?,
        security: o.name("security", SECURITY_MODE)?,
        secretenv: o.list("secretenv", |value| {
            let o = Fields::of(value)?;
            Ok(pb::SecretEnv {
                id: o.text("ID")?,
                name: o.text("name")?,
                optional: o.flag("optional")?,
            })
        })?,
        cdi_devices: o.list("cdiDevices", |value| {
            let o = Fields::of(value)?;
            Ok(pb::CdiDevice {
                name: o.text("name")?,
                optional: o.flag("optional")?,
            })
        })?,
    })
}

fn meta(value: &Value) -> Read<pb::Meta> {
    let o = Fields::of(value)?;
    Ok(pb::Meta {
        args: o.list("args", text)?,
        env: o.list("env", text)?,
        cwd: o.text("cwd")?,
        user: o.text("user")?,
        proxy_env: o.message("proxy_env", |value| {
            let o = Fields::of(value)?;
            Ok(pb::ProxyEnv {
                http_proxy: o.text("http_proxy")?,
                https_proxy: o.text("https_proxy")?,
                ftp_proxy: o.text("ftp_proxy")?,
                no_proxy: o.text("no_proxy")?,
                all_proxy: o.text("all_proxy")?,
            })
        })?,
        extra_hosts: o.list("extraHosts", |value| {
            let o = Fields::of(value)?;
            Ok(pb::HostIp {
                host: o.text("Host")?,
                ip: o.text("IP")?,
            })
        })?,
        hostname: o.text("hostname")?,
        ulimit: o.list("ulimit", |value| {
            let o = Fields::of(value)?;
            Ok(pb::Ulimit {
                name: o.text("Name")?,
                soft: o.number("Soft")?,
                hard: o.number("Hard")?,
            })
        })?,
        cgroup_parent: o.text("cgroupParent")?,
        remove_mount_stubs_recursive: o.flag("removeMountStubsRecursive")?,
        valid_exit_codes: o.list("validExitCodes", number)?,
    })
}

fn mount(value: &Value) -> Read<pb::Mount> {
    let o = Fields::of(value)?;
    Ok(pb::Mount {
        input: o.number("input")?,
        selector: o.text("selector")?,
        dest: o.text("dest")?,
        output: o.number("output")?,
        readonly: o.flag("readonly")?,
        mount_type: o.name("mountType", MOUNT_TYPE)?,
        tmpfs_opt: o.message("TmpfsOpt", |value| {
            let size = Fields::of(value)?.number("size")?;
            Ok(pb::TmpfsOpt { size })
        })?,
        cache_opt: o.message("cacheOpt", |value| {
            let o = Fields::of(value)?;
            Ok(pb::CacheOpt {
                id: o.text("ID")?,
                sharing: o.name("sharing", CACHE_SHARING)?,
            })
        })?,
        secret_opt: o.message("secretOpt", |value| {
            let o = Fields::of(value)?;
            Ok(pb::SecretOpt {
                id: o.text("ID")?,
                uid: o.number("uid")?,
                gid: o.number("gid")?,
                mode: o.number("mode")?,
                optional: o.flag("optional")?,
            })
        })?,
        ssh_opt: o.message("SSHOpt", |value| {
            let o = Fields::of(value)?;
            Ok(pb::SshOpt {
                id: o.text("ID")?,
                uid: o.number("uid")?,
                gid: o.number("gid")?,
                mode: o.number("mode")?,
                optional: o.flag("optional")?,
            })
        })?,
        result_id: o.text("resultID")?,
        content_cache: o.name("contentCache", CONTENT_CACHE)?,
    })
}

fn source_op(value: &Value) -> Read<pb::SourceOp> {
    let o = Fields::of(value)?;
    Ok(pb::SourceOp {
        identifier: o.text("identifier")?,
        attrs: o.map("attrs", text)?,
    })
}

fn file(value: &Value) -> Read<pb::FileOp> {
    let actions = Fields::of(value)?.list("actions", action)?;
    Ok(pb::FileOp { actions })
}

fn action(value: &Value) -> Read<pb::FileAction> {
    use pb::file_action::Action;
    let o = Fields::of(value)?;
    let kinds = [
        o.message("copy", copy)?.map(Action::Copy),
        o.message("mkfile", mkfile)?.map(Action::Mkfile),
        o.message("mkdir", mkdir)?.map(Action::Mkdir),
        o.message("rm", rm)?.map(Action::Rm),
        o.message("symlink", symlink)?.map(Action::Symlink),
    ];
    Ok(pb::FileAction {
        input: o.number("input")?,
        secondary_input: o.number("secondaryInput")?,
        output: o.number("output")?,
        action: one_of(kinds)?,
    })
}

fn copy(value: &Value) -> Read<pb::FileActionCopy> {
    let o = Fields::of(value)?;
    Ok(pb::FileActionCopy {
        src: o.text("src")?,
        dest: o.text("dest")?,
        owner: o.message("owner", owner)?,
        mode: o.number("mode")?,
        follow_symlink: o.flag("followSymlink")?,
        dir_copy_contents: o.flag("dirCopyContents")?,
        attempt_unpack_docker_compatibility: o.flag("attemptUnpackDockerCompatibility")?,
        create_dest_path: o.flag("createDestPath")?,
        allow_wildcard: o.flag("allowWildcard")?,
        allow_empty_wildcard: o.flag("allowEmptyWildcard")?,
        timestamp: o.number("timestamp")?,
        include_patterns: o.list("include_patterns", text)?,
        exclude_patterns: o.list("exclude_patterns", text)?,
        always_replace_existing_dest_paths: o.flag("alwaysReplaceExistingDestPaths")?,
        mode_str: o.text("modeStr")?,
        required_paths: o.list("required_paths", text)?,
    })
}

fn mkfile(value: &Value) -> Read<pb::FileActionMkFile> {
    let o = Fields::of(value)?;
    Ok(pb::FileActionMkFile {
        path: o.text("path")?,
        mode: o.number("mode")?,
        data: o.bytes("data")?,
        owner: o.message("owner", owner)?,
        timestamp: o.number("timestamp")?,
    })
}

fn mkdir(value: &Value) -> Read<pb::FileActionMkDir> {
    let o = Fields::of(value)?;
    Ok(pb::FileActionMkDir {
        path: o.text("path")?,
        mode: o.number("mode")?,
        make_parents: o.flag("makeParents")?,
        owner: o.message("owner", owner)?,
        timestamp: o.number("timestamp")?,
    })
}

fn rm(value: &Value) -> Read<pb::FileActionRm> {
    let o = Fields::of(value)?;
    Ok(pb::FileActionRm {
        path: o.text("path")?,
        allow_not_found: o.flag("allowNotFound")?,
        allow_wildcard: o.flag("allowWildcard")?,
    })
}

fn symlink(value: &Value) -> Read<pb::FileActionSymlink> {
    let o = Fields::of(value)?;
    Ok(pb::FileActionSymlink {
        oldpath: o.text("oldpath")?,
        newpath: o.text("newpath")?,
        owner: o.message("owner", owner)?,
        timestamp: o.number("timestamp")?,
    })
}

fn owner(value: &Value) -> Read<pb::ChownOpt> {
    let o = Fields::of(value)?;
    Ok(pb::ChownOpt {
        user: o.message("user", user)?,
        group: o.message("group", user)?,
    })
}

fn user(value: &Value) -> Read<pb::UserOpt> {
    use pb::user_opt::User;
    let o = Fields::of(value)?;
    let by_name = |value: &Value| {
        let o = Fields::of(value)?;
        Ok(pb::NamedUserOpt {
            name: o.text("name")?,
            input: o.number("input")?,
        })
    };
    let user = one_of([
        o.message("byName", by_name)?.map(User::ByName),
        o.message("byID", number)?.map(User::ById),
    ])?;
    Ok(pb::UserOpt { user })
}

fn build(value: &Value) -> Read<pb::BuildOp> {
    let o = Fields::of(value)?;
    Ok(pb::BuildOp {
        builder: o.number("builder")?,
        inputs: o.map("inputs", |value| {
            let input = input(value)?;
            Ok(pb::BuildInput { input })
        })?,
        def: o.message("def", definition)?,
        attrs: o.map("attrs", text)?,
    })
}

fn input(value: &Value) -> Read<i64> {
    Fields::of(value)?.number("input")
}

fn merge(value: &Value) -> Read<pb::MergeOp> {
    let inputs = Fields::of(value)?.list("inputs", |value| {
        let input = input(value)?;
        Ok(pb::MergeInput { input })
    })?;
    Ok(pb::MergeOp { inputs })
}

fn diff(value: &Value) -> Read<pb::DiffOp> {
    let o = Fields::of(value)?;
    let lower = o.message("lower", input)?;
    let upper = o.message("upper", input)?;
    Ok(pb::DiffOp {
        lower: lower.map(|input| pb::LowerDiffInput { input }),
        upper: upper.map(|input| pb::UpperDiffInput { input }),
    })
}

fn passthrough(value: &Value) -> Read<pb::PassthroughOp> {
    let o = Fields::of(value)?;
    Ok(pb::PassthroughOp {
        id: o.text("id")?,
        outputs: o.list("outputs", number)?,
    })
}

fn definition(value: &Value) -> Read<pb::Definition> {
    let o = Fields::of(value)?;
    Ok(pb::Definition {
        def: o.list("def", bytes)?,
        metadata: o.map("metadata", metadata)?,
        source: o.message("Source", |value| {
            let o = Fields::of(value)?;
            Ok(pb::Source {
                locations: o.map("locations", |value| {
                    let locations = Fields::of(value)?.list("locations", location)?;
                    Ok(pb::Locations { locations })
                })?,
                infos: o.list("infos", source_info)?,
            })
        })?,
    })
}

fn metadata(value: &Value) -> Read<pb::OpMetadata> {
    let o = Fields::of(value)?;
    Ok(pb::OpMetadata {
        ignore_cache: o.flag("ignore_cache")?,
        description: o.map("description", text)?,
        export_cache: o.message("export_cache", |value| {
            let value = Fields::of(value)?.flag("Value")?;
            Ok(pb::ExportCache { value })
        })?,
        caps: o.map("caps", flag)?,
        progress_group: o.message("progress_group", |value| {
            let o = Fields::of(value)?;
            Ok(pb::ProgressGroup {
                id: o.text("id")?,
                name: o.text("name")?,
                weak: o.flag("weak")?,
            })
        })?,
        linux_resources: o.message("linux_resources", |value| {
            let o = Fields::of(value)?;
            Ok(pb::LinuxResources {
                memory: o.number("memory")?,
                memory_swap: o.number("memorySwap")?,
                cpu_shares: o.number("cpuShares")?,
                cpu_period: o.number("cpuPeriod")?,
                cpu_quota: o.number("cpuQuota")?,
                cpuset_cpus: o.text("cpusetCpus")?,
                cpuset_mems: o.text("cpusetMems")?,
            })
        })?,
    })
}

fn source_info(value: &Value) -> Read<pb::SourceInfo> {
    let o = Fields::of(value)?;
    Ok(pb::SourceInfo {
        filename: o.text("filename")?,
        data: o.bytes("data")?,
        definition: o.message("definition", definition)?,
        language: o.text("language")?,
    })
}

fn location(value: &Value) -> Read<pb::Location> {
    let position = |value: &Value| {
        let o = Fields::of(value)?;
        Ok(pb::Position {
            line: o.number("line")?,
            character: o.number("character")?,
        })
    };
    let o = Fields::of(value)?;
    Ok(pb::Location {
        source_index: o.number("sourceIndex")?,
        ranges: o.list("ranges", |value| {
            let o = Fields::of(value)?;
            Ok(pb::Range {
                start: o.message("start", position)?,
                end: o.message("end", position)?,
            })
        })?,
    })
}

/// The fields of one message by the names of its definition.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Read<Self> {
        match value.as_object() {
            Some(fields) => Ok(Fields(fields)),
            None => ReadError::of("an object"),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let found = self.0.get(&camel_case(name)).or_else(|| self.0.get(name));
        found.filter(|value| !value.is_null())
    }

    fn message<T>(&self, name: &str, read: impl Fn(&Value) -> Read<T>) -> Read<Option<T>> {
        let found = self.get(name).map(read).transpose();
        found.map_err(|error| error.within(name))
    }

    fn scalar<T: Default>(&self, name: &str, read: impl Fn(&Value) -> Read<T>) -> Read<T> {
        Ok(self.message(name, read)?.unwrap_or_default())
    }

    fn text(&self, name: &str) -> Read<String> {
        self.scalar(name, text)
    }

    fn bytes(&self, name: &str) -> Read<Vec<u8>> {
        self.scalar(name, bytes)
    }

    fn flag(&self, name: &str) -> Read<bool> {
        self.scalar(name, flag)
    }

    fn number<T: Default + TryFrom<i128>>(&self, name: &str) -> Read<T> {
        self.scalar(name, number)
    }

    fn name(&self, name: &str, names: &[&str]) -> Read<i32> {
        self.scalar(name, |value| {
            let Some(text) = value.as_str() else {
                return number(value);
            };
            let known = (0..).zip(names).find(|(_, known)| **known == text);
            known.map_or_else(|| ReadError::of("a known name"), |(number, _)| Ok(number))
        })
    }

    fn list<T>(&self, name: &str, read: impl Fn(&Value) -> Read<T>) -> Read<Vec<T>> {
        self.scalar(name, |value| {
            let Some(items) = value.as_array() else {
                return ReadError::of("a list");
            };
            let items = items.iter().enumerate();
            let items = items.map(|(i, item)| read(item).map_err(|e| e.within(&format!("[{i}]"))));
            items.collect()
        })
    }

    fn map<T>(&self, name: &str, read: impl Fn(&Value) -> Read<T>) -> Read<BTreeMap<String, T>> {
        self.scalar(name, |value| {
            let Some(entries) = value.as_object() else {
                return ReadError::of("an object");
            };
            let entries = entries.iter().map(|(key, value)| {
                let value = read(value).map_err(|error| error.within(&format!("[{key:?}]")))?;
                Ok((key.clone(), value))
            });
            entries.collect()
        })
    }
}

/// `include_patterns` as JSON has it: `includePatterns`.
fn camel_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

fn text(value: &Value) -> Read<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => ReadError::of("a text"),
    }
}

fn flag(value: &Value) -> Read<bool> {
    match value.as_bool() {
        Some(flag) => Ok(flag),
        None => ReadError::of("true or false"),
    }
}

/// A number or the text of one; `1e3` and `1.0` are whole numbers too.
fn number<T: TryFrom<i128>>(value: &Value) -> Read<T> {
    let whole = match value {
        Value::Number(number) => whole(&number.to_string()),
        Value::String(text) => whole(text),
        _ => None,
    };
    match whole.and_then(|number| T::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => ReadError::of("a whole number within its limits"),
    }
}

fn whole(text: &str) -> Option<i128> {
    if let Ok(number) = text.parse::<i128>() {
        return (!text.starts_with('+')).then_some(number);
    }
    // Beyond 2^53 a fraction or an exponent says nothing exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number: f64 = text.parse().ok()?;
    let exact = number.fract() == 0.0 && number.abs() <= EXACT;
    #[allow(clippy::cast_possible_truncation)]
    exact.then_some(number as i128)
}

/// Both alphabets of base64, padded or not.
fn bytes(value: &Value) -> Read<Vec<u8>> {
    let text = value.as_str().unwrap_or("!");
    let body = text.trim_end_matches('=').as_bytes();
    let padding = text.len() - body.len();
    let fits = match body.len() % 4 {
        _ if padding == 0 => true,
        2 => padding == 2,
        3 => padding == 1,
        _ => false,
    };
    let mut out = Vec::with_capacity(body.len() / 4 * 3 + 2);
    for chunk in body.chunks(4) {
        let mut word = 0_u32;
        for byte in chunk {
            let Some(bits) = sextet(*byte) else {
                return ReadError::of("base64");
            };
            word = word << 6 | u32::from(bits);
        }
        let [_, a, b, c] = (word << (6 * (4 - chunk.len()))).to_be_bytes();
        match chunk.len() {
            4 => out.extend([a, b, c]),
            3 => out.extend([a, b]),
            2 => out.push(a),
            _ => return ReadError::of("base64"),
        }
    }
    if fits {
        Ok(out)
    } else {
        ReadError::of("base64")
    }
}

fn sextet(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}
