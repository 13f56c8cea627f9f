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
    for attempt in attempts.iter().filter(|_| attempts.len() > 1) {
        let role = if attempt.mirror { "mirror" } else { "registry" };
        page.row(
            "tried",
            &format!("{role} {}: {}", attempt.host, attempt.error),
        );
    }
    page.row("registry", &registry_row(reference, first));
    explain(&mut page, first, &first.error);
    page.text
}

/// `peer` always has a port, a host only when it is not the usual one.
fn is_peer(host: &str, peer: &str) -> bool {
    let rest = peer.strip_prefix(host);
    matches!(rest, Some("" | ":443" | ":80"))
}

/// `HOST (ADDRESS, TLS 1.3) as mirror 1/2 of docker.io, through the proxy P`.
fn registry_row(reference: &str, attempt: &Attempt) -> String {
    let mut row = attempt.host.clone();
    let report = match &attempt.error {
        HostError::Transport(t) if is_peer(&attempt.host, &t.peer) => t.report.as_ref(),
        _ => None,
    };
    if let Some(connection) = report.and_then(|report| report.connection.as_ref()) {
        let _ = write!(row, " ({connection})");
    }
    if let Some((at, of)) = attempt.place {
        let domain = reference.split('/').next().unwrap_or(reference);
        let _ = write!(row, " as mirror {at}/{of} of {domain}");
    }
    if let Some(proxy) = &attempt.proxy {
        let _ = write!(row, ", through the proxy {proxy}");
    }
    row
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
                let service = &inner.1.peer;
                page.row(
                    "problem",
                    &format!(
                        "{} names {service} as its token service, and that could not be asked",
                        attempt.host
                    ),
                );
                return transport_rows(page, attempt, &inner.1);
            }
            page.row("problem", &format!("{} refused the request", auth.by));
            page.row("login", &auth.credentials);
            page.row(
                "fix",
                &format!("gateway login {}", login_name(&attempt.host)),
            );
            page.row("fix", "check the spelling: many registries answer the same for a repository that does not exist");
            if auth.action == "push" && attempt.host == "registry-1.docker.io" {
                page.row("fix", "on Docker Hub a repository has two parts, YOU/NAME");
            }
        }
        HostError::Refused { hint, .. } => page.row("problem", hint),
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
        HostError::Status(status) if wants_certificate(status) => {
            page.row("problem", "the server wants a client certificate and none is configured, or not the right one");
            certificate_fix(page, &attempt.host, None);
        }
        HostError::Status(status) if status.status == 413 => {
            page.row("problem", "the registry, or a proxy in front of it, limits the size of a request (nginx: client_max_body_size)");
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
            &format!("correct the configuration of {}", attempt.host),
        ),
        HostError::Manifest(crate::media::ManifestError::Schema1) => {
            page.row(
                "problem",
                "the image is stored in a form of before 2016 that is no longer read",
            );
            page.row("fix", "push it again with a current tool");
        }
        HostError::Manifest(crate::media::ManifestError::Html { .. }) => {
            page.row("problem", "a web page answers where the registry's API should be: a login page, or another port or path");
            page.row("fix", "a registry below a path needs a mirror with override_path, or its port in the reference");
        }
        _ => {}
    }
}

/// The name under which logins of a host are kept.
fn login_name(host: &str) -> &str {
    match host {
        "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// What front ends say that check client certificates themselves: nginx with `ssl_verify_client`.
fn wants_certificate(status: &StatusError) -> bool {
    let said = status.message.as_deref().unwrap_or_default();
    matches!(status.status, 400 | 403 | 495 | 496) && said.contains("SSL certificate")
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
        "kind": attempt.error.kind(),
        "message": attempt.error.to_string(),
    });
    let transport = match &attempt.error {
        HostError::Transport(transport) => Some(transport),
        HostError::Auth(auth) => auth.transport.as_ref().map(|inner| &inner.1),
        _ => None,
    };
    if let Some((at, of)) = attempt.place {
        value["place"] = json!([at, of]);
    }
    if let Some(proxy) = &attempt.proxy {
        value["proxy"] = json!(proxy);
    }
    if let Some(transport) = transport {
        value["peer"] = json!(transport.peer);
        // For failed logins this, and not "denied", is what went wrong.
        value["kind"] = json!(transport.kind.as_str());
        value["phrase"] = json!(transport.phrase);
        if let Some(note) = transport.report.as_ref().and_then(|r| r.note.as_ref()) {
            value["note"] = json!(note);
        }
        if let Some(asked) = transport
            .report
            .as_ref()
            .and_then(|r| r.client_cert_asked.as_ref())
        {
            value["client_cert_issuers"] = json!(asked);
        }
        let trusted = transport.report.iter().flat_map(|r| &r.trusted);
        value["trusted"] = trusted
            .map(|(from, n)| json!({ "from": from, "certificates": n }))
            .collect();
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

impl HostError {
    /// A stable name for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            HostError::Transport(transport) => transport.kind.as_str(),
            HostError::Status(status) if status.status == 404 => "not_found",
            HostError::Status(_) => "status",
            HostError::Refused { .. } => "refused",
            HostError::Auth(_) => "denied",
            HostError::Manifest(_) => "manifest",
            HostError::Digest { .. } => "digest_mismatch",
            HostError::Size { .. } => "size_mismatch",
            HostError::TooLarge { .. } => "too_large",
            HostError::Redirect(_) => "redirect",
            HostError::Body(_) => "body",
            HostError::Skipped(inner) => inner.kind(),
            HostError::Config(_) => "configuration",
        }
    }
}

