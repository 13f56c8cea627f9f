//! Ops written as JSON read back as they were; what other programs of the field write reads too.

use std::collections::BTreeMap;

use gateway_llb::{json, pb};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Takes its choices from bytes, so that a failing op shrinks with them.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn below(&mut self, count: u8) -> u8 {
        self.byte() % count
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn int64(&mut self) -> i64 {
        match self.below(5) {
            0 => 0,
            1 => -1,
            2 => i64::MIN,
            3 => i64::MAX,
            _ => i64::from(self.byte()),
        }
    }

    fn int32(&mut self) -> i32 {
        match self.below(4) {
            0 => 0,
            1 => i32::MIN,
            2 => i32::MAX,
            _ => i32::from(self.byte()),
        }
    }

    fn uint32(&mut self) -> u32 {
        self.int32().cast_unsigned()
    }

    fn text(&mut self) -> String {
        ["", "a", "/a b", "é\u{1f600}", "\"\\\n\u{0}", "null", "1"][usize::from(self.below(7))]
            .to_owned()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.below(6);
        (0..length).map(|_| self.byte()).collect()
    }

    fn list<T>(&mut self, one: fn(&mut Self) -> T) -> Vec<T> {
        let length = self.below(3);
        (0..length).map(|_| one(self)).collect()
    }

    fn map<T>(&mut self, one: fn(&mut Self) -> T) -> BTreeMap<String, T> {
        let length = self.below(3);
        (0..length).map(|_| (self.text(), one(self))).collect()
    }

    fn maybe<T>(&mut self, one: fn(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| one(self))
    }
}

fn op(g: &mut Choices) -> pb::Op {
    use pb::op::Op;
    let kind = match g.below(8) {
        0 => None,
        1 => Some(Op::Exec(exec(g))),
        2 => Some(Op::Source(pb::SourceOp {
            identifier: g.text(),
            attrs: g.map(Choices::text),
        })),
        3 => Some(Op::File(pb::FileOp {
            actions: g.list(action),
        })),
        4 => Some(Op::Build(pb::BuildOp {
            builder: g.int64(),
            inputs: g.map(|g| pb::BuildInput { input: g.int64() }),
            def: g.maybe(definition),
            attrs: g.map(Choices::text),
        })),
        5 => Some(Op::Merge(pb::MergeOp {
            inputs: g.list(|g| pb::MergeInput { input: g.int64() }),
        })),
        6 => Some(Op::Diff(pb::DiffOp {
            lower: g.maybe(|g| pb::LowerDiffInput { input: g.int64() }),
            upper: g.maybe(|g| pb::UpperDiffInput { input: g.int64() }),
        })),
        _ => Some(Op::Passthrough(pb::PassthroughOp {
            id: g.text(),
            outputs: g.list(Choices::int64),
        })),
    };
    pb::Op {
        inputs: g.list(|g| pb::Input {
            digest: g.text(),
            index: g.int64(),
        }),
        op: kind,
        platform: g.maybe(|g| pb::Platform {
            architecture: g.text(),
            os: g.text(),
            variant: g.text(),
            os_version: g.text(),
            os_features: g.list(Choices::text),
        }),
        constraints: g.maybe(|g| pb::WorkerConstraints {
            filter: g.list(Choices::text),
        }),
    }
}

fn exec(g: &mut Choices) -> pb::ExecOp {
    pb::ExecOp {
        meta: g.maybe(|g| pb::Meta {
            args: g.list(Choices::text),
            env: g.list(Choices::text),
            cwd: g.text(),
            user: g.text(),
            proxy_env: g.maybe(|g| pb::ProxyEnv {
                http_proxy: g.text(),
                https_proxy: g.text(),
                ftp_proxy: g.text(),
                no_proxy: g.text(),
                all_proxy: g.text(),
            }),
            extra_hosts: g.list(|g| pb::HostIp {
                host: g.text(),
                ip: g.text(),
            }),
            hostname: g.text(),
            ulimit: g.list(|g| pb::Ulimit {
                name: g.text(),
                soft: g.int64(),
                hard: g.int64(),
            }),
            cgroup_parent: g.text(),
            remove_mount_stubs_recursive: g.flag(),
            valid_exit_codes: g.list(Choices::int32),
        }),
        mounts: g.list(mount),
        // Numbers without a name too.
        network: i32::from(g.below(5)),
        security: i32::from(g.below(4)),
        secretenv: g.list(|g| pb::SecretEnv {
            id: g.text(),
            name: g.text(),
            optional: g.flag(),
        }),
        cdi_devices: g.list(|g| pb::CdiDevice {
            name: g.text(),
            optional: g.flag(),
        }),
    }
}

