//! COPY as frontends of 2018 write it.

use gateway_llb::{Constraints, ImageSource, Mount, State, pb};

use crate::Bench;
use crate::bench::{base, local};

const HELPER: &str = "docker.io/docker/dockerfile-copy:v0.1.9@sha256:e8f159d3f00786604b93c675ee2783f8dc194bb565e61ca5788f6a6e9d304061";

fn copy(stage: &State, args: &[&str], sources: &[(&str, &str)]) -> State {
    let mut run = ImageSource::new(HELPER)
        .state(Constraints::new())
        .dir("/dest")
        .run(["copy"].iter().chain(args).copied())
        .network(pb::NetMode::None)
        .readonly_root();
    for (target, selector) in sources {
        let mount = Mount::bind(*target, &local("context"));
        run = run.mount(mount.selector(*selector).readonly());
    }
    let exec = run.mount(Mount::bind("/dest", stage)).exec();
    exec.mount("/dest").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_helper_image_is_never_needed() {
    let bench = Bench::new();
    bench.write("a", "a\n");
    bench.write("d/one.c", "one\n");
    bench.write("d/two.c", "two\n");
    bench.write("d/no.h", "no\n");
    let state = copy(&base(), &["/src-0/a", "a"], &[("/src-0/a", "a")]);
    let state = copy(
        &state,
        &["--chown=5:6", "/src-0/*.c", "app/src/"],
        &[("/src-0", "d")],
    );
    let (job, result) = bench.build(&state).await.unwrap();
    assert_eq!(job.read_file(&result, "/a", None).await.unwrap(), b"a\n");
    let names: Vec<String> = job
        .read_dir(&result, "/app/src", None)
        .await
        .unwrap()
        .into_iter()
        .map(|stat| stat.path)
        .collect();
    assert_eq!(names, ["one.c", "two.c"]);
    for (path, owner) in [("/app/src/one.c", 5), ("/app/src", 5), ("/app", 0)] {
        assert_eq!(
            job.stat_file(&result, path).await.unwrap().uid,
            owner,
            "{path}"
        );
    }
    bench.ran();
    bench.build(&state).await.unwrap();
    assert_eq!(bench.ran(), [""; 0]);
    bench.write("d/two.c", "2\n");
    bench.build(&state).await.unwrap();
    assert_eq!(bench.ran().len(), 1);
}
