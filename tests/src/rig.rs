//! Where most tests of the daemon begin: a daemon, a registry that has the base images, and clients of all kinds.

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use tonic::transport::{Channel, Endpoint};

use crate::client::Client;
use crate::daemon::Daemon;
use crate::program::{run, stderr, tool};
use crate::registry::Registry;

/// The largest message that clients take.
const MESSAGE: usize = 16 << 20;

pub struct Rig {
    pub registry: Registry,
    pub daemon: Daemon,
}

impl Default for Rig {
    fn default() -> Self {
        Rig::new()
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(&[])
    }

    /// With lines of its configuration.
    pub fn configured(lines: &str) -> Rig {
        let registry = Registry::with_base_images();
        let daemon = Daemon::start(&format!("{lines}{}", registry.as_docker_hub()), &[]);
        Rig { registry, daemon }
    }

    /// With variables of the environment.
    pub fn with(variables: &[(&str, &str)]) -> Rig {
        let registry = Registry::with_base_images();
        let daemon = Daemon::start_with(&registry.as_docker_hub(), &[], variables);
        Rig { registry, daemon }
    }

    /// A client that says what a test says, byte for byte.
    pub async fn client(&self) -> Client {
        Client::unix(&self.daemon.socket()).await
    }

    /// The same of another user. The socket must be [open](Daemon::open_to_all).
    pub async fn client_of(&self, user: u32) -> Client {
        Client::unix_as(&self.daemon.socket(), user).await
    }

    /// A connection for code that others generated.
    pub async fn channel(&self) -> Channel {
        let socket = format!("unix://{}", self.daemon.socket().display());
        let endpoint = Endpoint::try_from(socket).expect("an address");
        endpoint.connect().await.expect("the daemon")
    }

    /// The calls that all clients begin with.
    pub async fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel().await).max_decoding_message_size(MESSAGE)
    }

    /// What the daemon's image store has.
    pub fn images(&self) -> String {
        let output = run(&mut self.daemon.home.command(&["images"]));
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the registry says of a name, as it is.
    pub fn raw(&self, name: &str) -> serde_json::Value {
        let certificates = self.registry.certificate_dir().display().to_string();
        let name = format!("docker://{}/{name}", self.registry.address);
        let text = tool(
            "skopeo",
            &["inspect", "--raw", "--cert-dir", &certificates, &name],
        );
        serde_json::from_str(&text).expect("JSON")
    }

    /// A blob of JSON that the registry has.
    pub fn blob(&self, repository: &str, digest: &str) -> serde_json::Value {
        let certificates = self.registry.certificate_dir().join("ca.crt");
        let url = format!(
            "https://{}/v2/{repository}/blobs/{digest}",
            self.registry.address
        );
        let certificates = certificates.display().to_string();
        let text = tool("curl", &["-fsS", "--cacert", &certificates, &url]);
        serde_json::from_str(&text).expect("JSON")
    }
}
