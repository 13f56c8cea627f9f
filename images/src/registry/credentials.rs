//! Who we are towards a registry: the trait that callers implement, and one reader of Docker's config.json.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::authority::{AuthorityFuture, TokenFuture, TokenRequest};
use super::error::CredentialsError;

/// A login. Its `Debug` form hides the secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    Basic {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
    /// Sent as it is, as Bearer.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Credential::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Credential::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// A login and where it came from, for error texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub credential: Credential,
    pub source: String,
}

pub type LoginFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Login>, CredentialsError>> + Send + 'a>>;

/// Gives logins by API host (`registry-1.docker.io`, `host[:port]`).
pub trait Credentials: Send + Sync {
    fn login<'a>(&'a self, host: &'a str) -> LoginFuture<'a>;

    /// The same for one repository of the host, for places that keep logins by repository.
    fn login_for<'a>(&'a self, host: &'a str, _repository: Option<&'a str>) -> LoginFuture<'a> {
        self.login(host)
    }

    /// Who fetches tokens for this host and keeps the login to itself. `None`: nobody does; tokens are
    /// fetched here, with [`Credentials::login`].
    fn authority<'a>(&'a self, _host: &'a str) -> AuthorityFuture<'a> {
        Box::pin(async { Ok(None) })
    }

    /// Has a token fetched by the authority.
    fn token<'a>(&'a self, _request: TokenRequest<'a>) -> TokenFuture<'a> {
        Box::pin(async {
            Err(CredentialsError::Client(
                "nobody fetches tokens here".to_owned(),
            ))
        })
    }
}

/// No logins at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn login<'a>(&'a self, _host: &'a str) -> LoginFuture<'a> {
        Box::pin(async { Ok(None) })
    }
}

/// Fixed logins by host.
#[derive(Clone, Debug, Default)]
pub struct FixedCredentials(pub BTreeMap<String, Credential>);

impl Credentials for FixedCredentials {
    fn login<'a>(&'a self, host: &'a str) -> LoginFuture<'a> {
        let login = self.0.get(host).map(|credential| Login {
            credential: credential.clone(),
            source: "the caller".into(),
        });
        Box::pin(async move { Ok(login) })
    }
}

/// The key under which Docker keeps the login of Docker Hub.
pub(crate) const HUB_KEY: &str = "https://index.docker.io/v1/";
/// A helper may ask its user; it may also hang.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// How long a helper's answer is used again.
const HELPER_CACHE: Duration = Duration::from_secs(290);
/// Largest config.json and helper answer that are read.
const MAX_CONFIG: usize = 4 << 20;
const MAX_HELPER_ANSWER: usize = 1 << 20;

/// When a helper answered, and what.
type HelperAnswered = (Instant, Option<Credential>);

#[derive(Deserialize, Default)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(rename = "credHelpers", default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore", default)]
    creds_store: String,
}

/// Empty strings mean absent: `{}` is what a login beside a credential store leaves.
#[derive(Deserialize, Default)]
struct AuthEntry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

/// The logins of a Docker config.json: `credHelpers`, then `credsStore`, then `auths`.
/// When a helper has nothing, a plain entry of the file is used.
pub struct DockerConfig {
    config: ConfigJson,
    path: PathBuf,
    /// Folders in which `docker-credential-…` is looked for; `None` leaves it to the system.
    helper_path: Option<std::ffi::OsString>,
    /// By helper and server.
    answers: Mutex<HashMap<(String, String), HelperAnswered>>,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DockerConfig({})", self.path.display())
    }
}

