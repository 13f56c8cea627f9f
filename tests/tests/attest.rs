//! What is attested of results: as manifests of an index, as files beside files.

use std::path::Path;

use gateway_tests::image::{Archive, read_archive};
use gateway_tests::program::{Home, run, stderr, tool};
use gateway_tests::raw_frontend;
use gateway_tests::registry::Registry;
use gateway_tests::scanner;
use serde_json::{Value, json};

fn build<S: AsRef<std::ffi::OsStr>>(home: &Home, context: &Path, flags: &[S]) -> String {
    let output = run(home.build().args(flags).arg(context));
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

fn blob(archive: &Archive, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let path = format!("blobs/{}", digest.replace(':', "/"));
    serde_json::from_slice(&archive[&path]).expect("JSON")
}

#[test]
fn a_bill_of_materials_hangs_on_the_image_and_lies_beside_the_files() {
    let registry = Registry::start();
    scanner::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM scratch\nCOPY Dockerfile /one\n",
    )
    .expect("writing");
    let archive = home.dir.path().join("out.tar");
    let files = home.dir.path().join("files");
    let name = format!("{}/app:1", registry.address);
    let said = build(
        &home,
        context.path(),
        &[
            "--sbom=generator=test/scanner:1,depth=3".to_owned(),
            "-t".to_owned(),
            name.clone(),
            format!("--output=type=oci,dest={}", archive.display()),
            format!("--output=type=local,dest={}", files.display()),
            "--output=type=registry".to_owned(),
        ],
    );
    assert!(
        said.contains("exporting attestation manifest sha256:"),
        "{said}"
    );

    let archive = read_archive(&archive);
    let top: Value = serde_json::from_slice(&archive["index.json"]).expect("JSON");
    let index = blob(&archive, &top["manifests"][0]);
    let [image, attestation] = index["manifests"].as_array().expect("manifests").as_slice() else {
        panic!("two manifests: {index}");
    };
    assert_eq!(image["platform"]["architecture"], "amd64");
    assert_eq!(
        attestation["platform"],
        json!({"architecture": "unknown", "os": "unknown"})
    );
    assert_eq!(
        attestation["annotations"],
        json!({
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        })
    );
    let manifest = blob(&archive, attestation);
    assert_eq!(
        manifest["artifactType"],
        "application/vnd.docker.attestation.manifest.v1+json"
    );
    assert_eq!(
        manifest["config"]["mediaType"],
        "application/vnd.oci.empty.v1+json"
    );
    assert_eq!(manifest["config"]["data"], "e30=");
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
    assert_eq!(
        layer["annotations"],
        json!({"in-toto.io/predicate-type": "https://spdx.dev/Document"})
    );
    let statement = blob(&archive, layer);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(
        statement["predicate"],
        json!({"files": "one ", "depth": "3"})
    );
    let hex = image["digest"]
        .as_str()
        .and_then(|d| d.strip_prefix("sha256:"));
    let address = registry.address.to_string().replace(':', "%3A");
    assert_eq!(
        statement["subject"],
        json!([{
            "name": format!("pkg:docker/{address}/app@1?platform=linux%2Famd64"),
            "digest": {"sha256": hex},
        }])
    );

    // The registry has the same, and skopeo chooses the image and not what hangs on it.
    let certificates = registry.certificate_dir().display().to_string();
    let inspect = |words: &[&str]| {
        let reference = format!("docker://{name}");
        let mut args = words.to_vec();
        args.extend(["--cert-dir", &certificates, &reference]);
        serde_json::from_str::<Value>(&tool("skopeo", &args)).expect("JSON")
    };
    assert_eq!(inspect(&["inspect", "--raw"]), index);
    assert_eq!(inspect(&["inspect"])["Architecture"], "amd64");

    assert!(files.join("one").exists());
    let file = std::fs::read(files.join("sbom.spdx.json")).expect("the statement");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(file["predicate"], statement["predicate"]);
    assert_eq!(file["subject"][0]["name"], "one");
    // The image can be built upon.
    std::fs::write(
        context.path().join("Dockerfile"),
        format!("FROM {name}\nCOPY Dockerfile /two\n"),
    )
    .expect("writing");
    build(&home, context.path(), &["--output=type=cacheonly"]);
}

