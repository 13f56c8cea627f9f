//! Digests printed by BuildKit itself.

use super::*;
use gateway_llb::pb;

fn amd64() -> pb::Platform {
    pb::Platform {
        architecture: "amd64".into(),
        os: "linux".into(),
        ..pb::Platform::default()
    }
}

fn root() -> pb::Mount {
    pb::Mount {
        dest: "/".into(),
        ..pb::Mount::default()
    }
}

fn exec(args: &[&str], mounts: Vec<pb::Mount>) -> pb::ExecOp {
    pb::ExecOp {
        meta: Some(pb::Meta {
            args: args.iter().map(|s| (*s).to_owned()).collect(),
            cwd: "/".into(),
            ..pb::Meta::default()
        }),
        mounts,
        ..pb::ExecOp::default()
    }
}

fn digest_of_exec(exec: &pb::ExecOp) -> String {
    exec_key(exec, &amd64(), 2).unwrap().digest
}

#[test]
fn a_plain_exec_has_the_known_digest() {
    let mut op = exec(&["/bin/sh", "-c", "echo a && b <c>"], vec![root()]);
    op.meta.as_mut().unwrap().env = vec!["PATH=/bin".into()];
    assert_eq!(
        digest_of_exec(&op),
        "sha256:208a35725e422f039c65c77de766abd0504347baba50a068268337ebd756c94e"
    );
}

#[test]
fn proxies_and_addresses_of_hosts_are_not_in_the_key() {
    let mut op = exec(&["x"], vec![root()]);
    let meta = op.meta.as_mut().unwrap();
    meta.proxy_env = Some(pb::ProxyEnv {
        http_proxy: "http://p".into(),
        ..pb::ProxyEnv::default()
    });
    meta.extra_hosts = vec![pb::HostIp {
        host: "h".into(),
        ip: "1.2.3.4".into(),
    }];
    assert_eq!(
        digest_of_exec(&op),
        "sha256:7149efc601e743ddefb81e871acb3348c09a9cf646c2523e5297d92453c43fe6"
    );
}

/// The vectors of the mounts go on from this op.
fn with_host(mounts: Vec<pb::Mount>) -> pb::ExecOp {
    exec(&["x"], mounts)
}

fn cache_mount(id: &str, sharing: pb::CacheSharingOpt) -> pb::Mount {
    pb::Mount {
        input: -1,
        dest: "/c".into(),
        output: -1,
        mount_type: pb::MountType::Cache as i32,
        cache_opt: Some(pb::CacheOpt {
            id: id.into(),
            sharing: sharing as i32,
        }),
        ..pb::Mount::default()
    }
}

#[test]
fn the_default_cache_mount_is_in_the_key_and_others_leave_an_empty_object() {
    let op = with_host(vec![root(), cache_mount("/c", pb::CacheSharingOpt::Shared)]);
    assert_eq!(
        digest_of_exec(&op),
        "sha256:1aff65460e19558806596b3366eac3fed81c484144d0c6d94bf5e31185bb29cc"
    );
    let op = with_host(vec![
        root(),
        cache_mount("myid", pb::CacheSharingOpt::Locked),
    ]);
    assert_eq!(
        digest_of_exec(&op),
        "sha256:0b425127c0e591c4ec5d71e67c655c23ce8f689afd19897a3af39393f23de2a5"
    );
}

#[test]
fn secrets_enter_by_name_only() {
    let mut op = with_host(vec![
        root(),
        pb::Mount {
            input: -1,
            dest: "/run/secrets/s".into(),
            output: -1,
            mount_type: pb::MountType::Secret as i32,
            secret_opt: Some(pb::SecretOpt {
                id: "s".into(),
                mode: 0o400,
                ..pb::SecretOpt::default()
            }),
            ..pb::Mount::default()
        },
    ]);
    op.secretenv = vec![pb::SecretEnv {
        id: "s".into(),
        name: "S".into(),
        optional: false,
    }];
    assert_eq!(
        digest_of_exec(&op),
        "sha256:7a59be39218693c119070043df6170bcced6c71bb47cf12924e8dd8dd4eb319d"
    );
}

#[test]
fn a_read_only_bind_counts_by_content() {
    let mut op = with_host(vec![
        root(),
        pb::Mount {
            input: 1,
            selector: "/a/b".into(),
            dest: "/src".into(),
            output: -1,
            readonly: true,
            ..pb::Mount::default()
        },
    ]);
    op.network = pb::NetMode::None as i32;
    let key = exec_key(&op, &amd64(), 2).unwrap();
    assert_eq!(
        key.digest,
        "sha256:7af5671f3e45523ad4d814552cac7fb37822ada2451673de3c967a2024865355"
    );
    assert_eq!(key.deps[1].selector, Some(digest_of(b"/a/b")));
    let content = key.deps[1].content.as_ref().unwrap();
    assert_eq!(content[0].path, "/a/b");
    assert_eq!(
        key.deps[0].selector.as_deref(),
        Some("sha256:8a5edab282632443219e051e4ade2d1d5bbc671c781051bf1437897cbdfea0f1")
    );
    assert_eq!(key.deps[0].content, None);
}

#[test]
fn a_writable_bind_with_an_output_and_a_selector_never_counts_by_content() {
    let op = with_host(vec![
        root(),
        pb::Mount {
            input: 1,
            selector: "/a".into(),
            dest: "/src".into(),
            output: 1,
            ..pb::Mount::default()
        },
    ]);
    let key = exec_key(&op, &amd64(), 2).unwrap();
    assert!(key.digest.starts_with("sha256:006e5818"), "{}", key.digest);
    assert_eq!(key.deps[1].content, None);
}

