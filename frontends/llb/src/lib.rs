//! The LLB language: build a graph, marshal it, read it back, validate, digest and draw it.
//!
//! What may not enter: how anything is run.
//!
//! Two directions meet here. Frontends **build**: a [`State`] is an immutable value, each step
//! gives a new one, and nothing is encoded until [`State::marshal`]. The engine **reads**:
//! [`graph::Graph::load`] takes the definition of any frontend, keeps the bytes of every op (its
//! digest is theirs) and refuses what cannot be a graph.
//!
//! ```
//! use gateway_llb::{CacheSharing, Constraints, Copy, FileActions, Graph, ImageSource, LocalSource};
//! use gateway_llb::{MarshalOptions, Mount, State, draw, platform};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let named = |name: &str| Constraints::new().name(name);
//! // Sources: an image, and a directory of the client. Pin images by digest, so that caches mean something.
//! let rust = ImageSource::new("docker.io/library/rust:1").state(named("FROM rust:1"));
//! let files = LocalSource::new("context").state(named("load build context"));
//!
//! // Every method gives a new state; `rust` can be used again.
//! let into_src = FileActions::new().copy(&files, "/", "/src/", Copy {
//!     dir_contents_only: true,
//!     create_dest_path: true,
//!     ..Copy::default()
//! });
//! let source = rust.file(into_src, named("COPY . /src/")).dir("/src").env("CARGO_TERM_COLOR", "never");
//! let built = source
//!     .run(["cargo", "build", "--release"])
//!     .mount(Mount::cache("/src/target", &State::scratch(), "target", CacheSharing::Locked))
//!     .with(named("RUN cargo build --release"))
//!     .root();
//!
//! // What is marshalled is what the result needs, and equal graphs give equal bytes.
//! let definition = built.marshal(&MarshalOptions::new(platform::parse("linux/amd64")?))?;
//! let graph = Graph::load(&definition)?;
//! assert_eq!(graph.len(), 4);
//! let last = graph.get(&graph.result().digest).ok_or("no result")?;
//! assert_eq!(last.custom_name(), Some("RUN cargo build --release"));
//! println!("{}", draw::mermaid(&graph));
//! # Ok(()) }
//! ```
//!
//! | you want | you use |
//! |---|---|
//! | images, git, files of the web, directories of the client, layouts | [`ImageSource`], [`GitSource`], [`HttpSource`], [`LocalSource`], [`OciLayoutSource`] |
//! | a command, with mounts, secrets, ssh agents, a network | [`State::run`], which gives a [`Run`]; what its mounts become: [`Run::exec`] |
//! | to copy, write, make and remove files, several in one op | [`State::file`] with [`FileActions`] |
//! | layers side by side, and differences | [`State::merge`], [`State::diff`] |
//! | names in progress, places in build files, no cache | [`Constraints`], at every op |
//! | a state that is known only later | [`Slot`] |
//! | to see what came out | [`Graph`], [`draw`], [`json`], [`lint::check`] |

pub mod caps;
mod constraints;
mod digest;
pub mod draw;
mod env;
mod exec;
mod file;
mod foreign;
mod git;
pub mod graph;
pub mod json;
pub mod lint;
mod marshal;
mod mount;
mod names;
pub mod path;
pub mod platform;
pub mod quote;
mod source;
mod source_map;
mod state;
mod wire;

pub use constraints::Constraints;
pub use digest::{digest_of, encode_op};
pub use env::Env;
pub use exec::{Exec, ProxyEnv, Run};
pub use file::{Chmod, Copy, FileActions, Mkdir, Mkfile, Owner, Rm, Symlink, User};
pub use foreign::ForeignError;
pub use git::{GitRemote, GitRemoteError};
pub use graph::Graph;
pub use marshal::{MarshalError, MarshalOptions};
pub use mount::{CacheSharing, Mount, Secret, Ssh};
pub use names::vertex_name;
pub use source::{GitSource, HttpSource, ImageSource, LocalSource, OciLayoutSource, ResolveMode};
pub use source_map::SourceMap;
pub use state::{Slot, State};

/// The protobuf messages of LLB, generated from `proto/ops.proto`.
///
/// An [`pb::Op`] that is to be digested is encoded by [`encode_op`], never by its own `encode`:
/// the order of its fields differs.
pub mod pb {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}
