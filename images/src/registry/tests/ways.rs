//! Whatever is wrong with a peer is told in the same words when it is pulled from, pushed to, and asked for a token.

use std::io::{Read as _, Write as _};

use super::certificates::{authority, port, rows, wants_client};
use super::tls::faults;
use super::*;

/// A peer with one fault.
struct Bad {
    name: String,
    host: String,
    settings: HostConfig,
    kind: Kind,
    words: String,
    /// Lives as long as it is asked.
    _trust: Option<NamedTempFile>,
}

fn bad(name: &str, host: String, kind: Kind, words: &str) -> Bad {
    Bad {
        name: name.into(),
        host,
        settings: HostConfig {
            http: Some(false),
            ..HostConfig::default()
        },
        kind,
        words: words.into(),
        _trust: None,
    }
}

async fn bad_tls(name: &str, made: Made, kind: Kind, words: &str) -> Bad {
    let server = Server::tls(made.server, good).await;
    Bad {
        settings: trusting(&made.trust),
        _trust: Some(made.trust),
        ..bad(name, server.host(), kind, words)
    }
}

/// One of each class that can be played in this process; openssl plays the rest.
async fn peers() -> Vec<Bad> {
    let mut all = Vec::new();
    for row in rows() {
        all.push(bad_tls(row.name, row.made, row.kind, row.words).await);
    }
    for (made, kind, words) in faults() {
        all.push(bad_tls(kind.as_str(), made, kind, words).await);
    }
    let words =
        "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs";
    let mut address = bad_tls(
        "address",
        issued(&["localhost"], |_| {}),
        Kind::IpSanMissing,
        words,
    )
    .await;
    address.host = address.host.replace("localhost", "127.0.0.1");
    all.push(address);
    let unknown = "x509: certificate signed by unknown authority";
    let mut trusts_none = bad_tls(
        "no trust",
        issued(&["localhost"], |_| {}),
        Kind::NoTrust,
        unknown,
    )
    .await;
    trusts_none.settings.ca.clear();
    all.push(trusts_none);
    for (version, words) in [
        (&rustls::version::TLS12, "remote error: tls: "),
        (
            &rustls::version::TLS13,
            "remote error: tls: certificate required",
        ),
    ] {
        let (root, ..) = authority("Clients", |_| {});
        let (server, trust) = wants_client(&[&root], &[version]);
        let made = Made { server, trust };
        all.push(bad_tls("client certificate", made, Kind::ClientCertRequired, words).await);
    }
    let plain = Server::plain(good).await;
    let words = "http: server gave HTTP response to HTTPS client";
    all.push(bad("plain", plain.host(), Kind::PlainHttp, words));
    let banner = port(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        let _ = stream.read(&mut [0; 512]);
    });
    let words = "tls: first record does not look like a TLS handshake";
    all.push(bad("banner", banner, Kind::NotTls, words));
    let closing = port(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    all.push(bad("closing", closing, Kind::ClosedInHandshake, "EOF"));
    for (alert, kind, words) in [
        (
            112,
            Kind::SniRefused,
            "remote error: tls: unrecognized name",
        ),
        (
            70,
            Kind::ProtocolVersion,
            "remote error: tls: protocol version not supported",
        ),
        (
            40,
            Kind::NoSharedCipher,
            "remote error: tls: handshake failure",
        ),
    ] {
        let host = port(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&[0x15, 0x03, 0x03, 0, 2, 2, alert]);
        });
        all.push(bad(kind.as_str(), host, kind, words));
    }
    let silent = port(|stream| {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(20));
            drop(stream);
        });
    });
    let words = "net/http: TLS handshake timeout";
    let mut silent = bad("silent", silent, Kind::HandshakeTimeout, words);
    silent.settings.connect = Some(Duration::from_millis(500));
    all.push(silent);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = format!("localhost:{}", free.local_addr().unwrap().port());
    drop(free);
    all.push(bad(
        "refused",
        refused,
        Kind::TcpRefused,
        "connect: connection refused",
    ));
    let nowhere = "no-such-host.invalid".to_owned();
    all.push(bad("unknown", nowhere, Kind::Dns, "no such host"));
    all
}

fn client_for(peer: &Bad) -> Registries {
    Registries::new(RegistriesConfig {
        hosts: BTreeMap::from([(peer.host.clone(), peer.settings.clone())]),
        ..config()
    })
}

/// The line, the page and the JSON name the peer, what was asked of it, and what is wrong.
fn told(peer: &Bad, way: &str, asked: &str, error: &RegistryError) {
    let (text, page) = (error.to_string(), error_page(error));
    let name = format!("{} when {way}", peer.name);
    let request = format!(" https://{}/{asked}", peer.host);
    assert!(text.contains(&request), "{name}: {request:?} in {text}");
    assert!(text.contains(&peer.words), "{name}: {text}");
    assert!(page.contains("problem    "), "{name}: {page}");
    assert!(page.contains(&peer.host), "{name}: {page}");
    let json = error_json(error);
    assert_eq!(
        json["attempts"][0]["kind"],
        peer.kind.as_str(),
        "{name}: {text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_of_fault_is_told_alike_when_pulling_pushing_and_fetching_tokens() {
    let s = sample();
    let root = Descriptor::of(OCI_INDEX, &s.index);
    let source: BTreeMap<Digest, bytes::Bytes> = [s.config, s.layer, s.manifest, s.index]
        .into_iter()
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect();
    for peer in peers().await {
        let reference = image(&peer.host);
        let error = client_for(&peer).resolve(&reference).await.unwrap_err();
        told(&peer, "pulling", "v2/r/manifests/latest", &error);

        let error = client_for(&peer)
            .push(&reference, &root, &source)
            .await
            .unwrap_err();
        told(&peer, "pushing", "v2/r/", &error);

        let challenge = format!("Bearer realm=\"https://{}/token\"", peer.host);
        let registry =
            Server::plain(move |_| reply(401, "").with("www-authenticate", challenge.clone()))
                .await;
        let error = client_for(&peer)
            .resolve(&image(&registry.host()))
            .await
            .unwrap_err();
        told(&peer, "fetching a token", "token", &error);
        let words = format!("{} names {}", registry.host(), peer.host);
        let page = error_page(&error);
        assert!(page.contains(&words), "{}: {page}", peer.name);
    }
}
