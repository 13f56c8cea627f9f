//! Points of the gateway protocol that need no container of their own: files of refs, failures,
//! warnings, exporters' demands.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use gateway_api::progress::{Position, Range};
use gateway_api::*;
use gateway_llb::{Constraints, LocalSource, SourceMap, State, pb};
use gateway_solver::{Exporter, OutputTarget};

use crate::both::{both, both_with, definition, root, solve};
use crate::rig::{RAW, Rig};

fn files() -> State {
    let source = LocalSource {
        session: "the-session".to_owned(),
        ..LocalSource::new("files")
    };
    source.state(Constraints::new())
}

/// A folder with files, links and what leads out of it.
fn make_files(rig: &Rig) {
    let dir = rig.path("files");
    std::fs::create_dir_all(dir.join("sub/deep")).unwrap();
    std::fs::write(dir.join("a.txt"), "0123456789").unwrap();
    std::fs::write(dir.join("b.txt"), "b").unwrap();
    std::fs::write(dir.join("c.md"), "c").unwrap();
    std::fs::write(dir.join("sub/d.txt"), "d").unwrap();
    std::fs::write(rig.path("outside"), "secret").unwrap();
    for (target, name) in [
        ("a.txt", "link"),
        ("sub", "dir-link"),
        ("nowhere", "dangling"),
        ("/b.txt", "absolute"),
        ("/etc/passwd", "passwd"),
        ("../outside", "up"),
        ("../../../../../../etc/passwd", "far-up"),
        ("loop", "loop"),
    ] {
        symlink(target, dir.join(name)).unwrap();
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(dir.join("c.md"), mode).unwrap();
}

pub async fn p34_files_are_read_whole_in_ranges_and_through_links() {
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            let files = solve(&gateway, &files()).await;
            let range = async |offset, length| {
                let range = FileRange { offset, length };
                gateway.read_file(&files, "a.txt", Some(range)).await
            };
            for path in [
                "a.txt",
                "/a.txt",
                "./a.txt",
                "sub/../a.txt",
                "link",
                "/link",
                "../a.txt",
            ] {
                let read = gateway.read_file(&files, path, None).await;
                assert_eq!(read.unwrap(), b"0123456789", "{path}");
            }
            assert_eq!(gateway.read_file(&files, "absolute", None).await?, b"b");
            assert_eq!(
                gateway.read_file(&files, "dir-link/d.txt", None).await?,
                b"d"
            );
            assert_eq!(range(0, 0).await?, b"");
            assert_eq!(range(2, 3).await?, b"234");
            assert_eq!(range(8, 100).await?, b"89");
            assert_eq!(range(10, 1).await?, b"");
            assert_eq!(range(1 << 40, 1).await?, b"");
            assert_eq!(range(0, -1).await?, b"");
            assert!(range(-1, 1).await.is_err());
            let error = async |path: &str| {
                let read = gateway.read_file(&files, path, None).await;
                read.expect_err(path)
            };
            let missing = error("no/such").await;
            assert_eq!(missing.code, Code::Unknown);
            assert_eq!(missing.message, "open no/such: no such file or directory");
            for path in ["sub", "dir-link", "."] {
                let text = format!("{path} is not a regular file");
                assert_eq!(error(path).await.message, text);
            }
            Ok(())
        })
    };
    both_with(make_files, body).await;
}

pub async fn p34_no_path_and_no_link_leads_out_of_the_root() {
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            let files = solve(&gateway, &files()).await;
            for path in [
                "passwd",
                "up",
                "far-up",
                "loop",
                "/etc/passwd",
                "../outside",
                "sub/../../outside",
                "dir-link/../../outside",
                "/proc/self/environ",
                "a.txt/../../outside",
                "outside\0",
                &"sub/".repeat(3000),
                &"x".repeat(300),
            ] {
                let read = gateway.read_file(&files, path, None).await;
                assert!(read.is_err(), "{path:.40}: {read:?}");
                let stat = gateway.stat_file(&files, path).await;
                assert!(
                    stat.is_err() || path.starts_with("sub/sub"),
                    "{path:.40}: {stat:?}"
                );
            }
            // What is above the root is the root.
            let above = gateway.read_dir(&files, "../../..", None).await?;
            let inside = gateway.read_dir(&files, "/", None).await?;
            assert_eq!(above, inside);
            assert!(gateway.read_dir(&files, "../store", None).await.is_err());
            Ok(())
        })
    };
    both_with(make_files, body).await;
}

