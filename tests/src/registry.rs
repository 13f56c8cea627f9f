//! Debian's docker-registry over TLS on a loopback port, ended by pid when dropped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::base_images::{Layout, Tar};
use crate::tls::Authority;

/// Starting takes well below a second; this is for machines under load.
const START_LIMIT: Duration = Duration::from_secs(30);

pub struct Registry {
    process: Child,
    pub address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Registry {
    /// An empty registry whose certificate names 127.0.0.1 and localhost.
    pub fn start() -> Registry {
        Registry::start_with("", None)
    }

    /// The same with more lines of its configuration (`DIR` is its folder), trusting another registry's authority.
    pub fn start_with(more: &str, trusted: Option<&Path>) -> Registry {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("gateway test authority");
        authority.write_ca(&dir.path().join("ca.crt"));
        let files = authority.server(dir.path(), &["127.0.0.1", "localhost"]);
        let address = free_port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}}}, \
             delete: {{enabled: true}}}}\nhttp:\n  addr: {address}\n  tls: {{certificate: {cert}, key: {key}}}\n{more}\n",
            more = more.replace("DIR", &dir.path().display().to_string()),
            root = dir.path().join("data").display(),
            cert = files.certificate.display(),
            key = files.key.display(),
        );
        let config_path = dir.path().join("registry.yml");
        std::fs::write(&config_path, config).expect("writing the registry's configuration");
        // Of the password "s3cret-pw".
        let login = "alice:$2y$05$abcdefghijklmnopqrstuuzSvhclVSvY9ufOheOOhcPviTPFJlqIC\n";
        std::fs::write(dir.path().join("htpasswd"), login).expect("writing the logins");
        let log = std::fs::File::create(dir.path().join("registry.log")).expect("a log file");
        let mut command = Command::new("docker-registry");
        if let Some(trusted) = trusted {
            command.env("SSL_CERT_FILE", trusted);
        }
        let mut process = command
            .arg("serve")
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry, of Debian's package of that name");
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = process.try_wait() {
                let log = std::fs::read_to_string(dir.path().join("registry.log"));
                panic!(
                    "docker-registry ended with {status}: {}",
                    log.unwrap_or_default()
                );
            }
            assert!(
                started.elapsed() < START_LIMIT,
                "docker-registry does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Registry {
            process,
            address,
            dir,
        }
    }

    /// What this one holds, without TLS: for clients that speak to loopback addresses only so.
    pub fn without_tls(&self) -> Registry {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let address = free_port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            root = self.dir.path().join("data").display(),
        );
        let config_path = dir.path().join("registry.yml");
        std::fs::write(&config_path, config).expect("writing the registry's configuration");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry, of Debian's package of that name");
        let registry = Registry {
            process,
            address,
            dir,
        };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                started.elapsed() < START_LIMIT,
                "docker-registry does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// The same as one value: what it holds stays as long as this.
    pub fn without_tls_for_good(self) -> PlainRegistry {
        let plain = self.without_tls();
        PlainRegistry {
            address: plain.address,
            _plain: plain,
            _held: self,
        }
    }

    /// A registry that holds all base images.
    pub fn with_base_images() -> Registry {
        let registry = Registry::start();
        let layout = tempfile::tempdir().expect("a temporary folder");
        let names = crate::base_images::write_layout(layout.path()).expect("writing base images");
        for name in names {
            registry.push_layout(layout.path(), &name, &name);
        }
        registry
    }

    /// Pushes an image that holds busybox, with this configuration.
    pub fn push_busybox(&self, name: &str, config: serde_json::Value) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let busybox = std::fs::read("/bin/busybox").expect("busybox");
        let layer = Tar::default()
            .dir("bin", (0o755, 0, 0))
            .file("bin/busybox", &busybox, (0o755, 0, 0))
            .bytes();
        let mut layout = Layout::create(dir.path()).expect("a layout");
        let image = layout.image(&[layer], config, "amd64").expect("an image");
        layout.name(image, name);
        layout.close().expect("closing the layout");
        self.push_layout(dir.path(), name, name);
    }

    /// Pushes an image of an OCI layout with Debian's skopeo.
    pub fn push_layout(&self, layout: &Path, layout_name: &str, name: &str) {
        self.skopeo_push(&format!("oci:{}:{layout_name}", layout.display()), name);
    }

    /// Pushes from any source that skopeo knows (`oci-archive:FILE`, ...).
    pub fn skopeo_push(&self, source: &str, name: &str) {
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--all",
                "--quiet",
                "--dest-cert-dir",
            ])
            .arg(self.certificate_dir())
            .arg(source)
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo, of Debian's package of that name");
        assert!(
            output.status.success(),
            "skopeo could not push {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Builds a context with the program under test and pushes the image.
    pub fn build_and_push(&self, context: &Path, name: &str) {
        let home = crate::program::Home::new("");
        let archive = home.dir.path().join("image.tar");
        let output = crate::program::run(
            home.build()
                .args(["-t", name, "--output"])
                .arg(format!("type=oci,dest={}", archive.display()))
                .arg(context),
        );
        assert!(
            output.status.success(),
            "{}",
            crate::program::stderr(&output)
        );
        self.skopeo_push(&format!("oci-archive:{}", archive.display()), name);
    }

    /// Ends it; its files stay.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// The certificate as skopeo's `--cert-dir` wants it.
    pub fn certificate_dir(&self) -> PathBuf {
        let dir = self.dir.path().join("certs");
        std::fs::create_dir_all(&dir).expect("a folder for the certificate");
        std::fs::copy(self.ca(), dir.join("ca.crt")).expect("copying the certificate");
        dir
    }

    /// The table by which it is trusted.
    pub fn table(&self) -> String {
        format!(
            "[registry.\"{}\"]\nca = [\"{}\"]\n",
            self.address,
            self.ca().display()
        )
    }

    /// Configuration that makes this registry the mirror of docker.io.
    pub fn as_docker_hub(&self) -> String {
        format!(
            "[registry.\"docker.io\"]\nmirrors = [\"{address}\"]\n\n[registry.\"{address}\"]\nhttp = false\nca = [\"{ca}\"]\n",
            address = self.address,
            ca = self.ca().display(),
        )
    }
}

/// A registry that speaks without TLS, with the one whose data it serves.
pub struct PlainRegistry {
    pub address: SocketAddr,
    _plain: Registry,
    _held: Registry,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free loopback port")
}
