//! The power of a whole machine is cut, again and again, while it builds. `scripts/power-cut` makes what is needed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::machine::Machine;

/// Says whether the store is whole, builds what has always the same bytes, then goes on with new work until it ends.
const SCRIPT: &str = r#"
export SOURCE_DATE_EPOCH=1600000000
build() {
    /gateway build --root /disk/store --progress plain -t me/app \
        --build-context base=oci-layout:///layout:base \
        --output type=image,rewrite-timestamp=true --metadata-file /tmp/metadata "$@" /context > /tmp/log 2>&1
}
/gateway store verify --root /disk/store > /tmp/verify 2>&1
echo "machine: verified $?"
grep -v '^checked' /tmp/verify | sed 's/^/machine: verify: /'
build --build-arg ROUND=0
echo "machine: built $?"
sed 's/^/machine: log: /' /tmp/log
echo "machine: cached $(grep -c CACHED /tmp/log)"
echo "machine: digest $(grep -o '"containerimage.digest": *"[^"]*"' /tmp/metadata)"
/gateway store verify --root /disk/store > /tmp/verify 2>&1
echo "machine: verified again $?"
i=0
while true; do
    i=$((i + 1))
    build --build-arg ROUND=$(cut -c1-8 /proc/sys/kernel/random/uuid)
    echo "machine: more $i $?"
    [ $((i % 3)) = 0 ] && /gateway prune --root /disk/store --force --max-used-space 10MB > /dev/null 2>&1
done
"#;

const DOCKERFILE: &str = "FROM base AS a\n\
     COPY big /big\n\
     ARG ROUND\n\
     RUN --mount=type=cache,target=/c head -c 2000000 /dev/zero | tr '\\0' x > /f; echo $ROUND >> /f\n\
     RUN md5sum /f > /sum\n\
     FROM base\n\
     COPY --from=a /f /sum /\n\
     RUN mkdir /d; for i in 0 1 2 3 4 5 6 7 8 9; do cp /sum /d/$i; done\n";

/// `GATEWAY_TEST_CUTS` sets another number of cuts.
#[test]
#[ignore = "minutes of a whole machine: scripts/power-cut"]
fn after_the_power_is_cut_at_random_moments_the_store_is_whole_and_builds_the_same() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let given = |name: &str, otherwise: &str| {
        std::env::var_os(name).map_or_else(|| root.join(otherwise), PathBuf::from)
    };
    let kernel = given("GATEWAY_TEST_KERNEL", "target/power-cut/kernel");
    let program = given("GATEWAY_STATIC", "target/dist/gateway");
    let cuts: u64 = std::env::var("GATEWAY_TEST_CUTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);

    let dir = tempfile::tempdir().expect("a temporary folder");
    let (context, layout) = (dir.path().join("context"), dir.path().join("layout"));
    std::fs::create_dir(&context).expect("the context");
    std::fs::write(context.join("Dockerfile"), DOCKERFILE).expect("the build file");
    std::fs::write(context.join("big"), vec![7; 3_000_000]).expect("a file");
    write_base(&layout).expect("the base image");
    let files = [
        ("gateway", program.as_path()),
        ("context", context.as_path()),
        ("layout", layout.as_path()),
    ];
    let machine = Machine::new(&kernel, &files, SCRIPT);
    println!("accelerator: {}", machine.accelerator());

    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut digest: Option<String> = None;
    let mut longest = Duration::from_secs(5);
    let mut unkept = 0;
    // The last start is only looked at.
    for number in 0..=cuts {
        let mut running = machine.start();
        let part = random() % 1000;
        // Every third cut is anywhere between the start of the first build and its end.
        let early = number > 0 && number < cuts && number % 3 == 0;
        if early {
            running.must_say("machine: verified");
            running.wait("nothing says this", longest.mul_f64(part as f64 / 1000.0));
        } else {
            running.must_say("machine: verified");
            let began = Instant::now();
            running.must_say("machine: verified again");
            longest = began.elapsed();
            running.wait("nothing says this", longest.mul_f64(part as f64 / 500.0));
        }
        let line = |beginning: &str| {
            let found = running.said.iter().find(|line| line.starts_with(beginning));
            found.cloned().unwrap_or_default()
        };
        let all = || running.said.join("\n");
        // There is no store to look at before the first build.
        if number > 0 {
            assert_eq!(
                line("machine: verified"),
                "machine: verified 0",
                "{}",
                all()
            );
        }
        if !early {
            assert_eq!(line("machine: built"), "machine: built 0", "{}", all());
            assert_eq!(line("machine: verified again"), "machine: verified again 0");
            let now = line("machine: digest");
            assert!(now.contains("sha256:"), "{}", all());
            assert_eq!(*digest.get_or_insert_with(|| now.clone()), now, "{}", all());
        }
        let more = running
            .said
            .iter()
            .filter(|line| line.starts_with("machine: more"));
        let (more, cached) = (more.count(), line("machine: cached"));
        let cut = machine.cut(running, &mut random);
        println!("{number}: {cached}, {more} more builds, {cut:?}");
        unkept += cut.whole + cut.torn + cut.lost;
    }
    assert!(unkept > 0, "no cut took anything");
}

fn write_base(root: &std::path::Path) -> std::io::Result<()> {
    let busybox = std::fs::read("/bin/busybox")?;
    let mut tar =
        Tar::default()
            .dir("bin/", (0o755, 0, 0))
            .file("bin/busybox", &busybox, (0o755, 0, 0));
    for name in ["cp", "head", "md5sum", "mkdir", "sh", "tr"] {
        tar = tar.symlink(&format!("bin/{name}"), "busybox");
    }
    let mut layout = Layout::create(root)?;
    let config = serde_json::json!({"Env": ["PATH=/bin"]});
    let image = layout.image(&[tar.bytes()], config, "amd64")?;
    layout.name(image, "base");
    layout.close()
}
