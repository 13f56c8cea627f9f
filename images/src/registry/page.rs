//! The long form of a registry error: what failed, where, why, what to do next.

use std::fmt::Write as _;

use serde_json::json;

use super::error::{
    Attempt, HostError, Kind, PeerReport, RegistryError, StatusError, TransportError,
};

/// Renders a failure for a terminal: the one-line header, then aligned rows. Plain text, no colour.
pub fn error_page(error: &RegistryError) -> String {
    let mut page = Page::default();
    let RegistryError::AllHostsFailed {
        reference,
        attempts,
    } = error
    else {
        page.text = format!("{error}\n");
        return page.text;
    };
    let Some(first) = error.primary() else {
        return format!("{error}\n");
    };
    match &first.error {
        HostError::Transport(_) => page.line(&first.to_string()),
        HostError::Status(s) if s.status == 404 => page.line(&format!("{reference}: not found")),
        _ => page.line(&format!("{reference}: {}", first.error)),
    }
    page.row("image", reference);
    if attempts.len() == 1 {
        page.row("registry", &first.host);
    }
    for attempt in attempts.iter().filter(|_| attempts.len() > 1) {
        let role = if attempt.mirror { "mirror" } else { "registry" };
        page.row(
            "tried",
            &format!("{role} {}: {}", attempt.host, attempt.error),
        );
    }
    explain(&mut page, first, &first.error);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    last: String,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// A label is written once for rows that share it.
    fn row(&mut self, label: &str, value: &str) {
        let shown = if self.last == label { "" } else { label };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "  {shown:<10} {value}");
        self.last = label.to_owned();
    }
}

fn explain(page: &mut Page, attempt: &Attempt, error: &HostError) {
    match error {
        HostError::Transport(transport) => transport_rows(page, attempt, transport),
        HostError::Auth(auth) => {
            if let Some(inner) = &auth.transport {
                page.row(
                    "problem",
                    "the token service that the registry names could not be asked",
                );
                return transport_rows(page, attempt, &inner.1);
            }
            page.row("problem", &format!("{} refused the request", auth.by));
            page.row("login", &auth.credentials);
            page.row("fix", &format!("docker login {}", attempt.host));
            page.row("fix", "check the spelling: many registries answer the same for a repository that does not exist");
        }
        HostError::Status(status) if status.status == 404 => {
            page.row(
                "problem",
                "the registry answers, and has no such repository or tag",
            );
            page.row("fix", "check repository and tag; a registry on a sub-path or another port needs both in the reference");
        }
        HostError::Status(status) if status.status == 429 => {
            page.row("problem", "the registry limits how often it is asked");
            page.row("fix", "log in, wait, or configure a mirror");
        }
        HostError::Status(status) if wants_tls(status) => {
            page.row(
                "problem",
                "the port speaks TLS, and was asked in plain HTTP (the default for local hosts)",
            );
            page.row(
                "fix",
                &format!("[registry.{:?}] http = false", attempt.host),
            );
        }
        HostError::Status(_) => page.row("problem", "the registry failed; its own log knows more"),
        HostError::Digest { .. } | HostError::Size { .. } => {
            page.row("problem", "what was served is not what its digest names: a damaged cache or a rewriting proxy");
        }
        HostError::Skipped(inner) => explain(page, attempt, inner),
        HostError::Config(_) => page.row(
            "fix",
            &format!("correct [registry.{:?}] in the configuration", attempt.host),
        ),
        _ => {}
    }
}

/// What servers say to plain HTTP on their TLS port.
fn wants_tls(status: &StatusError) -> bool {
    let said = status.message.as_deref().unwrap_or_default();
    status.status == 400
        && (said.contains("HTTP request to an HTTPS server")
            || said.contains("plain HTTP request was sent to HTTPS"))
}

/// The same failure for programs; the names of the fields and kinds are stable.
pub fn error_json(error: &RegistryError) -> serde_json::Value {
    let RegistryError::AllHostsFailed {
        reference,
        attempts,
    } = error
    else {
        return json!({ "message": error.to_string(), "attempts": [] });
    };
    let attempts: Vec<_> = attempts.iter().map(attempt_json).collect();
    json!({ "message": error.to_string(), "reference": reference, "attempts": attempts })
}

fn attempt_json(attempt: &Attempt) -> serde_json::Value {
    let mut value = json!({
        "host": attempt.host,
        "mirror": attempt.mirror,
        "url": attempt.url,
        "kind": kind_name(&attempt.error),
        "message": attempt.error.to_string(),
    });
    let transport = match &attempt.error {
        HostError::Transport(transport) => Some(transport),
        HostError::Auth(auth) => auth.transport.as_ref().map(|inner| &inner.1),
        _ => None,
    };
    if let Some(transport) = transport {
        value["peer"] = json!(transport.peer);
        let chain = transport.report.iter().flat_map(|report| &report.chain);
        value["chain"] = chain
            .map(|c| {
                json!({
                    "subject": c.subject, "issuer": c.issuer, "names": c.names, "not_before": c.not_before,
                    "not_after": c.not_after, "key": c.key, "sha256": c.sha256,
                })
            })
            .collect();
    }
    if let HostError::Status(status) = &attempt.error {
        value["status"] = json!(status.status);
    }
    value
}

