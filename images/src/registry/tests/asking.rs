//! Logins in the odd ways that registries want them, and where logins must never go.

use super::*;

fn with_login(host: &str) -> RegistriesConfig {
    let login = Credential::Basic {
        username: "alice".into(),
        password: "hunter2".into(),
    };
    RegistriesConfig {
        credentials: Arc::new(FixedCredentials(BTreeMap::from([(host.to_owned(), login)]))),
        ..config()
    }
}

#[tokio::test]
async fn row_22_a_refusal_that_speaks_of_authorization_is_a_call_to_log_in() {
    for status in [400, 403] {
        let server = Server::plain(move |seen| match seen.header("authorization") {
            Some(_) => good(seen),
            None => reply(
                status,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}"#,
            )
            .with("www-authenticate", "Basic realm=\"r\""),
        })
        .await;
        let registries = Registries::new(with_login(&server.host()));
        registries.resolve(&image(&server.host())).await.unwrap();
    }
}

#[tokio::test]
async fn check_62_a_login_is_sent_to_hosts_that_refuse_without_saying_how_to_log_in() {
    for status in [401, 403] {
        let server =
            Server::plain(
                move |seen| match (seen.header("authorization"), seen.path.as_str()) {
                    (Some(_), _) => good(seen),
                    (None, "/v2/") => reply(200, ""),
                    (None, _) => reply(status, ""),
                },
            )
            .await;
        let registries = Registries::new(with_login(&server.host()));
        let found = registries.resolve(&image(&server.host())).await.unwrap();
        assert_eq!(found.notices.len(), 1, "{:?}", found.notices);
        // Without a login nothing is tried, and the answer says so.
        let anonymous = Registries::new(config());
        let error = anonymous.resolve(&image(&server.host())).await.unwrap_err();
        assert!(error.to_string().contains("credentials: none"), "{error}");
    }
}