#[test]
fn the_step_of_a_dockerfile_has_the_digest_of_the_reference_export() {
    let mut op = exec(&["/bin/sh", "-c", "echo final > /f"], vec![root()]);
    let meta = op.meta.as_mut().unwrap();
    meta.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()];
    meta.remove_mount_stubs_recursive = true;
    let digest = digest_of_exec(&op);
    assert_eq!(
        digest,
        "sha256:7124141fdd2b1a987d91f0ecf83e573aaea8a41f4fa3022497dda4376883497e"
    );
    assert_eq!(
        root_key(&digest, 0),
        "sha256:eded1f5fcfb20f2d79c887036734dc65b4960def43f25c1ff194e1d09d9f73df"
    );
}

fn action(action: pb::file_action::Action, input: i64, secondary: i64) -> pb::FileOp {
    pb::FileOp {
        actions: vec![pb::FileAction {
            input,
            secondary_input: secondary,
            output: 0,
            action: Some(action),
        }],
    }
}

#[test]
fn file_ops_have_the_known_digests() {
    let mkfile = action(
        pb::file_action::Action::Mkfile(pb::FileActionMkFile {
            path: "/f".into(),
            mode: 0o644,
            data: b"hi".to_vec(),
            owner: None,
            timestamp: -1,
        }),
        0,
        -1,
    );
    assert_eq!(
        file_key(&mkfile, 1).unwrap().digest,
        "sha256:1294811a9d27f5efb389fed5bb33ea06f737a0b1f101b32f81e749e30cf91cfc"
    );
    let by_id = |id| {
        Some(pb::UserOpt {
            user: Some(pb::user_opt::User::ById(id)),
        })
    };
    let copy = action(
        pb::file_action::Action::Copy(pb::FileActionCopy {
            src: "/dir/foo.txt".into(),
            dest: "/dst/".into(),
            mode: -1,
            follow_symlink: true,
            dir_copy_contents: true,
            create_dest_path: true,
            allow_wildcard: true,
            allow_empty_wildcard: true,
            timestamp: -1,
            ..pb::FileActionCopy::default()
        }),
        0,
        1,
    );
    let key = file_key(&copy, 2).unwrap();
    assert_eq!(
        key.digest,
        "sha256:027498e3ce4cab78f2d36b601b85dafe1715f393cf1b61441dc03ed5c48248ca"
    );
    assert_eq!(key.deps[1].selector, Some(digest_of(b"/dir/foo.txt")));
    assert_eq!(key.deps[0], Dep::default());
    let mkdir = action(
        pb::file_action::Action::Mkdir(pb::FileActionMkDir {
            path: "/d".into(),
            mode: 0o755,
            make_parents: true,
            owner: Some(pb::ChownOpt {
                user: by_id(5),
                group: by_id(0),
            }),
            timestamp: -1,
        }),
        -1,
        -1,
    );
    assert_eq!(
        file_key(&mkdir, 0).unwrap().digest,
        "sha256:771e9acf16bc2205ad9929467cdb0cc0821bf86876638e02bd4b3b3065fbc4e1"
    );
}

#[test]
fn merge_and_diff_have_the_known_digests() {
    let merge = pb::MergeOp {
        inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }],
    };
    assert_eq!(
        merge_key(&merge, 2).digest,
        "sha256:436287a2dc2ce494f564331be9ea3a9f27ebec398567877043da2f618f33d6c8"
    );
    let diff = pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: 0 }),
        upper: Some(pb::UpperDiffInput { input: 1 }),
    };
    assert_eq!(
        diff_key(&diff, 2).digest,
        "sha256:164ae6dac10aea8de6cb7cda35914a10011485523f807ea840bca3e0ab19d8ff"
    );
}

#[test]
fn an_image_has_the_keys_of_the_reference() {
    let manifest = "sha256:ae529b015202139952faf11ea07669c88745ba1cfb2dbb082a8cace2a0d3de13";
    let key = image_key(manifest, &amd64(), None);
    assert_eq!(
        root_key(&source_digest(&key), 0),
        "sha256:839f5563d46b7cf5d81ddcb56e1092d1222521e6728423a5d4b1f55ea35e8314"
    );
    let layer = "sha256:cfb93940e5e22d3e947bd5eac389c6282e2d6f2a2ed6104020c9aceacf3d318b";
    let chain = chain_id(&[layer.to_owned()]).unwrap();
    assert_eq!(chain, layer);
    assert_eq!(
        root_key(&source_digest(&chain), 0),
        "sha256:29039238a93589326354fe12e3043184e4e1fc7e71bd7d10a6c91e353694cdb5"
    );
}

#[test]
fn content_keys_are_those_of_the_reference() {
    let content = "sha256:4795071d4db288810f5729d29ad4b50d201655c4fb9b0101af6e8327e854848b";
    // The function that hashes a list of parts hashes their digests once more.
    assert_eq!(
        content_key(&digest_of(content.as_bytes())),
        "sha256:cc00f1188ed6175207fa735fae3b8fa5420e68409b9374f8b8235f80115aadbc"
    );
}

#[test]
fn local_sources_never_leave_their_session() {
    let digest = source_digest(&local_key("context", "s1", &Default::default()));
    assert!(digest.starts_with("random:"));
    assert!(root_key(&digest, 0).starts_with("random:"));
}

#[test]
fn paths_below_others_are_dropped() {
    let paths = ["/a/b", "/a", "/ab", "/a"].map(String::from).to_vec();
    assert_eq!(dedupe_paths(paths), ["/a", "/ab"]);
}
