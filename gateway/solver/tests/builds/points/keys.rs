//! What is found again, and what is not: where a build shows it rather than a digest.

use std::os::unix::fs::{PermissionsExt, symlink};

use gateway_llb::{Constraints, Copy, FileActions, Mount, Secret, State, pb};
use gateway_solver::policy::SourcePolicies;

use crate::Bench;
use crate::bench::{base, copy_in, definition, local, sh};

/// A step that reads a copied part of the context.
fn reader() -> State {
    sh(&copy_in(&base(), "/", "/ctx"), "ls /ctx > /seen")
}

/// Whether the step over the context ran.
async fn reruns(bench: &Bench, state: &State) -> bool {
    bench.ran();
    bench.build(state).await.unwrap();
    bench.ran().iter().any(|name| name.starts_with("/bin/sh"))
}

#[tokio::test(flavor = "multi_thread")]
async fn s18_a_step_that_is_found_needs_no_secret() {
    let bench = Bench::new();
    let state = base()
        .run(["/bin/sh", "-c", "echo 1 > /out"])
        .secret(Secret {
            id: "token".into(),
            target: Some("/run/secrets/token".into()),
            env: None,
            uid: 0,
            gid: 0,
            mode: 0o400,
            optional: false,
        })
        .root();
    bench.build(&state).await.unwrap();
    bench.ran();
    let solver = bench.solver().await;
    let session = gateway_session::LocalSession::new("none")
        .with_dir("context", bench.dir.path().join("context"))
        .with_dir("rootfs", bench.dir.path().join("rootfs"));
    let job = bench.job_of(&solver, session);
    let result = job.load(definition(&state), &SourcePolicies::default());
    job.evaluate(&result).await.unwrap();
    assert_eq!(bench.ran(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s26_to_s36_what_of_a_context_file_counts() {
    let bench = Bench::new();
    bench.write("d/f", "text");
    let context = bench.dir.path().join("context");
    let file = context.join("d/f");
    symlink("d/f", context.join("link")).unwrap();
    let state = reader();
    bench.build(&state).await.unwrap();
    assert!(!reruns(&bench, &state).await);

    // 26: its time does not.
    let handle = std::fs::File::options().write(true).open(&file).unwrap();
    handle
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000))
        .unwrap();
    assert!(!reruns(&bench, &state).await);
    // 27: its mode does.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o751)).unwrap();
    assert!(reruns(&bench, &state).await);
    // 28: its owner does not: all that a client gives is root's.
    std::os::unix::fs::chown(&file, Some(12), Some(34)).unwrap();
    assert!(!reruns(&bench, &state).await);
    // 32: where a link leads does.
    std::fs::remove_file(context.join("link")).unwrap();
    symlink("d/other", context.join("link")).unwrap();
    assert!(reruns(&bench, &state).await);
    // 31: what was there before is found again.
    std::fs::remove_file(context.join("link")).unwrap();
    symlink("d/f", context.join("link")).unwrap();
    assert!(!reruns(&bench, &state).await);
    // 30: its name does.
    std::fs::rename(&file, context.join("d/g")).unwrap();
    assert!(reruns(&bench, &state).await);
    // 36: the mode of the context itself does not.
    std::fs::set_permissions(&context, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(!reruns(&bench, &state).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s29_an_attribute_of_a_file_counts_until_it_is_gone() {
    let bench = Bench::new();
    bench.write("f", "text");
    let file = bench.dir.path().join("context/f");
    let state = reader();
    bench.build(&state).await.unwrap();
    let set = rustix::fs::setxattr(&file, "user.a", b"1", rustix::fs::XattrFlags::empty());
    if set == Err(rustix::io::Errno::OPNOTSUPP) {
        eprintln!("not tested: this file system has no attributes");
        return;
    }
    set.unwrap();
    assert!(reruns(&bench, &state).await);
    rustix::fs::removexattr(&file, "user.a").unwrap();
    assert!(!reruns(&bench, &state).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s30_the_last_name_of_a_copied_file_counts_and_its_directory_does_not() {
    let bench = Bench::new();
    for name in ["a/one", "b/one", "a/two"] {
        bench.write(name, "text");
    }
    let copy = |src: &str| sh(&copy_in(&base(), src, "/f"), "cat /f > /seen");
    bench.build(&copy("/a/one")).await.unwrap();
    assert!(!reruns(&bench, &copy("/b/one")).await);
    assert!(reruns(&bench, &copy("/a/two")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s33_s34_what_patterns_leave_out_does_not_count() {
    let bench = Bench::new();
    bench.write("a.txt", "1");
    let some = Copy {
        allow_wildcard: true,
        ..Copy::default()
    };
    let copied = base().file(
        FileActions::new().copy(&local("context"), "/*.txt", "/", some),
        Constraints::new(),
    );
    let state = sh(&copied, "ls / > /seen");
    bench.build(&state).await.unwrap();
    bench.write("new.md", "1");
    assert!(!reruns(&bench, &state).await);
    bench.write("new.txt", "1");
    assert!(reruns(&bench, &state).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s35_a_file_of_a_stage_that_was_run_again_counts_by_its_content() {
    let bench = Bench::new();
    let stage = |comment: &str| sh(&base(), &format!("echo same > /made # {comment}"));
    let user = |stage: &State| {
        let copied = base().file(
            FileActions::new().copy(stage, "/made", "/made", Copy::default()),
            Constraints::new().name("take"),
        );
        sh(&copied, "cat /made > /seen")
    };
    bench.build(&user(&stage("one"))).await.unwrap();
    bench.ran();
    bench.build(&user(&stage("two"))).await.unwrap();
    assert_eq!(bench.ran(), ["/bin/sh -c echo same > /made # two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s37_a_mounted_part_does_not_know_of_the_others() {
    let bench = Bench::new();
    bench.write("part/f", "1");
    bench.write("other/f", "1");
    let source = copy_in(&State::scratch(), "/", "/");
    let state = base()
        .run(["/bin/sh", "-c", "cat /m/f > /seen"])
        .mount(Mount::bind("/m", &source).selector("/part").readonly())
        .root();
    bench.build(&state).await.unwrap();
    bench.write("other/f", "2");
    assert!(!reruns(&bench, &state).await);
    bench.write("part/f", "2");
    assert!(reruns(&bench, &state).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s39_equal_files_of_another_root_are_another_root() {
    let bench = Bench::new();
    let over = |comment: &str| {
        let root = sh(&base(), &format!("echo same > /f # {comment}"));
        sh(&root, "cat /f > /seen")
    };
    bench.build(&over("one")).await.unwrap();
    assert!(reruns(&bench, &over("two")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s22_another_network_is_another_step() {
    let bench = Bench::new();
    let step = |network: pb::NetMode| {
        let run = base().run(["/bin/sh", "-c", "true"]);
        run.network(network).root()
    };
    bench.build(&step(pb::NetMode::Unset)).await.unwrap();
    assert!(reruns(&bench, &step(pb::NetMode::None)).await);
}