impl DockerConfig {
    /// Reads the file; a missing one is an empty one.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&bytes, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::parse(b"{}", path),
            Err(error) => Err(CredentialsError::Config {
                path: path.to_owned(),
                problem: error.to_string(),
            }),
        }
    }

    /// Parses the file's content; `path` is for messages.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, CredentialsError> {
        let wrong = |problem: String| CredentialsError::Config {
            path: path.to_owned(),
            problem,
        };
        if bytes.len() > MAX_CONFIG {
            return Err(wrong(format!("larger than {MAX_CONFIG} bytes")));
        }
        // serde's message may quote a value, so only the place is told.
        let config = serde_json::from_slice(bytes).map_err(|e| {
            wrong(format!(
                "not a Docker config at line {} column {}",
                e.line(),
                e.column()
            ))
        })?;
        Ok(DockerConfig {
            config,
            path: path.to_owned(),
            helper_path: None,
            answers: Mutex::default(),
        })
    }

    /// Looks for credential helpers in these folders (the form of `PATH`).
    pub fn with_helper_path(mut self, path: impl Into<std::ffi::OsString>) -> Self {
        self.helper_path = Some(path.into());
        self
    }

    async fn find(
        &self,
        host: &str,
        repository: Option<&str>,
    ) -> Result<Option<Login>, CredentialsError> {
        let own =
            repository.and_then(|repository| by_repository(&self.config.auths, host, repository));
        if let Some(credential) = own.and_then(AuthEntry::credential) {
            return Ok(Some(Login {
                credential,
                source: self.path.display().to_string(),
            }));
        }
        let key = if is_hub(host) { HUB_KEY } else { host };
        let helper = lookup(&self.config.cred_helpers, host)
            .map(String::as_str)
            .or(Some(self.config.creds_store.as_str()))
            .filter(|name| !name.is_empty());
        let mut failed = None;
        if let Some(helper) = helper {
            match self.ask(helper, key).await {
                Ok(Some(credential)) => {
                    let source = format!("docker-credential-{helper}");
                    return Ok(Some(Login { credential, source }));
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        let plain = lookup(&self.config.auths, host).and_then(|entry| entry.credential());
        match (plain, failed) {
            (Some(credential), _) => Ok(Some(Login {
                credential,
                source: self.path.display().to_string(),
            })),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    async fn ask(
        &self,
        helper: &str,
        server: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        let key = (helper.to_owned(), server.to_owned());
        if let Some((when, answer)) = self
            .answers
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get(&key)
            && when.elapsed() < HELPER_CACHE
        {
            return Ok(answer.clone());
        }
        let answer = run_helper(helper, server, self.helper_path.as_deref()).await?;
        self.answers
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .insert(key, (Instant::now(), answer.clone()));
        Ok(answer)
    }
}

impl Credentials for DockerConfig {
    fn login<'a>(&'a self, host: &'a str) -> LoginFuture<'a> {
        Box::pin(self.find(host, None))
    }

    fn login_for<'a>(&'a self, host: &'a str, repository: Option<&'a str>) -> LoginFuture<'a> {
        Box::pin(self.find(host, repository))
    }
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

async fn run_helper(
    helper: &str,
    server: &str,
    path: Option<&std::ffi::OsStr>,
) -> Result<Option<Credential>, CredentialsError> {
    let Some(stdout) = run_helper_for(helper, "get", server, path).await? else {
        return Ok(None);
    };
    let answer: HelperAnswer =
        serde_json::from_slice(&stdout).map_err(|_| CredentialsError::Helper {
            helper: format!("docker-credential-{helper}"),
            problem: "the answer is not the expected JSON".into(),
        })?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::IdentityToken(answer.secret),
        _ => Credential::Basic {
            username: answer.username,
            password: answer.secret,
        },
    }))
}

/// Runs a helper's `get`, `store` or `erase` with `input`; gives what it wrote, `None` when it has no such login.
pub(crate) async fn run_helper_for(
    helper: &str,
    action: &str,
    input: &str,
    path: Option<&std::ffi::OsStr>,
) -> Result<Option<Vec<u8>>, CredentialsError> {
    let program = format!("docker-credential-{helper}");
    let wrong = |problem: String| CredentialsError::Helper {
        helper: program.clone(),
        problem,
    };
    if helper.contains('/') {
        return Err(wrong("the helper's name holds a slash".into()));
    }
    let found = path.and_then(|folders| {
        std::env::split_paths(folders)
            .map(|folder| folder.join(&program))
            .find(|file| file.is_file())
    });
    let executable = match (found, path) {
        (Some(file), _) => file,
        (None, None) => PathBuf::from(&program),
        (None, Some(_)) => return Err(wrong("executable file not found in $PATH".into())),
    };
    let mut child = tokio::process::Command::new(executable)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => wrong("executable file not found in $PATH".into()),
            _ => wrong(e.to_string()),
        })?;
    let exchange = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input has its reasons; its answer decides.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_TIME, exchange)
        .await
        .map_err(|_| wrong(format!("no answer within {} s", HELPER_TIME.as_secs())))?
        .map_err(|e| wrong(e.to_string()))?;
    if output.stdout.len() > MAX_HELPER_ANSWER {
        return Err(wrong("the answer is too long".into()));
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(wrong(format!("failed with {}", output.status)));
    }
    Ok(Some(output.stdout))
}

