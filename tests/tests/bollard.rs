//! `gateway daemon` driven by bollard, a client that nobody here wrote: over docker's HTTP with the context
//! in the request, over docker's HTTP turned into gRPC, and over BuildKit's own socket. It asks for builds
//! directly, and follows none of them.

use std::io::Write;
use std::path::Path;

use bollard::Docker;
use bollard::grpc::build::{ImageBuildFrontendOptions, ImageBuildLoadInput};
use bollard::grpc::driver::buildkitd::{BuildkitDaemon, Endpoint};
use bollard::grpc::driver::moby::Moby;
use bollard::grpc::driver::{Build, Export, ImageExporterEnum};
use bollard::grpc::export::{ImageExporterOutput, ImageExporterRequest};
use bollard::models::BuildInfoAux;
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion, ImageBuildOutput};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use gateway_tests::program::tool;
use gateway_tests::rig::Rig;
use http_body_util::{Either, Full};

/// Seconds; nothing here takes long on a machine that does nothing else.
const PATIENCE: u64 = 600;

fn docker(rig: &Rig) -> Docker {
    let socket = rig.daemon.socket().display().to_string();
    Docker::connect_with_unix(&socket, PATIENCE, bollard::API_DEFAULT_VERSION)
        .expect("the daemon's socket")
}

/// A context as an archive.
fn context() -> Bytes {
    let dockerfile = "FROM busybox AS made
ARG WHO=nobody
COPY file /file
RUN echo \"made for $WHO with $(cat /file)\" > /made
FROM scratch
COPY --from=made /made /
";
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in [("Dockerfile", dockerfile), ("file", "care")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, content.as_bytes())
            .expect("an archive in memory");
    }
    let mut gzip = archive.into_inner().expect("an archive in memory");
    gzip.flush().expect("an archive in memory");
    gzip.finish().expect("an archive in memory").into()
}

fn listed(archive: &Path) -> String {
    tool("tar", &["tf", &archive.display().to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn p31_p57_bollard_builds_the_archive_that_it_sends_over_http() {
    let rig = Rig::new();
    let docker = docker(&rig);
    let options = BuildImageOptionsBuilder::default()
        .t("bollard/http:1")
        .version(BuilderVersion::BuilderBuildKit)
        .session("bollard-http")
        .build();
    let body = Either::Left(Full::new(context()));
    let mut said = docker.build_image(options, None, Some(body));
    let (mut names, mut id) = (Vec::new(), None);
    while let Some(message) = said.next().await {
        match message.expect("a message of the build").aux {
            Some(BuildInfoAux::BuildKit(status)) => {
                names.extend(status.vertexes.into_iter().map(|vertex| vertex.name));
            }
            Some(BuildInfoAux::Default(image)) => id = image.id,
            None => {}
        }
    }
    assert!(
        names.iter().any(|name| name.contains("RUN echo")),
        "{names:?}"
    );
    assert!(id.is_some_and(|id| id.starts_with("sha256:")));
    assert!(rig.images().contains("bollard/http:1"), "{}", rig.images());
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_p57_bollard_gets_the_files_of_a_build_as_an_archive() {
    let rig = Rig::new();
    let docker = docker(&rig);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let to = dir.path().join("files.tar");
    let options = BuildImageOptionsBuilder::default()
        .version(BuilderVersion::BuilderBuildKit)
        .session("bollard-files")
        .outputs(ImageBuildOutput::Tar(to.display().to_string()))
        .build();
    let body = Either::Left(Full::new(context()));
    let mut said = docker.build_image(options, None, Some(body));
    while let Some(message) = said.next().await {
        message.expect("a message of the build");
    }
    assert!(listed(&to).lines().any(|line| line == "made"));
}

#[tokio::test(flavor = "multi_thread")]
async fn p46_p57_bollard_asks_for_an_image_over_http_that_becomes_grpc() {
    let rig = Rig::new();
    let options = ImageBuildFrontendOptions::builder()
        .buildarg("WHO", "you")
        .build();
    Moby::new(&docker(&rig))
        .docker_build(
            "bollard/moby:1",
            options,
            ImageBuildLoadInput::Upload(context()),
            None,
            None,
        )
        .await
        .expect("the build");
    assert!(rig.images().contains("bollard/moby:1"), "{}", rig.images());
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_p31_p46_bollard_gets_an_image_as_an_archive_over_buildkits_socket() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket = format!("unix://{}", rig.daemon.socket().display());
    let export = async |kind: fn(ImageExporterRequest) -> ImageExporterEnum, name: &str| {
        let to = dir.path().join(name);
        let endpoint = Endpoint::try_from(socket.clone()).expect("an address");
        let request = ImageExporterOutput::builder("docker.io/library/bollard:1").dest(&to);
        BuildkitDaemon::new(endpoint)
            .export(
                kind(request),
                ImageBuildFrontendOptions::builder().build(),
                ImageBuildLoadInput::Upload(context()),
                None,
                None,
            )
            .await
            .expect("the build");
        listed(&to)
    };
    let files = export(ImageExporterEnum::OCI, "oci.tar").await;
    for name in ["oci-layout", "index.json"] {
        assert!(files.lines().any(|line| line == name), "{files}");
    }
    let files = export(ImageExporterEnum::Docker, "docker.tar").await;
    assert!(files.lines().any(|line| line == "manifest.json"), "{files}");
}