pub async fn p35_directories_are_one_sorted_level_of_base_names() {
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            let files = solve(&gateway, &files()).await;
            let names = async |path: &str, pattern: Option<&str>| {
                let entries = gateway.read_dir(&files, path, pattern).await?;
                Ok::<Vec<String>, Error>(entries.into_iter().map(|entry| entry.path).collect())
            };
            let all = [
                "a.txt", "absolute", "b.txt", "c.md", "dangling", "dir-link", "far-up", "link",
                "loop", "passwd", "sub", "up",
            ];
            for root in ["/", ".", "", "sub/.."] {
                assert_eq!(names(root, None).await?, all, "{root}");
            }
            assert_eq!(names("/", Some("*.txt")).await?, ["a.txt", "b.txt"]);
            assert_eq!(names("sub", Some("*.txt")).await?, ["d.txt"]);
            assert_eq!(names("dir-link", None).await?, ["d.txt", "deep"]);
            assert!(names("/", Some("x*")).await?.is_empty());
            let bad = names("/", Some("[")).await.unwrap_err();
            assert!(bad.message.starts_with("invalid includepatterns"), "{bad}");
            for path in ["none", "a.txt", "link"] {
                assert!(names(path, None).await.is_err(), "{path}");
            }
            let entries = gateway.read_dir(&files, "/", None).await?;
            let entry = |name: &str| entries.iter().find(|e| e.path == name).unwrap();
            assert_eq!(entry("link").mode & Stat::MODE_SYMLINK, Stat::MODE_SYMLINK);
            assert_eq!(entry("link").linkname, "a.txt");
            assert_eq!(entry("sub").mode, Stat::MODE_DIR | 0o755);
            assert_eq!(entry("sub").size, 0);
            assert_eq!(entry("c.md").mode, 0o640);
            Ok(())
        })
    };
    both_with(make_files, body).await;
}

pub async fn p35_stat_follows_links_and_tells_gos_mode_bits() {
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            let files = solve(&gateway, &files()).await;
            for path in ["a.txt", "link", "/link"] {
                let stat = gateway.stat_file(&files, path).await?;
                assert_eq!((stat.path.as_str(), stat.size), ("a.txt", 10), "{path}");
                assert_eq!(stat.mode, 0o644, "{path}");
                assert!(stat.linkname.is_empty() && stat.mod_time > 0, "{stat:?}");
            }
            let dir = gateway.stat_file(&files, "dir-link").await?;
            assert_eq!(
                (dir.path.as_str(), dir.mode),
                ("sub", Stat::MODE_DIR | 0o755)
            );
            assert!(gateway.stat_file(&files, ".").await?.is_dir());
            for path in ["dangling", "none"] {
                let error = gateway.stat_file(&files, path).await.unwrap_err();
                let text = format!("lstat {path}: no such file or directory");
                assert_eq!(error.message, text);
            }
            Ok(())
        })
    };
    both_with(make_files, body).await;
}

/// The kinds of an error's details, outermost first.
fn kinds(error: &Error) -> Vec<&str> {
    let kind = |detail| match detail {
        &Detail::Solve(_) => "solve",
        Detail::Vertex { .. } => "vertex",
        Detail::Exit { .. } => "exit",
        Detail::Source(_) => "source",
        Detail::Frontend { .. } => "frontend",
        // Over a connection a Solve detail is kept as it came.
        Detail::Other { type_url, .. } if type_url.ends_with("Solve+json") => "solve",
        _ => "other",
    };
    error.details.iter().map(kind).collect()
}

