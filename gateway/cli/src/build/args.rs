//! The flags of `gateway build`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser};

use crate::error::UsageError;
use crate::progress::mode::Mode;

/// Build an image from a context directory.
// Of a flag that is given twice the last one counts, as under docker.
#[derive(Debug, Clone, Args)]
#[command(
    visible_alias = "b",
    args_override_self = true,
    after_help = "\
Examples:
  gateway build .                                        build ./Dockerfile into the image store
  gateway build -t me/app --output type=oci,dest=app.tar .   write an OCI archive
  gateway build -t registry.example/me/app --push .      push it
  gateway build --build-arg VERSION=1.2 --target test .  a stage, with an argument
  gateway build --secret id=npm,src=$HOME/.npmrc .       a secret for RUN --mount=type=secret,id=npm
  gateway build --platform linux/amd64,linux/arm64 .     for several platforms
  gateway build --output dist --target files .           the files of a stage into the folder dist
  gateway build https://git.example/me/app.git#v1:dir    a folder of a repository, at a tag
  gateway build - < context.tar                          an archive on stdin
  gateway build --check .                                look for mistakes, build nothing
  gateway build --progress plain .                       lines of text, for logs"
)]
pub struct Build {
    /// Directory whose files the build may copy, the address of a git repository or an archive,
    /// or - for a build file or an archive on stdin
    #[arg(value_name = "CONTEXT")]
    pub context: PathBuf,

    /// Build file, an address of one, or - for stdin [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Name of the image, e.g. registry.example/team/app:1.2 (may be repeated)
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,

    /// Where the result goes: type=image, type=registry, type=oci,dest=FILE, type=docker,dest=FILE,
    /// type=local,dest=DIR, type=tar,dest=FILE, type=cacheonly (may be repeated)
    #[arg(short, long = "output", value_name = "TYPE,KEY=VALUE")]
    pub outputs: Vec<String>,

    /// Push the image to the registries that its names say
    #[arg(long)]
    pub push: bool,

    /// Give the image to docker, podman, nerdctl or containerd: the first of them that is there
    #[arg(long)]
    pub load: bool,

    /// Annotation of the image; TYPE is manifest, index, manifest-descriptor or index-descriptor
    #[arg(long = "annotation", value_name = "[TYPE:]KEY=VALUE")]
    pub annotations: Vec<String>,

    /// Argument of the build file, KEY=VALUE, or KEY to take it from the environment
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub build_args: Vec<String>,

    /// A further context, NAME=DIR, NAME=docker-image://REF, NAME=oci-layout://DIR[:TAG], ...
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    pub build_contexts: Vec<String>,

    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,

    /// Platforms to build for, e.g. linux/amd64,linux/arm64
    #[arg(long = "platform", value_name = "PLATFORM")]
    pub platforms: Vec<String>,

    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,

    /// Attest what is in the image, by a scanner image: true, or generator=IMAGE and the scanner's parameters
    #[arg(long, value_name = "PARAMS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub sbom: Option<String>,

    /// Attest what the build was asked and made of: mode=max with all steps, the build file and the values of build arguments, mode=min without; true is mode=max
    #[arg(long, value_name = "PARAMS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub provenance: Option<String>,

    /// Attest something of the result: type=sbom,generator=IMAGE or type=provenance,mode=max (may be repeated)
    #[arg(long = "attest", value_name = "TYPE,KEY=VALUE")]
    pub attest: Vec<String>,

    /// Run every step again
    #[arg(long)]
    pub no_cache: bool,

    /// Run the steps of these stages again
    #[arg(long = "no-cache-filter", value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,

    /// Run frontend images even when nothing changed for them, and fail if they answer otherwise than before
    #[arg(long)]
    pub verify_replay: bool,

    /// Look for results of steps in a cache as well: NAME of a cache or image in a registry, or type=local,src=DIR[,tag=TAG] (may be repeated)
    #[arg(long = "cache-from", value_name = "NAME|TYPE,KEY=VALUE")]
    pub cache_from: Vec<String>,

    /// Write a cache of the build: type=registry,ref=NAME or type=local,dest=DIR, with mode=max for all steps, or type=inline into the image (may be repeated)
    #[arg(long = "cache-to", value_name = "NAME|TYPE,KEY=VALUE")]
    pub cache_to: Vec<String>,

    /// Ask the registry for every image, even one that is known
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub pull: Option<bool>,

    /// Network of RUN steps: default, none, host, isolated (out only, by pasta or slirp4netns),
    /// container:NAME or ns:PATH (host and the last two need --allow network.host)
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,

    /// Line for /etc/hosts of RUN steps, HOST:IP
    #[arg(long = "add-host", value_name = "HOST:IP", value_delimiter = ',')]
    pub add_hosts: Vec<String>,

    /// Secret for the build: id=ID,src=FILE or id=ID,env=VARIABLE
    #[arg(long = "secret", value_name = "SPEC")]
    pub secrets: Vec<String>,

    /// SSH agent or keys for the build: default, ID=SOCKET, or ID=KEYFILE,KEYFILE
    #[arg(long = "ssh", value_name = "SPEC")]
    pub ssh: Vec<String>,

    /// Let the build do something that needs consent: network.host, security.insecure, or
    /// buildx.local.delete for outputs with mode=delete outside of the current directory
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,