fn transport_rows(page: &mut Page, attempt: &Attempt, error: &TransportError) {
    let peer = &error.peer;
    // Another host than the registry: a redirect's or a token service's.
    if !is_peer(&attempt.host, peer) {
        let connection = error.report.as_ref().and_then(|r| r.connection.as_ref());
        match connection {
            Some(connection) => page.row("peer", &format!("{peer} ({connection})")),
            None => page.row("peer", peer),
        }
    }
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
            let dir = error.report.as_ref().and_then(|r| r.certs_dir.as_ref());
            if let Some(dir) = dir {
                page.row(
                    "fix",
                    &format!(
                        "ask for the CA certificate named above as a PEM file and save it as {}",
                        dir.join("ca.crt").display()
                    ),
                );
                page.row(
                    "fix",
                    &format!("or add to the configuration: {table} ca = [\"/path/to/ca.pem\"]"),
                );
            } else {
                page.row("fix", "ask for the CA certificate named above as a PEM file, and add to the configuration:");
                page.row("fix", &format!("{table} ca = [\"/path/to/ca.pem\"]"));
            }
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
            let dir = error.report.as_ref().and_then(|r| r.certs_dir.as_deref());
            certificate_fix(page, host, dir);
        }
        Kind::SpeaksTls => page.row("fix", &format!("{table} http = false")),
        Kind::ProxyAuth => page.row(
            "fix",
            "put the login into the proxy's URL: http://USER:PASSWORD@HOST:PORT",
        ),
        Kind::ProxyRefused => page.row(
            "fix",
            "check HTTP_PROXY and HTTPS_PROXY; NO_PROXY names hosts that need no proxy",
        ),
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

fn certificate_fix(page: &mut Page, host: &str, dir: Option<&std::path::Path>) {
    if let Some(dir) = dir {
        page.row(
            "fix",
            &format!(
                "save the client certificate and its key as {}/client.cert and client.key",
                dir.display()
            ),
        );
    }
    let table = format!("[registry.{host:?}]");
    page.row(
        "fix",
        &format!("{table} keypair = [{{ key = \"client.key\", cert = \"client.cert\" }}]"),
    );
}

fn report_rows(page: &mut Page, report: &PeerReport) {
    for (at, certificate) in report.chain.iter().enumerate() {
        page.row(
            "presented",
            &format!("[{at}] subject {}", certificate.subject),
        );
        let left = match certificate.left.as_str() {
            "" => String::new(),
            left => format!(" ({left})"),
        };
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
                "    valid   {} .. {}{left}",
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
        Kind::SpeaksTls => {
            "the port speaks TLS, and was asked in plain HTTP (the default for local hosts)"
        }
        Kind::ProxyRefused => {
            "the proxy could not be reached, or does not let this host be reached"
        }
        Kind::ProxyAuth => "the proxy wants a login",
        Kind::UnsupportedKey => "a certificate's key is of a kind that is not supported",
        Kind::WeakSignature => {
            "a certificate is signed with an algorithm that is no longer trusted"
        }
        Kind::WrongEku => "the certificate is not meant for servers",
        Kind::NotACa => "the certificate was issued by one that may not issue any",
        Kind::NameConstraint => {
            "an authority in the chain may not issue certificates for this name"
        }
        Kind::CriticalExtension => "a certificate holds a demand that is not understood here",
        Kind::CertVersion => "the certificate is of an old version that names no hosts",
        Kind::BadSignature => "the server could not prove that the certificate is its own",
        Kind::SniRefused => "the server has nothing under this name",
        Kind::Revoked => "a certificate was revoked",
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
            place: mirror.then_some((1, 2)),
            proxy: None,
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
            redirected_to: None,
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
            left: "43 days left".into(),
        };
        HostError::Transport(TransportError {
            kind: Kind::UnknownIssuer,
            phrase: "x509: certificate signed by unknown authority".into(),
            peer: format!("{host}:443"),
            url: None,
            proxy: None,
            report: Some(Arc::new(PeerReport {
                server_name: host.into(),
                chain: vec![certificate],
                trusted: vec![("the system store".into(), 142)],
                certs_dir: Some(format!("/etc/docker/certs.d/{host}").into()),
                connection: Some("10.1.2.3, TLS 1.3".into()),
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