#[test]
fn the_result_of_a_frontend_that_scans_nothing_is_scanned_all_the_same() {
    let registry = Registry::with_base_images();
    scanner::push(&registry);
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    let file = format!("# syntax = {}\n", raw_frontend::RAW);
    std::fs::write(context.path().join("Dockerfile"), file).expect("writing");
    std::fs::write(context.path().join("two"), "").expect("writing");
    let archive = home.dir.path().join("out.tar");
    let flags = |generator: &str, more: &str| {
        vec![
            "--progress=plain".to_owned(),
            format!("--sbom=generator={generator},depth=3"),
            format!("--output=type=oci,dest={}", archive.display()),
            more.to_owned(),
        ]
    };
    let min = "--provenance=mode=min";
    let said = build(&home, context.path(), &flags(scanner::IMAGE, min));
    let named = "[linux/amd64] generating sbom using docker.io/test/scanner:1";
    assert!(said.contains(named), "{said}");
    let content = read_archive(&archive);
    let top: Value = serde_json::from_slice(&content["index.json"]).expect("JSON");
    let index = blob(&content, &top["manifests"][0]);
    let manifest = blob(&content, &index["manifests"][1]);
    let kinds: Vec<&Value> = (0..2)
        .map(|layer| &manifest["layers"][layer]["annotations"]["in-toto.io/predicate-type"])
        .collect();
    assert_eq!(
        kinds,
        [
            "https://spdx.dev/Document",
            "https://slsa.dev/provenance/v1"
        ]
    );
    let statement = blob(&content, &manifest["layers"][0]);
    assert_eq!(
        statement["predicate"],
        json!({"files": "Dockerfile two ", "depth": "3"})
    );
    // The scanner is no part of what the result was made of.
    let provenance = blob(&content, &manifest["layers"][1]).to_string();
    assert!(!provenance.contains("scanner"), "{provenance}");

    // The frontend of the build file scans by itself: nothing is scanned twice.
    let own = "FROM scratch\nCOPY two /\n";
    std::fs::write(context.path().join("Dockerfile"), own).expect("writing");
    let said = build(&home, context.path(), &flags(scanner::IMAGE, "--pull"));
    let content = read_archive(&archive);
    assert_eq!(statement_of(&content)["predicate"]["files"], "two ");
    assert_eq!(
        said.lines().filter(|line| line.contains(named)).count(),
        1,
        "{said}"
    );

    // Without its scanner there is no build.
    std::fs::write(
        context.path().join("Dockerfile"),
        format!("# syntax = {}\n", raw_frontend::RAW),
    )
    .expect("writing");
    for (generator, more, problem) in [
        ("test/none:1", None, "docker.io/test/none:1: not found"),
        ("", None, "generator= names no image"),
        // Past the command line.
        (
            scanner::IMAGE,
            Some("--opt=attest:sbom=generator="),
            "failed to parse sbom scanner",
        ),
        (
            "library/alpine:none",
            None,
            "docker.io/library/alpine:none: not found",
        ),
    ] {
        let mut build = home.build();
        let build = build.args(flags(generator, min)).args(more);
        let output = run(build.arg(context.path()));
        let text = stderr(&output);
        assert!(!output.status.success(), "{text}");
        assert!(text.contains(problem), "{problem:?} is not in:\n{text}");
    }
}

#[test]
fn statements_of_several_platforms_follow_their_images() {
    let registry = Registry::with_base_images();
    scanner::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM test/multi\nCOPY Dockerfile /one\n",
    )
    .expect("writing");
    let archive = home.dir.path().join("out.tar");
    let stream = home.dir.path().join("files.tar");
    build(
        &home,
        context.path(),
        &[
            "--attest=type=sbom,generator=test/scanner:1".to_owned(),
            "--platform=linux/amd64,linux/arm64".to_owned(),
            format!(
                "--output=type=oci,oci-artifact=false,dest={}",
                archive.display()
            ),
            format!(
                "--output=type=tar,attestation-prefix=x-,dest={}",
                stream.display()
            ),
        ],
    );
    let archive = read_archive(&archive);
    let top: Value = serde_json::from_slice(&archive["index.json"]).expect("JSON");
    let index = blob(&archive, &top["manifests"][0]);
    let manifests = index["manifests"].as_array().expect("manifests");
    let platforms: Vec<&str> = manifests
        .iter()
        .filter_map(|m| m["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64", "unknown", "unknown"]);
    for (image, attestation) in manifests.iter().zip(&manifests[2..]) {
        let reference = &attestation["annotations"]["vnd.docker.reference.digest"];
        assert_eq!(*reference, image["digest"]);
        let manifest = blob(&archive, attestation);
        assert_eq!(
            manifest["config"]["mediaType"],
            "application/vnd.oci.image.config.v1+json"
        );
        let config = blob(&archive, &manifest["config"]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
    }
    let names: Vec<String> = read_archive(&stream).into_keys().collect();
    for name in [
        "linux_amd64/x-sbom.spdx.json",
        "linux_arm64/x-sbom.spdx.json",
    ] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}