fn kind_name(error: &HostError) -> &'static str {
    match error {
        HostError::Transport(transport) => transport.kind.as_str(),
        HostError::Status(status) if status.status == 404 => "not_found",
        HostError::Status(_) => "status",
        HostError::Auth(_) => "denied",
        HostError::Manifest(_) => "manifest",
        HostError::Digest { .. } => "digest_mismatch",
        HostError::Size { .. } => "size_mismatch",
        HostError::TooLarge { .. } => "too_large",
        HostError::Redirect(_) => "redirect",
        HostError::Body(_) => "body",
        HostError::Skipped(inner) => kind_name(inner),
        HostError::Config(_) => "configuration",
    }
}

fn transport_rows(page: &mut Page, attempt: &Attempt, error: &TransportError) {
    let peer = &error.peer;
    page.row("peer", peer);
    if let Some(report) = &error.report {
        report_rows(page, report);
    }
    page.row("problem", problem(error.kind));
    if let Some(note) = error.report.as_ref().and_then(|r| r.note.as_ref()) {
        page.row("problem", note);
    }
    // The port is part of the name under which a host is configured, unless it is the usual one.
    let host = peer.strip_suffix(":443").unwrap_or(peer);
    let table = format!("[registry.{host:?}]");
    match error.kind {
        Kind::SelfSigned => {
            page.row("fix", "if this is the right server, save its certificate (see below) as a PEM file and add to the configuration:");
            page.row(
                "fix",
                &format!("{table} ca = [\"/path/to/certificate.pem\"]"),
            );
        }
        Kind::UnknownIssuer | Kind::IncompleteChain | Kind::IssuerKeyMismatch | Kind::NoTrust => {
            page.row("fix", "ask for the CA certificate named above as a PEM file, and add to the configuration:");
            page.row("fix", &format!("{table} ca = [\"/path/to/ca.pem\"]"));
            page.row(
                "fix",
                "or install it for the whole system (update-ca-certificates)",
            );
        }
        Kind::Expired => page.row(
            "fix",
            "the registry's certificate must be renewed by whoever runs it",
        ),
        Kind::NotYetValid => page.row("fix", "check this machine's clock"),
        Kind::NameMismatch | Kind::NoSan | Kind::IpSanMissing => {
            page.row(
                "fix",
                "use a name that the certificate lists, or have it reissued with this one",
            );
        }
        Kind::PlainHttp => page.row(
            "fix",
            &format!("{table} http = true   (the connection is then not protected)"),
        ),
        Kind::ClientCertRequired | Kind::ClientCertRejected => {
            page.row(
                "fix",
                &format!("{table} keypair = [{{ key = \"client.key\", cert = \"client.cert\" }}]"),
            );
        }
        Kind::Dns => page.row(
            "fix",
            "check the host's spelling, the network and the name server",
        ),
        Kind::TcpRefused => page.row(
            "fix",
            "check host and port; is the registry running, does a firewall refuse?",
        ),
        Kind::TcpTimeout | Kind::HandshakeTimeout | Kind::ResponseTimeout => {
            page.row(
                "fix",
                "check the network; a proxy may be needed to reach this host",
            );
        }
        _ => {}
    }
    if error.kind.is_tls() && error.kind != Kind::PlainHttp {
        let name = error
            .report
            .as_ref()
            .map(|r| r.server_name.as_str())
            .filter(|n| !n.is_empty());
        let name = name.unwrap_or(attempt.host.as_str());
        page.row(
            "verify",
            &format!("openssl s_client -connect {peer} -servername {name} -showcerts"),
        );
    }
}

fn report_rows(page: &mut Page, report: &PeerReport) {
    for (at, certificate) in report.chain.iter().enumerate() {
        page.row(
            "presented",
            &format!("[{at}] subject {}", certificate.subject),
        );
        page.row("presented", &format!("    issuer  {}", certificate.issuer));
        if !certificate.names.is_empty() {
            page.row(
                "presented",
                &format!("    names   {}", certificate.names.join(", ")),
            );
        }
        page.row(
            "presented",
            &format!(
                "    valid   {} .. {}",
                certificate.not_before, certificate.not_after
            ),
        );
        page.row(
            "presented",
            &format!(
                "    key     {}   sha256 {}",
                certificate.key, certificate.sha256
            ),
        );
    }
    if let Some(authorities) = &report.client_cert_asked {
        let from = if authorities.is_empty() {
            "any authority".into()
        } else {
            authorities.join("; ")
        };
        page.row("asked for", &format!("a client certificate of {from}"));
    }
    if !report.chain.is_empty() {
        let sources: Vec<String> = report
            .trusted
            .iter()
            .map(|(from, n)| format!("{n} from {from}"))
            .collect();
        let sources = if sources.is_empty() {
            "nothing".into()
        } else {
            sources.join("; ")
        };
        page.row("trusted", &sources);
    }
    for problem in report.trust_problems.iter().take(3) {
        page.row("trusted", &format!("unusable: {problem}"));
    }
}