/// Several places to look for a login, the first that has one counts. A place that fails matters only when no other has
/// one.
pub struct FirstOf(pub Vec<std::sync::Arc<dyn Credentials>>);

impl Credentials for FirstOf {
    fn login<'a>(&'a self, host: &'a str) -> LoginFuture<'a> {
        self.login_for(host, None)
    }

    fn login_for<'a>(&'a self, host: &'a str, repository: Option<&'a str>) -> LoginFuture<'a> {
        Box::pin(async move {
            let mut failed = None;
            for place in &self.0 {
                match place.login_for(host, repository).await {
                    Ok(Some(login)) => return Ok(Some(login)),
                    Ok(None) => {}
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or(Ok(None), Err)
        })
    }
}

impl AuthEntry {
    fn credential(&self) -> Option<Credential> {
        if !self.registrytoken.is_empty() {
            return Some(Credential::RegistryToken(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Some(Credential::IdentityToken(self.identitytoken.clone()));
        }
        if !self.auth.is_empty() {
            // Written with and without padding.
            let lenient = GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                GeneralPurposeConfig::new()
                    .with_decode_padding_mode(DecodePaddingMode::Indifferent),
            );
            let text = String::from_utf8(lenient.decode(self.auth.trim()).ok()?).ok()?;
            let (username, password) = text.split_once(':')?;
            return Some(Credential::Basic {
                username: username.into(),
                password: password.trim_end_matches('\0').into(),
            });
        }
        (!self.username.is_empty() && !self.password.is_empty()).then(|| Credential::Basic {
            username: self.username.clone(),
            password: self.password.clone(),
        })
    }
}

pub(crate) fn is_hub(host: &str) -> bool {
    matches!(
        host,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    )
}

/// podman's keys: a host with the beginning of a repository's name, whole parts of it; the longest counts.
fn by_repository<'a, T>(
    map: &'a BTreeMap<String, T>,
    host: &str,
    repository: &str,
) -> Option<&'a T> {
    let host = if is_hub(host) { "docker.io" } else { host };
    let mut name = repository;
    loop {
        if let Some(found) = map.get(&format!("{host}/{name}")) {
            return Some(found);
        }
        name = name.rsplit_once('/')?.0;
    }
}

/// Keys are hosts, or URLs of older clients that are reduced to hosts.
fn lookup<'a, T>(map: &'a BTreeMap<String, T>, host: &str) -> Option<&'a T> {
    if is_hub(host) {
        if let Some(found) = map.get(HUB_KEY) {
            return Some(found);
        }
        return map
            .iter()
            .find(|(key, _)| is_hub(reduced(key)))
            .map(|(_, value)| value);
    }
    map.get(host).or_else(|| {
        map.iter()
            .find(|(key, _)| reduced(key) == host)
            .map(|(_, value)| value)
    })
}