pub async fn p39_a_failed_step_tells_its_op_its_vertex_and_its_exit_code() {
    both(|gateway| {
        Box::pin(async move {
            let step = root().run(["/bin/sh", "-c", "exit 42"]).root();
            let reference = solve(&gateway, &step).await;
            let evaluated = gateway.evaluate(&reference).await.unwrap_err();
            let eager = SolveRequest {
                definition: Some(definition(&step)),
                evaluate: true,
                ..SolveRequest::default()
            };
            let eager = gateway.solve(eager).await.unwrap_err();
            let read = gateway.read_file(&reference, "x", None).await.unwrap_err();
            for error in [evaluated, eager, read] {
                assert_eq!(kinds(&error), ["solve", "vertex", "exit"], "{error:?}");
                assert_eq!((error.code, error.exit_code()), (Code::Unknown, Some(42)));
                let ops = definition(&step).def;
                let failed = gateway_llb::digest_of(&ops[ops.len() - 2]);
                assert_eq!(error.vertex(), Some(failed.as_str()));
                assert!(
                    error
                        .message
                        .ends_with("did not complete successfully: exit code: 42")
                );
            }
            Ok(())
        })
    })
    .await;
}

pub async fn p43_a_warning_reaches_the_client_with_its_place() {
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            let position = |line| Some(pb::Position { line, character: 4 });
            let warning = Warning {
                digest: "sha256:aa".to_owned(),
                level: 0,
                short: b"Rule: too long (line 2)".to_vec(),
                detail: vec![b"one".to_vec(), b"two".to_vec()],
                url: "https://example.com/rule".to_owned(),
                info: Some(pb::SourceInfo {
                    filename: "Buildfile".to_owned(),
                    data: b"a\nb\n".to_vec(),
                    language: "x".to_owned(),
                    ..pb::SourceInfo::default()
                }),
                ranges: vec![pb::Range {
                    start: position(2),
                    end: position(3),
                }],
            };
            gateway.warn(warning).await?;
            gateway
                .warn(Warning {
                    level: 7,
                    ..Warning::default()
                })
                .await
        })
    };
    for rig in both_with(|_| {}, body).await {
        let statuses = rig.statuses.lock().unwrap();
        let warnings: Vec<_> = statuses
            .iter()
            .flat_map(|status| &status.warnings)
            .collect();
        let [first, second] = warnings.as_slice() else {
            panic!("{warnings:?}");
        };
        assert_eq!((first.vertex.as_str(), first.level), ("sha256:aa", 1));
        assert_eq!(first.short, b"Rule: too long (line 2)");
        assert_eq!(first.detail, [b"one", b"two"]);
        assert_eq!(first.url, "https://example.com/rule");
        let info = first.source_info.as_ref().unwrap();
        assert_eq!(
            (info.filename.as_str(), info.data.as_slice()),
            ("Buildfile", &b"a\nb\n"[..])
        );
        let at = |line| Position { line, character: 4 };
        assert_eq!(
            first.ranges,
            [Range {
                start: at(2),
                end: at(3)
            }]
        );
        assert_eq!(second.level, 7);
    }
}

/// Whatever keeps them to the end of the build, and each brings its build file.
pub async fn p43_many_large_warnings_come_without_their_files() {
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            for _ in 0..40 {
                let info = pb::SourceInfo {
                    filename: "Buildfile".to_owned(),
                    data: vec![b'x'; 1 << 20],
                    ..pb::SourceInfo::default()
                };
                let warning = Warning {
                    short: b"again".to_vec(),
                    info: Some(info),
                    ..Warning::default()
                };
                gateway.warn(warning).await?;
            }
            for _ in 0..5 {
                let warning = Warning {
                    detail: vec![vec![b'x'; 7 << 20]],
                    ..Warning::default()
                };
                gateway.warn(warning).await?;
            }
            Ok(())
        })
    };
    for rig in both_with(|_| {}, body).await {
        let statuses = rig.statuses.lock().unwrap();
        let warnings: Vec<_> = statuses
            .iter()
            .flat_map(|status| &status.warnings)
            .collect();
        let infos = warnings.iter().filter_map(|w| w.source_info.as_ref());
        assert_eq!(infos.clone().count(), 40);
        assert!(infos.clone().all(|info| info.filename == "Buildfile"));
        let brought: usize = infos.map(|info| info.data.len()).sum();
        assert_eq!(brought, 32 << 20);
        // Two of the others, and a word that there were more.
        assert_eq!(warnings.len(), 43);
        let last = warnings.last().map(|w| w.short.as_slice());
        assert_eq!(last, Some(&b"42 warnings are shown, there are more"[..]));
    }
}