#[test]
fn an_archive_for_docker_cannot_hold_statements() {
    let registry = Registry::start();
    scanner::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM scratch\nCOPY Dockerfile /\n",
    )
    .expect("writing");
    let output = run(home
        .build()
        .args([
            "--sbom=generator=test/scanner:1",
            "--output=type=docker,dest=/dev/null",
        ])
        .arg(context.path()));
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("cannot export attestations with \"oci-mediatypes=false\""),
        "{text}"
    );
}

/// The statement of the only attestation of an archive's only image.
fn statement(archive: &Path) -> Value {
    statement_of(&read_archive(archive))
}

fn statement_of(archive: &Archive) -> Value {
    let top: Value = serde_json::from_slice(&archive["index.json"]).expect("JSON");
    let index = blob(archive, &top["manifests"][0]);
    let manifest = blob(archive, &index["manifests"][1]);
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    blob(archive, &manifest["layers"][0])
}

#[test]
fn provenance_tells_what_a_build_was_made_of_and_no_values() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM busybox\nARG TOKEN\nCOPY Dockerfile /one\nRUN --network=none true\n",
    )
    .expect("writing");
    let archive = home.dir.path().join("out.tar");
    let files = home.dir.path().join("files");
    let flags = |version: &str| {
        [
            format!("--provenance=mode=min,version={version},builder-id=https://b.example"),
            "--build-arg=TOKEN=hunter2".to_owned(),
            "--target=".to_owned(),
            "-t=me/app:1".to_owned(),
            format!("--output=type=oci,dest={}", archive.display()),
            format!("--output=type=local,dest={}", files.display()),
        ]
    };
    build(&home, context.path(), &flags("v1"));
    let said = statement(&archive);
    assert_eq!(said["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(
        said["subject"][0]["name"],
        "pkg:docker/me/app@1?platform=linux%2Famd64"
    );
    let predicate = &said["predicate"];
    assert!(!said.to_string().contains("hunter2"));
    assert_eq!(
        predicate["runDetails"]["builder"]["id"],
        "https://b.example"
    );
    let definition = &predicate["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    assert_eq!(
        request["locals"],
        json!([{"name": "context"}, {"name": "dockerfile"}])
    );
    let base = &definition["resolvedDependencies"][0];
    assert_eq!(
        base["uri"],
        "pkg:docker/busybox@latest?platform=linux%2Famd64"
    );
    let certificates = registry.certificate_dir().display().to_string();
    let name = format!("docker://{}/library/busybox:latest", registry.address);
    let digest = tool(
        "skopeo",
        &[
            "inspect",
            "--format={{.Digest}}",
            "--cert-dir",
            &certificates,
            &name,
        ],
    );
    let hex = base["digest"]["sha256"].as_str().expect("a digest");
    assert_eq!(digest.trim(), format!("sha256:{hex}"));
    let file = std::fs::read(files.join("provenance.json")).expect("the statement");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(file["predicate"]["buildDefinition"], *definition);

    build(&home, context.path(), &flags("v0.2"));
    let said = statement(&archive);
    assert_eq!(said["predicateType"], "https://slsa.dev/provenance/v0.2");
    assert_eq!(said["predicate"]["materials"][0], *base);
    assert_eq!(
        said["predicate"]["invocation"]["parameters"]["frontend"],
        "dockerfile.v0"
    );
}

/// Steps of several stages, with everything that provenance speaks of.
const STAGES: &str = "\
FROM busybox AS base
ARG TOKEN=none
RUN --network=none --mount=type=secret,id=s1 --mount=type=cache,target=/c true
COPY Dockerfile /one
FROM scratch
COPY --from=base /one /two
COPY --chmod=600 <<F /three
content
F
";

/// The steps of a predicate by what they do, in short.
fn kinds(build_config: &Value) -> Vec<String> {
    let steps = build_config["llbDefinition"].as_array().expect("steps");
    let kind = |step: &Value| {
        let kinds = step["op"]["Op"].as_object().expect("a kind");
        let kind = kinds.keys().next().map_or("", String::as_str);
        let inputs = step["inputs"].as_array().into_iter().flatten();
        let inputs: Vec<&str> = inputs.filter_map(Value::as_str).collect();
        format!(
            "{} {kind} {}",
            step["id"].as_str().expect("an id"),
            inputs.join(" ")
        )
    };
    steps
        .iter()
        .map(|step| kind(step).trim().to_owned())
        .collect()
}