fn problem(kind: Kind) -> &'static str {
    match kind {
        Kind::UnknownIssuer => "no trusted certificate issued what the server presents",
        Kind::SelfSigned => {
            "the server's certificate is self-signed and not among the trusted ones"
        }
        Kind::IncompleteChain => "the server sends an incomplete chain",
        Kind::IssuerKeyMismatch => "the trusted CA of that name did not sign this certificate",
        Kind::Expired => "a certificate has expired",
        Kind::NotYetValid => "a certificate is not valid yet",
        Kind::NameMismatch => "the certificate is for other names",
        Kind::NoSan => "the certificate lists no names",
        Kind::IpSanMissing => "the certificate lists no IP addresses",
        Kind::NoTrust => "there are no trusted certificates at all (install ca-certificates)",
        Kind::ClientCertRequired => "the server wants a client certificate and none is configured",
        Kind::ClientCertRejected => "the server refused the client certificate",
        Kind::PlainHttp => "the port speaks plain HTTP, not TLS",
        Kind::NotTls => "the port speaks something that is not TLS",
        Kind::ProtocolVersion => "the server speaks only TLS 1.1 or older",
        Kind::NoSharedCipher => "client and server share no cipher",
        Kind::WeakKey => "the server's key is too small",
        Kind::ClosedInHandshake => {
            "the connection was closed during the TLS handshake (a firewall or name filter?)"
        }
        Kind::HandshakeTimeout => "the TLS handshake never finished",
        Kind::TcpRefused => "nothing listens on that port",
        Kind::TcpTimeout => "no answer to the connection request",
        Kind::TcpReset => "the connection was reset",
        Kind::Dns => "the host's name is not known",
        Kind::ResponseTimeout => "connected, but no answer came",
        _ => "see the first line",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::error::{AuthError, PeerCertificate, StatusError};
    use super::*;

    fn attempt(host: &str, mirror: bool, verb: &'static str, error: HostError) -> Attempt {
        let url = format!("https://{host}/v2/docker/dockerfile/manifests/experimental");
        Attempt {
            host: host.into(),
            mirror,
            verb,
            url,
            error,
        }
    }

    fn page_of(attempts: Vec<Attempt>) -> String {
        error_page(&RegistryError::AllHostsFailed {
            reference: "repo.mycompany.com/docker/dockerfile:experimental".into(),
            attempts,
        })
    }

    fn status(status: u16, message: Option<&str>) -> HostError {
        HostError::Status(StatusError {
            status,
            code: None,
            message: message.map(str::to_owned),
            head_status: None,
        })
    }

    fn unknown_issuer(host: &str) -> HostError {
        let certificate = PeerCertificate {
            subject: "CN=repo.mycompany.com, O=My Company".into(),
            issuer: "CN=My Company Issuing CA 2".into(),
            names: vec!["DNS:repo.mycompany.com".into()],
            not_before: "2026-01-03T00:00:00Z".into(),
            not_after: "2027-01-03T00:00:00Z".into(),
            key: "ECDSA P-256".into(),
            is_ca: false,
            sha256: "4F:1A".into(),
        };
        HostError::Transport(TransportError {
            kind: Kind::UnknownIssuer,
            phrase: "x509: certificate signed by unknown authority".into(),
            peer: format!("{host}:443"),
            report: Some(Arc::new(PeerReport {
                server_name: host.into(),
                chain: vec![certificate],
                trusted: vec![("the system store".into(), 142)],
                ..PeerReport::default()
            })),
        })
    }

    #[test]
    fn an_unknown_authority_shows_the_certificate_and_the_way_out() {
        let host = "repo.mycompany.com";
        insta::assert_snapshot!(
            "unknown_authority",
            page_of(vec![attempt(host, false, "Head", unknown_issuer(host))])
        );
    }

    #[test]
    fn a_mirror_with_a_bad_certificate_is_shown_before_the_404_of_the_registry() {
        let attempts = vec![
            attempt(
                "mirror.mycompany.com",
                true,
                "Head",
                unknown_issuer("mirror.mycompany.com"),
            ),
            attempt("repo.mycompany.com", false, "Get", status(404, None)),
        ];
        insta::assert_snapshot!("bad_mirror_and_404", page_of(attempts));
    }

    #[test]
    fn a_refused_login_and_a_tls_port_asked_in_plain_http() {
        let auth = HostError::Auth(AuthError {
            action: "pull",
            credentials: "user \"alice\" from /home/alice/.docker/config.json".into(),
            status: Some(401),
            by: "token service auth.mycompany.com".into(),
            message: Some("UNAUTHORIZED: incorrect username or password".into()),
            transport: None,
        });
        insta::assert_snapshot!(
            "refused_login",
            page_of(vec![attempt("repo.mycompany.com", false, "Get", auth)])
        );
        let said = Some("Client sent an HTTP request to an HTTPS server.");
        insta::assert_snapshot!(
            "tls_port_asked_in_plain_http",
            page_of(vec![attempt(
                "localhost:5000",
                false,
                "Get",
                status(400, said)
            )])
        );
    }
}