/// A step that fails, from line 2 of a build file.
fn failing_step() -> State {
    let map = Arc::new(SourceMap {
        filename: "Buildfile".to_owned(),
        language: "x".to_owned(),
        data: b"first\nfails here\n".to_vec(),
        definition: None,
    });
    let position = |line| Some(pb::Position { line, character: 0 });
    let range = pb::Range {
        start: position(2),
        end: position(2),
    };
    let place = Constraints::new().at(&map, vec![range]);
    let step = root().run(["/bin/sh", "-c", "exit 3"]);
    step.with(place).root()
}

pub async fn p44_a_failing_step_tells_its_lines_of_the_build_file() {
    both(|gateway| {
        Box::pin(async move {
            let reference = solve(&gateway, &failing_step()).await;
            let error = gateway.evaluate(&reference).await.unwrap_err();
            assert_eq!(
                kinds(&error),
                ["source", "solve", "vertex", "exit"],
                "{error:?}"
            );
            let place = error.sources().next().unwrap();
            assert_eq!(place.info.filename, "Buildfile");
            assert_eq!(place.info.data, b"first\nfails here\n");
            assert_eq!(place.ranges[0].start.as_ref().unwrap().line, 2);
            Ok(())
        })
    })
    .await;
    // The same after the frontend has ended: the client learns it from the export.
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let reference = solve(&gateway, &failing_step()).await;
        Ok(BuildResult {
            refs: Refs::Single(reference),
            ..BuildResult::default()
        })
    });
    let error = rig.build("test.v0", &[]).await.unwrap_err();
    assert_eq!(error.sources().next().unwrap().info.filename, "Buildfile");
}

fn oci_dir(rig: &Rig) -> Exporter {
    Exporter::Oci {
        dest: OutputTarget::Dir(rig.path("out")),
        tar: false,
        names: Vec::new(),
        attrs: BTreeMap::new(),
    }
}

async fn several(gateway: Arc<dyn Gateway>, platforms: Option<&str>) -> Result<BuildResult, Error> {
    let mut refs = BTreeMap::new();
    for id in ["linux/amd64", "linux/arm64"] {
        refs.insert(id.to_owned(), solve(&gateway, &files()).await);
    }
    let metadata = platforms.map(|text| ("refs.platforms".to_owned(), text.as_bytes().to_vec()));
    Ok(BuildResult {
        refs: Refs::Map(refs),
        metadata: metadata.into_iter().collect(),
        ..BuildResult::default()
    })
}

/// What the manifests of the exported index are for, in their order.
fn exported_platforms(rig: &Rig) -> Vec<String> {
    let read = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(rig.path(path)).unwrap()).unwrap()
    };
    let top = read("out/index.json");
    let digest = top["manifests"][0]["digest"].as_str().unwrap();
    let index = read(&format!("out/blobs/{}", digest.replace(':', "/")));
    let manifests = index["manifests"].as_array().unwrap();
    let platform = |manifest: &serde_json::Value| {
        let part = |name: &str| manifest["platform"][name].as_str().unwrap().to_owned();
        format!("{}/{}", part("os"), part("architecture"))
    };
    manifests.iter().map(platform).collect()
}