#[test]
fn provenance_of_all_tells_the_steps_the_build_file_and_the_layers_and_no_secrets() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(context.path().join("Dockerfile"), STAGES).expect("writing");
    let secret = home.dir.path().join("secret");
    std::fs::write(&secret, "hunter2").expect("writing");
    let archive = home.dir.path().join("out.tar");
    let files = home.dir.path().join("files");
    let flags = |mode: &str| {
        [
            mode.to_owned(),
            "--build-arg=TOKEN=value".to_owned(),
            format!("--secret=id=s1,src={}", secret.display()),
            "-t=me/app:1".to_owned(),
            format!("--output=type=oci,dest={}", archive.display()),
            format!("--output=type=local,dest={}", files.display()),
        ]
    };
    build(&home, context.path(), &flags("--provenance=true"));
    let said = statement(&archive);
    assert!(!said.to_string().contains("hunter2"));
    let predicate = &said["predicate"];
    let definition = &predicate["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"], json!({"build-arg:TOKEN": "value"}));
    assert_eq!(request["secrets"], json!([{"id": "s1", "optional": true}]));
    let config = &definition["internalParameters"]["buildConfig"];
    assert_eq!(
        kinds(config),
        [
            "step0 source",
            "step1 exec step0:0",
            "step2 source",
            "step3 file step1:0 step2:0",
            "step4 file step3:0",
            "step5 file",
            "step6 file step4:0 step5:0",
            "step7  step6:0",
        ]
    );
    let exec = &config["llbDefinition"][1]["op"]["Op"]["exec"];
    assert_eq!(exec["network"], 2);
    assert_eq!(exec["mounts"][0], json!({"dest": "/"}));
    assert_eq!(
        config["digestMapping"]
            .as_object()
            .map(serde_json::Map::len),
        Some(8)
    );
    let metadata = &predicate["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["request"], true);
    let source = &metadata["buildkit_metadata"]["source"];
    let file = source["infos"][0]["data"].as_str().expect("the build file");
    let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, file);
    assert_eq!(decoded.expect("base64"), STAGES.as_bytes());
    assert_eq!(source["infos"][0]["filename"], "Dockerfile");
    assert_eq!(
        source["locations"]["step4"],
        json!({"locations": [{"ranges": [{"start": {"line": 6}, "end": {"line": 6}}]}]})
    );
    // Of the base image, and of the steps whose layers the image has.
    let layers = metadata["buildkit_metadata"]["layers"]
        .as_object()
        .expect("layers");
    let steps: Vec<&str> = layers.keys().map(String::as_str).collect();
    assert_eq!(steps, ["step0:0", "step4:0", "step6:0"]);
    let chain = layers["step6:0"][0].as_array().expect("a chain");
    assert_eq!(layers["step4:0"], json!([[chain[0]]]));
    let contents = read_archive(&archive);
    let top: Value = serde_json::from_slice(&contents["index.json"]).expect("JSON");
    let index = blob(&contents, &top["manifests"][0]);
    let image = blob(&contents, &index["manifests"][0]);
    assert_eq!(image["layers"], json!(chain));
    let file = std::fs::read(files.join("provenance.json")).expect("the statement");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(file["predicate"]["buildDefinition"], *definition);

    // The same of a build that does nothing, in the older version.
    let metadata_file = home.dir.path().join("metadata.json");
    let mut flags = flags("--attest=type=provenance,mode=max,version=v0.2").to_vec();
    flags.push(format!("--metadata-file={}", metadata_file.display()));
    let output = run(home
        .build()
        .env("BUILDX_METADATA_PROVENANCE", "max")
        .args(&flags)
        .arg(context.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    let older = statement(&archive);
    let older = &older["predicate"];
    let key = "https://mobyproject.org/buildkit@v1#metadata";
    // The digests of steps that read the context are those of the session.
    let same = |told: &Value| {
        let steps = "llbDefinition";
        assert_eq!(told["buildConfig"][steps], config[steps]);
        for part in ["locations", "layers"] {
            let part = match part {
                "layers" => (
                    &told["metadata"][key][part],
                    &metadata["buildkit_metadata"][part],
                ),
                _ => (&told["metadata"][key]["source"][part], &source[part]),
            };
            assert!(part.0.is_object());
            assert_eq!(part.0, part.1);
        }
    };
    same(older);
    assert_eq!(older["invocation"]["parameters"], *request);
    let recorded = std::fs::read(&metadata_file).expect("the metadata");
    let recorded: Value = serde_json::from_slice(&recorded).expect("JSON");
    let recorded = &recorded["buildx.build.provenance"];
    same(recorded);
}

#[test]
fn what_a_step_that_ran_used_is_told_when_it_is_asked_for() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=1M count=200\n",
    )
    .expect("writing");
    let archive = home.dir.path().join("out.tar");
    let told = |provenance: &str, more: &[&str]| {
        let mut flags = vec![
            format!("--provenance={provenance}"),
            format!("--output=type=oci,dest={}", archive.display()),
        ];
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        build(&home, context.path(), &flags);
        let said = statement(&archive);
        let predicate = &said["predicate"];
        let step = predicate
            .pointer("/buildDefinition/internalParameters/buildConfig/llbDefinition/1")
            .cloned();
        let machine = &predicate["runDetails"]["metadata"]["buildkit_metadata"]["sysUsage"];
        (step.unwrap_or_default(), machine.clone())
    };
    let (step, machine) = told("capture-usage=true", &[]);
    let usage = &step["resourceUsage"];
    let last = usage["samples"].as_array().and_then(|list| list.last());
    let last = last.unwrap_or_else(|| panic!("no samples: {step}"));
    assert!(last["timestamp"].is_string(), "{last}");
    let nanos = last["cpuStat"]["usageNanos"].as_u64().expect("its time");
    assert!(nanos > 0, "{last}");
    assert!(last["memoryStat"]["pgfault"].as_u64() > Some(0), "{last}");
    assert!(usage["sysCPUStat"]["user"].is_number(), "{usage}");
    assert!(machine[0]["cpuStat"]["idle"].is_number(), "{machine}");
    assert!(
        machine[0]["memoryStat"]["total"].as_u64() > Some(0),
        "{machine}"
    );
    assert!(
        machine[0]["procStat"]["processCreated"].as_u64() > Some(0),
        "{machine}"
    );

    // What did not run used nothing.
    let (step, machine) = told("capture-usage=true", &[]);
    assert!(step["op"]["Op"]["exec"].is_object(), "{step}");
    assert_eq!(step.get("resourceUsage"), None);
    assert!(machine.is_array());
    // Without the steps there is the machine.
    let (step, machine) = told("mode=min,capture-usage=true", &["--no-cache"]);
    assert!(step.is_null() && machine.is_array(), "{step} {machine}");
    // Nobody asked.
    let (step, machine) = told("mode=max", &["--no-cache"]);
    assert_eq!(step.get("resourceUsage"), None);
    assert!(machine.is_null(), "{machine}");
}