fn mount(g: &mut Choices) -> pb::Mount {
    pb::Mount {
        input: g.int64(),
        selector: g.text(),
        dest: g.text(),
        output: g.int64(),
        readonly: g.flag(),
        mount_type: i32::from(g.below(7)),
        tmpfs_opt: g.maybe(|g| pb::TmpfsOpt { size: g.int64() }),
        cache_opt: g.maybe(|g| pb::CacheOpt {
            id: g.text(),
            sharing: i32::from(g.below(4)) - 1,
        }),
        secret_opt: g.maybe(|g| pb::SecretOpt {
            id: g.text(),
            uid: g.uint32(),
            gid: g.uint32(),
            mode: g.uint32(),
            optional: g.flag(),
        }),
        ssh_opt: g.maybe(|g| pb::SshOpt {
            id: g.text(),
            uid: g.uint32(),
            gid: g.uint32(),
            mode: g.uint32(),
            optional: g.flag(),
        }),
        result_id: g.text(),
        content_cache: i32::from(g.below(4)),
    }
}

fn action(g: &mut Choices) -> pb::FileAction {
    use pb::file_action::Action;
    let action = match g.below(6) {
        0 => None,
        1 => Some(Action::Copy(pb::FileActionCopy {
            src: g.text(),
            dest: g.text(),
            owner: g.maybe(owner),
            mode: g.int32(),
            follow_symlink: g.flag(),
            dir_copy_contents: g.flag(),
            attempt_unpack_docker_compatibility: g.flag(),
            create_dest_path: g.flag(),
            allow_wildcard: g.flag(),
            allow_empty_wildcard: g.flag(),
            timestamp: g.int64(),
            include_patterns: g.list(Choices::text),
            exclude_patterns: g.list(Choices::text),
            always_replace_existing_dest_paths: g.flag(),
            mode_str: g.text(),
            required_paths: g.list(Choices::text),
        })),
        2 => Some(Action::Mkfile(pb::FileActionMkFile {
            path: g.text(),
            mode: g.int32(),
            data: g.bytes(),
            owner: g.maybe(owner),
            timestamp: g.int64(),
        })),
        3 => Some(Action::Mkdir(pb::FileActionMkDir {
            path: g.text(),
            mode: g.int32(),
            make_parents: g.flag(),
            owner: g.maybe(owner),
            timestamp: g.int64(),
        })),
        4 => Some(Action::Rm(pb::FileActionRm {
            path: g.text(),
            allow_not_found: g.flag(),
            allow_wildcard: g.flag(),
        })),
        _ => Some(Action::Symlink(pb::FileActionSymlink {
            oldpath: g.text(),
            newpath: g.text(),
            owner: g.maybe(owner),
            timestamp: g.int64(),
        })),
    };
    pb::FileAction {
        input: g.int64(),
        secondary_input: g.int64(),
        output: g.int64(),
        action,
    }
}

fn owner(g: &mut Choices) -> pb::ChownOpt {
    fn user(g: &mut Choices) -> pb::UserOpt {
        use pb::user_opt::User;
        let user = match g.below(3) {
            0 => None,
            1 => Some(User::ById(g.uint32())),
            _ => Some(User::ByName(pb::NamedUserOpt {
                name: g.text(),
                input: g.int64(),
            })),
        };
        pb::UserOpt { user }
    }
    pb::ChownOpt {
        user: g.maybe(user),
        group: g.maybe(user),
    }
}

fn definition(g: &mut Choices) -> pb::Definition {
    pb::Definition {
        def: g.list(Choices::bytes),
        metadata: g.map(|g| pb::OpMetadata {
            ignore_cache: g.flag(),
            description: g.map(Choices::text),
            export_cache: g.maybe(|g| pb::ExportCache { value: g.flag() }),
            caps: g.map(Choices::flag),
            progress_group: g.maybe(|g| pb::ProgressGroup {
                id: g.text(),
                name: g.text(),
                weak: g.flag(),
            }),
            linux_resources: g.maybe(|g| pb::LinuxResources {
                memory: g.int64(),
                memory_swap: g.int64(),
                cpu_shares: g.int64().cast_unsigned(),
                cpu_period: g.int64().cast_unsigned(),
                cpu_quota: g.int64(),
                cpuset_cpus: g.text(),
                cpuset_mems: g.text(),
            }),
        }),
        source: g.maybe(|g| pb::Source {
            locations: g.map(|g| pb::Locations {
                locations: g.list(|g| pb::Location {
                    source_index: g.int32(),
                    ranges: g.list(|g| pb::Range {
                        start: g.maybe(position),
                        end: g.maybe(position),
                    }),
                }),
            }),
            infos: g.list(|g| pb::SourceInfo {
                filename: g.text(),
                data: g.bytes(),
                definition: g.maybe(|g| pb::Definition {
                    def: g.list(Choices::bytes),
                    ..pb::Definition::default()
                }),
                language: g.text(),
            }),
        }),
    }
}