pub async fn p47_several_refs_need_the_list_of_their_platforms_and_keep_its_order() {
    const LIST: &str = r#"{"Platforms":[
        {"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}},
        {"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}}]}"#;
    let mut rig = Rig::new()
        .with_builtin("listed.v0", |gateway| several(gateway, Some(LIST)))
        .with_builtin("bare.v0", |gateway| several(gateway, None))
        .with_builtin("empty.v0", |gateway| {
            several(gateway, Some(r#"{"Platforms":[]}"#))
        })
        .with_builtin("nameless.v0", |gateway| {
            let list =
                r#"{"Platforms":[{"ID":"","Platform":{"architecture":"arm64","os":"linux"}}]}"#;
            several(gateway, Some(list))
        });
    std::fs::write(rig.path("files/a"), "a").unwrap();
    rig.exporters = vec![oci_dir(&rig)];
    for (name, wanted) in [
        (
            "bare.v0",
            "unable to export multiple refs, missing platforms mapping",
        ),
        (
            "empty.v0",
            "unable to export multiple refs, missing platforms mapping",
        ),
        ("nameless.v0", ""),
    ] {
        let error = rig.build(name, &[]).await.unwrap_err();
        assert!(error.message.contains(wanted), "{name}: {error}");
        assert!(!rig.path("out/index.json").exists(), "{name}");
    }
    rig.build("listed.v0", &[]).await.unwrap();
    assert_eq!(exported_platforms(&rig), ["linux/arm64", "linux/amd64"]);
}

pub async fn p49_answers_to_subrequests_reach_the_client_unchanged() {
    let rig = Rig::new();
    for (request, keys) in [
        (
            "frontend.subrequests.describe",
            &["result.json", "result.txt", "version"][..],
        ),
        (
            "frontend.outline",
            &["result.json", "result.txt", "version"],
        ),
        (
            "frontend.targets",
            &["result.json", "result.txt", "version"],
        ),
        (
            "frontend.lint",
            &["result.json", "result.statuscode", "result.txt", "version"],
        ),
        ("frontend.convertllb", &["result.json", "version"]),
    ] {
        let opts = [
            RAW[0],
            RAW[1],
            ("build-arg:MODE", "subrequest"),
            ("requestid", request),
        ];
        let built = rig.build("gateway.v0", &opts).await.unwrap();
        let expected: BTreeMap<String, Vec<u8>> = keys
            .iter()
            .map(|key| {
                (
                    key.to_string(),
                    format!("{request}: {key} \u{fc}\n\0").into_bytes(),
                )
            })
            .collect();
        assert_eq!(built.metadata, expected, "{request}");
    }
}

pub async fn p51_refs_of_a_frontend_mean_nothing_to_another() {
    use std::sync::OnceLock;
    static OUTER: OnceLock<Ref> = OnceLock::new();
    let rig = Rig::new()
        .with_builtin("outer.v0", |gateway| async move {
            let own = solve(&gateway, &root()).await;
            OUTER.set(own.clone()).unwrap();
            let inner = SolveRequest {
                frontend: "inner.v0".to_owned(),
                ..SolveRequest::default()
            };
            let refused = gateway.solve(inner).await.unwrap_err();
            let id = &own.id;
            assert_eq!(refused.message, format!("return reference {id} not found"));
            // Its own are as good as before.
            gateway.evaluate(&own).await?;
            Ok(BuildResult::default())
        })
        .with_builtin("inner.v0", |gateway| async move {
            let stolen = OUTER.get().unwrap();
            let id = &stolen.id;
            for error in [
                gateway.evaluate(stolen).await.unwrap_err(),
                gateway.read_file(stolen, "bin/sh", None).await.unwrap_err(),
                gateway.read_dir(stolen, "/", None).await.unwrap_err(),
                gateway.stat_file(stolen, "/").await.unwrap_err(),
            ] {
                assert_eq!(error.message, format!("no such ref: {id}"));
            }
            let mount = pb::Mount {
                dest: "/".to_owned(),
                result_id: id.clone(),
                ..pb::Mount::default()
            };
            let container = ContainerRequest {
                mounts: vec![mount],
                ..ContainerRequest::default()
            };
            assert!(gateway.new_container(container).await.is_err());
            Ok(BuildResult {
                refs: Refs::Single(stolen.clone()),
                ..BuildResult::default()
            })
        });
    rig.build("outer.v0", &[]).await.unwrap();
}

pub async fn p51_frontends_at_once_end_each_in_their_own_way() {
    let rig = Rig::new();
    let modes = [
        "current",
        "return-exit",
        "2018",
        "garbage",
        "return-error",
        "text",
        "empty",
        "2020",
        "exit",
    ];
    let engine = rig.engine().await;
    let builds = modes.map(|mode| {
        let opts = [RAW[0], RAW[1], ("build-arg:MODE", mode)];
        engine.build(rig.request("gateway.v0", &opts, Default::default()))
    });
    let ended = futures_util::future::join_all(builds).await;
    for (mode, ended) in modes.iter().zip(ended) {
        let good = matches!(*mode, "current" | "2018" | "2020" | "empty");
        assert_eq!(ended.is_ok(), good, "{mode}: {ended:?}");
        if let Err(error) = ended {
            let others = modes.iter().filter(|other| *other != mode);
            let other = others
                .into_iter()
                .find(|other| error.message.contains(&format!("raw frontend: {other}\n")));
            assert_eq!(other, None, "{mode}: {error}");
        }
    }
}

pub async fn what_a_frontend_returned_names_it_when_it_fails_later() {
    let rig = Rig::new();
    let frontend = Detail::Frontend {
        name: "gateway.v0".to_owned(),
        source: "test/raw:1".to_owned(),
    };
    let error = rig.build_raw("failing-step").await.unwrap_err();
    assert!(
        error
            .message
            .starts_with("frontend test/raw:1: process \"/nothing/here\""),
        "{error}"
    );
    assert!(error.details.contains(&frontend), "{error:?}");
    let error = rig.build_raw("garbage-llb").await.unwrap_err();
    assert!(
        error
            .message
            .starts_with("frontend test/raw:1: failed to load LLB: failed to parse"),
        "{error}"
    );
    // What the build may not do is no fault of the frontend's.
    let error = rig.build_raw("host-network").await.unwrap_err();
    assert_eq!(
        error.message,
        "failed to load LLB: network.host is not allowed"
    );
    let named = error.details.iter().filter(|detail| **detail == frontend);
    assert_eq!(named.count(), 1, "{error:?}");
}

fn import(kind: &str, attrs: &[(&str, &str)]) -> CacheImport {
    CacheImport {
        kind: kind.to_owned(),
        attrs: attrs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

pub async fn caches_that_a_solve_names_are_shown_once_and_never_fail_it() {
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            for _ in 0..2 {
                let request = SolveRequest {
                    definition: Some(definition(&root())),
                    evaluate: true,
                    cache_imports: vec![
                        import("nonesuch", &[]),
                        import("local", &[("src", "/etc")]),
                        import("registry", &[("ref", "registry.invalid/a/b:c")]),
                    ],
                    ..SolveRequest::default()
                };
                gateway.solve(request).await?;
            }
            Ok(())
        })
    };
    for rig in both_with(|_| {}, body).await {
        let vertices = rig.vertices();
        let ended = |name: &str| {
            let name = format!("importing cache manifest from {name}");
            let ended: Vec<_> = vertices
                .iter()
                .filter(|vertex| vertex.name == name && vertex.completed.is_some())
                .collect();
            assert_eq!(ended.len(), 1, "{name}: {vertices:?}");
            ended[0].error.clone()
        };
        assert_eq!(ended("nonesuch"), "unknown cache importer: nonesuch");
        assert!(ended("local:/etc").contains("was not given /etc as a cache"));
        assert!(!ended("registry.invalid/a/b:c").is_empty());
    }
}

pub async fn p20_a_file_larger_than_a_message_is_resource_exhausted_and_read_in_ranges() {
    let prepare = |rig: &Rig| {
        let file = std::fs::File::create(rig.path("files/big")).unwrap();
        file.set_len(17 << 20).unwrap();
    };
    let body = |gateway: Arc<dyn Gateway>| -> crate::both::Ran {
        Box::pin(async move {
            let files = solve(&gateway, &files()).await;
            let error = gateway.read_file(&files, "big", None).await.unwrap_err();
            assert_eq!(error.code, Code::ResourceExhausted, "{error}");
            let range = FileRange {
                offset: 2 << 20,
                length: 15 << 20,
            };
            let part = gateway.read_file(&files, "big", Some(range)).await?;
            assert_eq!(part.len(), 15 << 20);
            Ok(())
        })
    };
    both_with(prepare, body).await;
}