    /// Rules about the sources that the build may use, as JSON; like EXPERIMENTAL_BUILDKIT_SOURCE_POLICY, and
    /// beside it (may be repeated)
    #[arg(
        long = "source-policy",
        visible_alias = "source-policy-file",
        value_name = "FILE"
    )]
    pub source_policies: Vec<PathBuf>,

    /// Use what the lock file pins and nothing else (see `gateway lock`)
    #[arg(long)]
    pub locked: bool,

    /// Lock file [default: the build file's name with .lock behind it]
    #[arg(long, value_name = "FILE")]
    pub lock_file: Option<PathBuf>,

    /// Build from what `gateway vendor` saved in DIR, with no registry and no network
    #[arg(long, value_name = "DIR")]
    pub vendored: Option<PathBuf>,

    /// Rules about sources in Rego, as docker buildx has them: filename=FILE, reset=true, disabled=true, log-level=debug.
    /// A file with .rego behind the build file's name is found by itself (may be repeated)
    #[arg(long = "policy", value_name = "KEY=VALUE")]
    pub policies: Vec<String>,

    /// Size of /dev/shm of RUN steps, e.g. 64m
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,

    /// Limit of RUN steps, e.g. nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub ulimits: Vec<String>,

    /// Control group that those of RUN steps are made in
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,

    /// Limit of RUN steps: memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus or
    /// cpuset-mems
    #[arg(long = "resource", value_name = "KEY=VALUE")]
    pub resources: Vec<String>,

    /// Ask about the build file instead of building: check, outline, targets, subrequests.describe
    #[arg(long, alias = "print", value_name = "METHOD[,format=json]")]
    pub call: Option<String>,

    /// Look for mistakes in the build file instead of building (--call=check)
    #[arg(long)]
    pub check: bool,

    /// Frontend option, handed through as it is
    #[arg(long = "opt", value_name = "KEY=VALUE")]
    pub opts: Vec<String>,

    /// Image store and cache [default: /var/lib/gateway, or ~/.local/share/gateway for users]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    #[command(flatten)]
    pub registries: crate::registry::settings::RegistryArgs,

    /// How progress is shown, on stderr
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub progress: Mode,

    /// Say more: explanations of warnings, causes of errors
    #[arg(short = 'D', long)]
    pub debug: bool,

    /// Write the graph that the build file becomes to FILE or to stdout, and build nothing
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "-"
    )]
    pub print_llb: Option<PathBuf>,

    /// Write what frontends ask and are answered to files in DIR, for their tests
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// Print nothing but the image's id
    #[arg(short, long)]
    pub quiet: bool,

    /// Write the digest of the image's configuration to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Write what the exporters say (digests, names) to a JSON file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,

    #[command(flatten)]
    pub docker: Docker,
}

/// Flags of `docker build` that scripts carry along: short forms, and some that change nothing here
/// or cannot be done.
#[derive(Debug, Clone, Args)]
pub struct Docker {
    #[arg(short = 'm', long, hide = true, allow_negative_numbers = true)]
    pub memory: Option<String>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    pub memory_swap: Option<String>,
    #[arg(short = 'c', long, hide = true, allow_negative_numbers = true)]
    pub cpu_shares: Option<String>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    pub cpu_period: Option<String>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    pub cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    pub cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    pub cpuset_mems: Option<String>,
    /// Containers of steps never stay behind.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    pub rm: Option<Option<bool>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    pub force_rm: Option<Option<bool>>,
    /// There is one builder: this program.
    #[arg(long, hide = true)]
    pub builder: Option<String>,
    #[arg(long, hide = true)]
    pub isolation: Option<String>,
    #[arg(long, hide = true)]
    pub squash: bool,
    #[arg(long, hide = true)]
    pub compress: bool,
    #[arg(long = "security-opt", hide = true)]
    pub security_opts: Vec<String>,
}

impl Docker {
    /// Refuses by name what cannot be done.
    ///
    /// # Errors
    /// For the first such flag.
    pub fn check(&self) -> Result<(), UsageError> {
        let refused =
            |flag: &str, value: &str, why: &str| Err(UsageError::new(flag, value, why.to_owned()));
        match self.isolation.as_deref() {
            None | Some("" | "default") => {}
            Some(other) => return refused("--isolation", other, "is for Windows containers only"),
        }
        if self.squash {
            let why = "layers are not squashed: copy the result into a stage FROM scratch instead";
            return refused("--squash", "", why);
        }
        if self.compress {
            let why = "the context is read where it lies, nothing is sent that could be compressed";
            return refused("--compress", "", why);
        }
        if let Some(option) = self.security_opts.first() {
            let why = "RUN --security=insecure with --allow security.insecure is the way to lift \
                       the sandbox of one step";
            return refused("--security-opt", option, why);
        }
        Ok(())
    }
}

/// A line of the command alone.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    build: Build,
}

impl Build {
    /// What the words after `gateway build` say.
    ///
    /// # Errors
    /// They are no such line.
    pub fn of_words<W: Into<OsString>>(
        words: impl IntoIterator<Item = W>,
    ) -> Result<Build, clap::Error> {
        let name = std::iter::once(OsString::from("gateway build"));
        Line::try_parse_from(name.chain(words.into_iter().map(Into::into))).map(|line| line.build)
    }
}