#[test]
fn provenance_for_images_only_makes_no_index_of_an_archive() {
    let home = Home::new("");
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM scratch\nCOPY Dockerfile /\n",
    )
    .expect("writing");
    let archive = home.dir.path().join("out.tar");
    let files = home.dir.path().join("files");
    build(
        &home,
        context.path(),
        &[
            "--attest=type=provenance,mode=min,inline-only=true".to_owned(),
            "-t=me/app".to_owned(),
            "--output=type=image".to_owned(),
            format!("--output=type=oci,dest={}", archive.display()),
            format!("--output=type=local,dest={}", files.display()),
        ],
    );
    let archive = read_archive(&archive);
    let top: Value = serde_json::from_slice(&archive["index.json"]).expect("JSON");
    assert!(blob(&archive, &top["manifests"][0])["layers"].is_array());
    assert!(!files.join("provenance.json").exists());
    let saved = home.dir.path().join("saved.tar");
    let output = run(std::process::Command::new(gateway_tests::program::binary())
        .args(["save", "me/app", "-o"])
        .arg(&saved)
        .arg("--root")
        .arg(home.store()));
    assert!(output.status.success(), "{}", stderr(&output));
    let said = statement(&saved);
    assert_eq!(said["predicateType"], "https://slsa.dev/provenance/v1");
}

#[test]
fn provenance_that_is_not_made_is_refused_by_name() {
    let home = Home::new("");
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM scratch\nCOPY Dockerfile /\n",
    )
    .expect("writing");
    for (flag, wanted) in [
        ("--provenance=mode=most", "invalid mode \"most\""),
        (
            "--provenance=capture-usage=maybe",
            "failed to parse capture-usage flag \"maybe\"",
        ),
        (
            "--attest=type=slsa",
            "unknown attestation slsa: sbom and provenance are known",
        ),
        ("--attest=mode=min", "no type: write type="),
    ] {
        let output = run(home.build().arg(flag).arg(context.path()));
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains(wanted), "{text}");
    }
}