pub(crate) fn reduced(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    bare.split('/').next().unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> DockerConfig {
        DockerConfig::parse(json.as_bytes(), Path::new("config.json")).unwrap()
    }

    fn basic(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic {
            username: username.into(),
            password: password.into(),
        })
    }

    async fn login(config: &DockerConfig, host: &str) -> Option<Credential> {
        config
            .login(host)
            .await
            .unwrap()
            .map(|login| login.credential)
    }

    #[tokio::test]
    async fn a_login_for_a_repository_is_found_before_that_of_its_host() {
        // {a,b,c,h,d}:p
        let config = config(
            r#"{"auths":{
                "reg.example":{"auth":"aDpw"},
                "reg.example/team":{"auth":"YTpw"},
                "reg.example/team/app":{"auth":"Yjpw"},
                "reg.example/empty":{},
                "docker.io/team":{"auth":"Yzpw"},
                "https://index.docker.io/v1/":{"auth":"ZDpw"}
            }}"#,
        );
        for (host, repository, user) in [
            ("reg.example", Some("team/app"), "b"),
            ("reg.example", Some("team/app/deep"), "b"),
            ("reg.example", Some("team/apple"), "a"),
            ("reg.example", Some("teams/app"), "h"),
            ("reg.example", Some("empty/app"), "h"),
            ("reg.example", None, "h"),
            ("registry-1.docker.io", Some("team/app"), "c"),
            ("registry-1.docker.io", Some("library/app"), "d"),
        ] {
            let login = config.login_for(host, repository).await.unwrap();
            let found = login.map(|login| login.credential);
            assert_eq!(found, basic(user, "p"), "{host} {repository:?}");
        }
    }

    #[tokio::test]
    async fn logins_are_found_by_host_and_by_legacy_keys() {
        let config = config(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"dTpw"},
                "https://old.example/v1/":{"auth":"dTpwOnE"},
                "id.example":{"identitytoken":"t"},
                "empty.example":{}
            }}"#,
        );
        assert_eq!(
            login(&config, "registry-1.docker.io").await,
            basic("u", "p")
        );
        assert_eq!(login(&config, "old.example").await, basic("u", "p:q"));
        assert_eq!(
            login(&config, "id.example").await,
            Some(Credential::IdentityToken("t".into()))
        );
        assert_eq!(login(&config, "empty.example").await, None);
        assert_eq!(login(&config, "other.example").await, None);
    }

    #[tokio::test]
    async fn a_helper_is_asked_with_the_server_on_its_input() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker-credential-fake");
        std::fs::write(
            &program,
            "#!/bin/sh\nread -r server\necho \"{\\\"Username\\\":\\\"<token>\\\",\\\"Secret\\\":\\\"for $server\\\"}\"\n",
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config =
            config(r#"{"credHelpers":{"h.example":"fake"}}"#).with_helper_path(folder.path());
        assert_eq!(
            login(&config, "h.example").await,
            Some(Credential::IdentityToken("for h.example".into()))
        );
    }

    /// A folder with `docker-credential-NAME` programs.
    fn helpers(programs: &[(&str, &str)]) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in programs {
            let program = folder.path().join(format!("docker-credential-{name}"));
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&program, mode).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn check_68_the_helper_of_a_host_comes_before_the_store_and_both_before_the_file() {
        let answer = |who: &str| {
            let json = format!(r#"{{"Username":"{who}","Secret":"x"}}"#);
            format!("cat > /dev/null; echo '{json}'")
        };
        let nothing = "cat > /dev/null; echo credentials not found in native keychain; exit 1";
        let folder = helpers(&[
            ("own", &answer("own")),
            ("store", &answer("store")),
            ("empty", nothing),
            ("broken", "exit 3"),
        ]);
        let with = |json: &str| config(json).with_helper_path(folder.path());
        let auths = r#""auths":{"a.example":{"auth":"dTpw"},"b.example":{}}"#;
        let all = with(&format!(
            r#"{{{auths},"credsStore":"store","credHelpers":{{"a.example":"own"}}}}"#
        ));
        assert_eq!(login(&all, "a.example").await, basic("own", "x"));
        // What `docker login` leaves beside a store.
        assert_eq!(login(&all, "b.example").await, basic("store", "x"));
        // A helper that has nothing, or fails, leaves the file.
        for store in ["empty", "broken", "absent"] {
            let config = with(&format!(r#"{{{auths},"credsStore":"{store}"}}"#));
            assert_eq!(
                login(&config, "a.example").await,
                basic("u", "p"),
                "{store}"
            );
        }
        let none = with(r#"{"credsStore":"empty"}"#);
        assert_eq!(login(&none, "c.example").await, None);
    }

    #[tokio::test]
    async fn check_68_every_form_of_an_entry_is_read_and_empty_means_absent() {
        let config = config(
            r#"{"HttpHeaders":{"x":"y"},"auths":{
                "token.example":{"registrytoken":"r","auth":"dTpw"},
                "both.example":{"auth":"dTpw","identitytoken":""},
                "zeros.example":{"auth":"dTpwAAA="},
                "plain.example":{"username":"u","password":"p","email":"e"},
                "half.example":{"username":"u"},
                "broken.example":{"auth":"%%%"},
                "no-colon.example":{"auth":"dXA="}
            }}"#,
        );
        let token = Credential::RegistryToken("r".into());
        assert_eq!(login(&config, "token.example").await, Some(token));
        for host in ["both.example", "zeros.example", "plain.example"] {
            assert_eq!(login(&config, host).await, basic("u", "p"), "{host}");
        }
        for host in ["half.example", "broken.example", "no-colon.example"] {
            assert_eq!(login(&config, host).await, None, "{host}");
        }
    }

    #[tokio::test]
    async fn a_missing_helper_is_an_error_that_names_it() {
        let config = config(r#"{"credsStore":"absent"}"#).with_helper_path("/nonexistent");
        let error = config.login("h.example").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "error getting credentials - err: docker-credential-absent: executable file not found in $PATH"
        );
    }

    #[test]
    fn debug_output_hides_secrets() {
        let text = format!(
            "{:?}",
            Credential::Basic {
                username: "u".into(),
                password: "hunter2".into()
            }
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
}
