//! The command line as data: one definition for parsing, help and completions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::progress::Mode;

/// Builds images from build files whose `# syntax` line names a frontend image.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Build(Box<Build>),
    Images(crate::images::List),
    Save(crate::images::Save),
    Push(crate::images::Push),
}

/// Build an image from a context directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway build .                                        build ./Dockerfile into the image store
  gateway build -t me/app --output type=oci,dest=app.tar .   write an OCI archive
  gateway build -t registry.example/me/app --push .      push it
  gateway build --build-arg VERSION=1.2 --target test .  a stage, with an argument
  gateway build --secret id=npm,src=$HOME/.npmrc .       a secret for RUN --mount=type=secret,id=npm")]
pub struct Build {
    /// Directory whose files the build may copy, or the address of a git repository or an archive
    #[arg(value_name = "CONTEXT")]
    pub context: PathBuf,

    /// Build file [default: CONTEXT/Dockerfile]
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

    /// Give the image to docker or podman
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

    /// Run every step again
    #[arg(long)]
    pub no_cache: bool,

    /// Look for results of steps in a cache as well: type=local,src=DIR or type=registry,ref=NAME (may be repeated)
    #[arg(long = "cache-from", value_name = "TYPE,KEY=VALUE")]
    pub cache_from: Vec<String>,

    /// Ask the registry for every image, even one that is known
    #[arg(long)]
    pub pull: bool,

    /// Network of RUN steps: default, none or host (host needs --allow network.host)
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,

    /// Line for /etc/hosts of RUN steps, HOST:IP
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub add_hosts: Vec<String>,

    /// Secret for the build: id=ID,src=FILE or id=ID,env=VARIABLE
    #[arg(long = "secret", value_name = "SPEC")]
    pub secrets: Vec<String>,

    /// SSH agent for the build: default, or ID=SOCKET
    #[arg(long = "ssh", value_name = "SPEC")]
    pub ssh: Vec<String>,

    /// Let the build do something privileged: network.host or security.insecure
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

    /// Frontend option, handed through as it is
    #[arg(long = "opt", value_name = "KEY=VALUE")]
    pub opts: Vec<String>,

    /// Image store and cache [default: /var/lib/gateway, or ~/.local/share/gateway for users]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Configuration with the [registry."HOST"] tables of buildkitd.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How progress is shown, on stderr
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub progress: Mode,

    /// Say more: explanations of warnings, causes of errors
    #[arg(short = 'D', long)]
    pub debug: bool,

    /// Print nothing but the digest of the image
    #[arg(short, long)]
    pub quiet: bool,

    /// Write the digest of the image's configuration to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Write what the exporters say (digests, names) to a JSON file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
}