fn position(g: &mut Choices) -> pb::Position {
    pb::Position {
        line: g.int32(),
        character: g.int32(),
    }
}

/// Any JSON with the names that ops have, so that it gets far.
fn any_json() -> impl Strategy<Value = Value> {
    const NAMES: &[&str] = &[
        "exec",
        "meta",
        "mounts",
        "args",
        "input",
        "mountType",
        "byID",
        "file",
        "actions",
        "copy",
        "mkfile",
        "data",
        "owner",
        "user",
        "build",
        "def",
        "Source",
        "platform",
        "x",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[A-Za-z0-9+/=_-]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        let fields = prop::collection::btree_map(prop::sample::select(NAMES), inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::from),
            fields.prop_map(|fields| json!(fields)),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let op = op(&mut Choices(bytes.iter()));
        let text = json::op(&op).to_string();
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(json::read_op(&value), Ok(op), "{}", text);
    }

    #[test]
    fn any_json_is_read_or_refused(value in any_json()) {
        if let Ok(op) = json::read_op(&value) {
            prop_assert_eq!(json::read_op(&json::op(&op)), Ok(op));
        }
    }
}

#[test]
fn names_numbers_bytes_and_enums_read_in_every_spelling() {
    let usual = json::read_op(&json!({
        "inputs": [{"digest": "sha256:a", "index": "1"}],
        "exec": {
            "meta": {"proxyEnv": {"noProxy": "x"}, "validExitCodes": [3]},
            "mounts": [{"input": "-1", "mountType": "CACHE", "cacheOpt": {"sharing": "LOCKED"}}],
        },
    }));
    let other = json::read_op(&json!({
        "inputs": [{"digest": "sha256:a", "index": 1.0, "newer": {"x": [1]}}],
        "newer": 1,
        "file": null,
        "exec": {
            "meta": {"proxy_env": {"no_proxy": "x", "http_proxy": null}, "validExitCodes": ["3"]},
            "mounts": [{"input": -1, "mountType": 3, "cacheOpt": {"sharing": "LOCKED"}, "TmpfsOpt": null}],
            "network": "UNSET",
        },
    }));
    assert!(usual.is_ok());
    assert_eq!(usual, other);

    for text in ["+/8=", "-_8=", "+/8", "-_8"] {
        let op = json::read_op(&json!({"file": {"actions": [{"mkfile": {"data": text}}]}}));
        let Ok(Some(pb::op::Op::File(file))) = op.map(|op| op.op) else {
            panic!("{text}");
        };
        let Some(pb::file_action::Action::Mkfile(file)) = &file.actions[0].action else {
            panic!("{text}");
        };
        assert_eq!(file.data, [0xfb, 0xff], "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    for (value, message) in [
        (json!([]), "the value is not an object"),
        (
            json!({"exec": {"mounts": [{}, {"dest": 1}]}}),
            "exec.mounts[1].dest is not a text",
        ),
        (
            json!({"exec": {"network": "LOUD"}}),
            "exec.network is not a known name",
        ),
        (
            json!({"exec": {"mounts": [{"secretOpt": {"uid": -1}}]}}),
            "exec.mounts[0].secretOpt.uid is not a whole number within its limits",
        ),
        (
            json!({"inputs": [{"index": "1.5"}]}),
            "inputs[0].index is not a whole number within its limits",
        ),
        (
            json!({"source": {"attrs": {"a": true}}}),
            "source.attrs[\"a\"] is not a text",
        ),
        (
            json!({"file": {"actions": [{"mkfile": {"data": "a"}}]}}),
            "file.actions[0].mkfile.data is not base64",
        ),
        (
            json!({"file": {}, "exec": {}}),
            "the value is not of one kind",
        ),
    ] {
        assert_eq!(json::read_op(&value).unwrap_err().to_string(), message);
    }
}
