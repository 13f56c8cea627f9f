//! Debian's nginx on a loopback port in front of another server, ended by pid when dropped.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::registry::free_port;
use crate::tls::Authority;

const START_LIMIT: Duration = Duration::from_secs(30);

pub struct Nginx {
    process: Child,
    pub address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Nginx {
    /// Speaks TLS; `server` are directives of its server block, with `DIR` for its folder and `SELF` for its address.
    pub fn start(server: &str) -> Nginx {
        Self::listening("ssl", server)
    }

    /// `listen` is what follows the address in its `listen` directive.
    pub fn listening(listen: &str, server: &str) -> Nginx {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("nginx test authority");
        authority.write_ca(&dir.path().join("ca.crt"));
        let files = authority.server(dir.path(), &["127.0.0.1", "localhost"]);
        let address = free_port();
        let folder = dir.path().display().to_string();
        let server = server
            .replace("DIR", &folder)
            .replace("SELF", &address.to_string());
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
             log_format asked '$request_method $uri $status';\n\
             access_log {folder}/access.log asked;\n\
             client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;\n\
             uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
             server {{ listen {address} {listen}; ssl_certificate {cert}; ssl_certificate_key {key};\n{server}\n}}\n}}\n",
            cert = files.certificate.display(),
            key = files.key.display(),
        );
        let config_path = dir.path().join("nginx.conf");
        std::fs::write(&config_path, config).expect("writing nginx's configuration");
        let mut process = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&config_path)
            .arg("-p")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx, of Debian's package nginx-light");
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = process.try_wait() {
                let log = std::fs::read_to_string(dir.path().join("error.log"));
                panic!("nginx ended with {status}: {}", log.unwrap_or_default());
            }
            assert!(started.elapsed() < START_LIMIT, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Nginx {
            process,
            address,
            dir,
        }
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// `METHOD PATH STATUS`, one line a request.
    pub fn asked(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("access.log"));
        log.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// A file that it writes into its folder, by lines.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join(name));
        log.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The table by which it is trusted.
    pub fn table(&self) -> String {
        format!(
            "[registry.\"{}\"]\nca = [\"{}\"]\n",
            self.address,
            self.ca().display()
        )
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