#[tokio::test]
async fn row_26_a_token_that_is_too_new_is_tried_again_after_a_pause() {
    let uses = AtomicUsize::new(0);
    let server = Server::plain(move |seen| {
        if seen.path.starts_with("/token") {
            return reply(200, r#"{"token":"tok"}"#);
        }
        let challenge = || {
            reply(401, "").with(
                "www-authenticate",
                "Bearer realm=\"/token\",error=\"invalid_token\"",
            )
        };
        match seen.header("authorization") {
            Some(_) if uses.fetch_add(1, Ordering::Relaxed) > 0 => good(seen),
            _ => challenge(),
        }
    })
    .await;
    let registries = Registries::new(config());
    let found = registries.resolve(&image(&server.host())).await.unwrap();
    assert!(
        found.notices[0].contains("refused a token that was just issued"),
        "{:?}",
        found.notices
    );
}

#[tokio::test]
async fn check_54_a_refused_get_of_a_token_is_followed_by_a_post() {
    let server = Server::plain(|seen| {
        match (
            seen.method.as_str(),
            seen.path.starts_with("/token"),
            seen.header("authorization"),
        ) {
            ("GET", true, _) => reply(405, ""),
            ("POST", true, _) => {
                let form = String::from_utf8_lossy(&seen.body).into_owned();
                assert!(
                    form.contains("grant_type=password&username=alice&password=hunter2"),
                    "{form}"
                );
                assert!(
                    form.contains("client_id=") && form.contains("service=s"),
                    "{form}"
                );
                reply(200, r#"{"access_token":"tok"}"#)
            }
            (_, _, Some("Bearer tok")) => good(seen),
            _ => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\""),
        }
    })
    .await;
    let registries = Registries::new(with_login(&server.host()));
    let found = registries.resolve(&image(&server.host())).await.unwrap();
    assert!(
        found.notices[0].contains("its token service answers GET with 405"),
        "{:?}",
        found.notices
    );
}

#[tokio::test]
async fn check_60_and_61_a_relative_realm_is_meant_from_what_was_asked_for() {
    let server = Server::plain(|seen| match seen.path.split('?').next() {
        Some("/v2/r/manifests/token") => reply(200, r#"{"token":"tok"}"#),
        _ => match seen.header("authorization") {
            Some("Bearer tok") => good(seen),
            _ => reply(401, "")
                .with("www-authenticate", "BASIC realm=\"a, \\\"b\\\"\"")
                .with("www-authenticate", "Negotiate, Bearer realm=\"token\""),
        },
    })
    .await;
    let registries = Registries::new(config());
    registries.resolve(&image(&server.host())).await.unwrap();
}

#[tokio::test]
async fn check_65_a_token_without_the_right_is_refused_in_clear_words() {
    let server = Server::plain(|seen| {
        if seen.path.starts_with("/token") {
            return reply(200, r#"{"token":"tok"}"#);
        }
        let error = match seen.header("authorization") {
            Some(_) => ",error=\"insufficient_scope\"",
            None => "",
        };
        let challenge = format!("Bearer realm=\"/token\"{error}");
        reply(401, r#"{"errors":[{"code":"DENIED","message":"private"}]}"#)
            .with("www-authenticate", challenge)
    })
    .await;
    let error = Registries::new(config())
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("pull access denied") && text.contains("DENIED: private"),
        "{text}"
    );
    assert!(text.contains("credentials: none"), "{text}");
    assert!(server.seen().len() <= 5);
}

#[tokio::test]
async fn check_67_a_mirror_never_gets_the_login_of_the_registry() {
    let mirror =
        Server::plain(|_| reply(401, "").with("www-authenticate", "Basic realm=\"m\"")).await;
    let server = Server::plain(|seen| match seen.header("authorization") {
        Some(_) => good(seen),
        None => reply(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let settings = HostConfig {
        mirrors: vec![mirror.host().into()],
        ..HostConfig::default()
    };
    let registries = Registries::new(RegistriesConfig {
        hosts: BTreeMap::from([(server.host(), settings)]),
        ..with_login(&server.host())
    });
    registries.resolve(&image(&server.host())).await.unwrap();
    assert!(!mirror.seen().is_empty());
    assert!(
        mirror
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn check_70_a_token_service_with_a_bad_certificate_is_named() {
    let made = issued(&["localhost"], |_| {});
    let service = Server::tls(made.server, |_| reply(200, "{}")).await;
    let realm = format!("https://{}/token", service.host());
    let challenge = format!("Bearer realm=\"{realm}\"");
    let server =
        Server::plain(move |_| reply(401, "").with("www-authenticate", challenge.clone())).await;
    let error = Registries::new(config())
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let text = error.to_string();
    let header = format!(
        "failed to fetch anonymous token: Get {realm}: x509: certificate signed by unknown authority"
    );
    assert!(text.contains(&header), "{text}");
    let page = error_page(&error);
    let words = format!(
        "{} names {} as its token service",
        server.host(),
        service.host()
    );
    assert!(
        page.contains(&words) && page.contains("issuer  CN=Acme Root CA"),
        "{page}"
    );
    assert_eq!(error_json(&error)["attempts"][0]["kind"], "no_trust");
}

/// Check 69: whatever goes wrong, no secret is in any text.
#[tokio::test]
async fn check_69_no_secret_is_in_any_error_page_json_debug_form_or_notice() {
    let secrets = [
        "hunter2",
        "YWxpY2U6aHVudGVyMg",
        "tok3n-s3cret",
        "sig=abc",
        "h3ader",
    ];
    let answers: [fn(&Seen) -> Reply; 5] = [
        |_| reply(401, "").with("www-authenticate", "Basic realm=\"r\""),
        |seen| match seen.path.starts_with("/token") {
            true => reply(200, r#"{"token":"tok3n-s3cret"}"#),
            false => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\""),
        },
        |seen| match seen.path.starts_with("/token") {
            true => reply(403, r#"{"details":"no"}"#),
            false => reply(401, "").with("www-authenticate", "Bearer realm=\"/token?sig=abc\""),
        },
        |seen| match seen.path.contains("sig=abc") {
            true => reply(403, ""),
            false => reply(307, "").with("location", "/elsewhere?sig=abc"),
        },
        |_| reply(307, "").with("location", "http://localhost:1/x?sig=abc"),
    ];
    for answer in answers {
        let server = Server::plain(answer).await;
        let settings = HostConfig {
            headers: vec![Header {
                name: "x-key".into(),
                value: "h3ader".into(),
            }],
            ..HostConfig::default()
        };
        let registries = Registries::new(RegistriesConfig {
            hosts: BTreeMap::from([(server.host(), settings)]),
            proxy: Some(ProxyConfig {
                https: Some("http://u:hunter2@localhost:1".into()),
                ..ProxyConfig::default()
            }),
            ..with_login(&server.host())
        });
        let error = registries
            .resolve(&image(&server.host()))
            .await
            .unwrap_err();
        let options = CheckOptions {
            push: true,
            platform: amd64(),
        };
        let check = registries
            .check(&image(&server.host()), &options, &mut |_| {})
            .await;
        let text = format!(
            "{error}\n{error:?}\n{}\n{}\n{check:?}\n{registries:?}\n{:?}",
            error_page(&error),
            error_json(&error),
            registries.take_notices()
        );
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert_eq!(server.seen()[0].header("x-key"), Some("h3ader"));
    }
}

#[tokio::test]
async fn check_47_the_proxy_is_asked_with_its_login_and_named_when_it_refuses() {
    let proxy = Server::plain(|seen| match seen.header("proxy-authorization") {
        Some("Basic dTpodW50ZXIy") if seen.method == "CONNECT" => reply(502, ""),
        Some(_) => good(&Seen {
            path: seen
                .path
                .split("r.invalid")
                .nth(1)
                .unwrap_or_default()
                .to_owned(),
            ..seen.clone()
        }),
        None => reply(407, ""),
    })
    .await;
    let through = |login: &str, http: bool| {
        let url = format!("http://{login}{}", proxy.host());
        let settings = HostConfig {
            http: Some(http),
            ..HostConfig::default()
        };
        Registries::new(RegistriesConfig {
            proxy: Some(ProxyConfig {
                http: Some(url.clone()),
                https: Some(url),
                no_proxy: None,
            }),
            hosts: BTreeMap::from([("r.invalid".to_owned(), settings)]),
            ..config()
        })
    };
    // The name is never looked up here: only the proxy knows it.
    through("u:hunter2@", true)
        .resolve(&image("r.invalid"))
        .await
        .unwrap();
    for (login, expected, words) in [
        (
            "",
            Kind::ProxyAuth,
            "proxyconnect tcp: Proxy Authentication Required",
        ),
        ("u:hunter2@", Kind::ProxyRefused, "proxyconnect tcp: "),
    ] {
        let error = through(login, false)
            .resolve(&image("r.invalid"))
            .await
            .unwrap_err();
        assert_eq!(kind(&error), expected, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let page = error_page(&error);
        assert!(
            page.contains(&format!("through the proxy {}", proxy.host())),
            "{page}"
        );
        assert!(!page.contains("hunter2"), "{page}");
    }
}

/// A SOCKS proxy for one user that leads to `to`, whatever name it is asked for; and those names.
fn socks_proxy(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let names = asked.clone();
    let serve = move |mut stream: std::net::TcpStream| -> std::io::Result<()> {
        let text = |stream: &mut std::net::TcpStream| {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            let mut text = vec![0; length[0].into()];
            stream.read_exact(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        stream.read_exact(&mut [0])?;
        if !text(&mut stream)?.contains(&2) {
            return stream.write_all(&[5, 0xff]);
        }
        stream.write_all(&[5, 2])?;
        stream.read_exact(&mut [0])?;
        let login = [text(&mut stream)?, text(&mut stream)?];
        let good = login == [b"u".to_vec(), b"hunter@2".to_vec()];
        stream.write_all(&[1, u8::from(!good)])?;
        let mut request = [0; 4];
        stream.read_exact(&mut request)?;
        assert_eq!(request, [5, 1, 0, 3], "by its name");
        let name = text(&mut stream)?;
        let mut port = [0; 2];
        stream.read_exact(&mut port)?;
        let name = format!(
            "{}:{}",
            String::from_utf8_lossy(&name),
            u16::from_be_bytes(port)
        );
        names.lock().unwrap().push(name);
        let mut there = std::net::TcpStream::connect(&to)?;
        stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80])?;
        let (mut back, mut forth) = (there.try_clone()?, stream.try_clone()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut forth);
            let _ = forth.shutdown(std::net::Shutdown::Write);
        });
        std::io::copy(&mut stream, &mut there)?;
        there.shutdown(std::net::Shutdown::Write)
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, stream) = (serve.clone(), stream.unwrap());
            std::thread::spawn(move || serve(stream));
        }
    });
    (address, asked)
}

#[tokio::test]
async fn check_47_a_socks_proxy_is_asked_for_names_with_its_login() {
    let server = Server::plain(good).await;
    let port = server.host().rsplit_once(':').unwrap().1.to_owned();
    let (proxy, asked) = socks_proxy(format!("127.0.0.1:{port}"));
    let through = |scheme: &str, login: &str| {
        let settings = HostConfig {
            http: Some(true),
            ..HostConfig::default()
        };
        Registries::new(RegistriesConfig {
            proxy: Some(ProxyConfig {
                http: Some(format!("{scheme}://{login}{proxy}")),
                ..ProxyConfig::default()
            }),
            hosts: BTreeMap::from([("r.invalid".to_owned(), settings)]),
            ..config()
        })
    };
    for scheme in ["socks5", "socks5h"] {
        let registries = through(scheme, "u:hunter%402@");
        registries.resolve(&image("r.invalid")).await.unwrap();
        assert_eq!(asked.lock().unwrap().pop().as_deref(), Some("r.invalid:80"));
        let options = CheckOptions {
            push: false,
            platform: amd64(),
        };
        let check = registries
            .check(&image("r.invalid"), &options, &mut |_| {})
            .await;
        let text = format!("{check:?}");
        assert!(text.contains("opened a tunnel"), "{text}");
        assert!(!text.contains("hunter"), "{text}");
    }
    for login in ["", "u:wrong@"] {
        let registries = through("socks5", login);
        let error = registries.resolve(&image("r.invalid")).await.unwrap_err();
        assert_eq!(kind(&error), Kind::ProxyAuth, "{error}");
        let page = error_page(&error);
        let words = format!("through the proxy {proxy}");
        assert!(page.contains(&words), "{page}");
    }
}
