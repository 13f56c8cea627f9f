use super::*;

#[tokio::test]
async fn one_token_serves_many_requests_and_is_asked_with_the_scope() {
    let server = Server::plain(|seen| {
        if seen.path.starts_with("/token") {
            return reply(
                200,
                r#"{"token":"","access_token":"tok","expires_in":"300"}"#,
            );
        }
        match seen.header("authorization") {
            Some("Bearer tok") => good(seen),
            _ => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\""),
        }
    })
    .await;
    let registries = Registries::new(config());
    let reference = image(&server.host());
    registries.image(&reference, &amd64()).await.unwrap();
    read(&registries, &reference, &sample().layer)
        .await
        .unwrap();
    let asked: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|s| s.path.starts_with("/token"))
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].path,
        "/token?service=s&scope=repository%3Ar%3Apull"
    );
}

#[tokio::test]
async fn a_token_service_that_wants_the_other_verb_gets_it() {
    let server = Server::plain(
        |seen| match (seen.method.as_str(), seen.path.split('?').next()) {
            ("POST", Some("/token")) => reply(400, ""),
            ("GET", Some("/token")) => match seen.header("authorization") {
                Some(_) => reply(200, r#"{"token":"tok"}"#),
                None => reply(401, ""),
            },
            _ => match seen.header("authorization") {
                Some("Bearer tok") => good(seen),
                _ => {
                    reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\"")
                }
            },
        },
    )
    .await;
    let login = Credential::IdentityToken("refresh".into());
    let credentials = Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    registries.resolve(&image(&server.host())).await.unwrap();
    let post = server
        .seen()
        .into_iter()
        .find(|s| s.method == "POST")
        .unwrap();
    assert!(
        String::from_utf8(post.body)
            .unwrap()
            .contains("grant_type=refresh_token")
    );
}

#[tokio::test]
async fn a_refused_login_says_whose_it_was_and_never_the_secret() {
    let server = Server::plain(|_| {
        reply(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#,
        )
        .with("www-authenticate", "Basic realm=\"r\"")
    })
    .await;
    let login = Credential::Basic {
        username: "alice".into(),
        password: "hunter2".into(),
    };
    let credentials = Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let text = format!("{error}\n{error:?}\n{}", error_page(&error));
    assert!(
        text.contains("pull access denied") && text.contains("alice"),
        "{text}"
    );
    assert!(
        !text.contains("hunter2") && !text.contains("aHVudGVyM"),
        "{text}"
    );
    assert!(server.seen().len() <= 3, "no endless login");
}

#[tokio::test]
async fn a_registry_that_hides_behind_404_is_pinged_for_its_challenge() {
    let server = Server::plain(|seen| {
        let challenge = || reply(401, "").with("www-authenticate", "Basic realm=\"r\"");
        match (seen.path.as_str(), seen.header("authorization")) {
            ("/v2/", _) => challenge(),
            (_, None) => reply(404, ""),
            (_, Some(_)) => good(seen),
        }
    })
    .await;
    let login = Credential::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let credentials = Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    registries.resolve(&image(&server.host())).await.unwrap();
}

#[tokio::test]
async fn a_broken_credential_helper_matters_only_when_access_is_refused() {
    let server = Server::plain(|seen| {
        if seen.path.starts_with("/token") {
            return reply(200, r#"{"token":"tok"}"#);
        }
        match (seen.header("authorization"), seen.path.contains("private")) {
            (Some(_), false) => good(seen),
            (Some(_), true) => reply(403, ""),
            (None, _) => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\""),
        }
    })
    .await;
    let json = br#"{"credsStore":"absent"}"#;
    let docker = DockerConfig::parse(json, std::path::Path::new("config.json")).unwrap();
    let credentials = Arc::new(docker.with_helper_path("/nonexistent"));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    registries.resolve(&image(&server.host())).await.unwrap();
    let private = image(&server.host()).with_tag("private").unwrap();
    let error = registries.resolve(&private).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("docker-credential-absent: executable file not found"),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_is_not_used_for_another_login() {
    let server = Server::plain(|seen| {
        let who = seen.header("authorization").unwrap_or("none").to_owned();
        if seen.path.starts_with("/token") {
            let token = if who == "Basic YTph" {
                "for-a"
            } else {
                "for-b"
            };
            return reply(200, format!(r#"{{"token":"{token}","expires_in":300}}"#));
        }
        match who.as_str() {
            "none" => {
                reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\"")
            }
            _ => good(seen),
        }
    })
    .await;
    let login = |name: &str| {
        let login = Credential::Basic {
            username: name.into(),
            password: name.into(),
        };
        Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])))
    };
    let first = Registries::new(RegistriesConfig {
        credentials: login("a"),
        ..config()
    });
    first.resolve(&image(&server.host())).await.unwrap();
    assert_eq!(
        server.seen().last().unwrap().header("authorization"),
        Some("Bearer for-a")
    );
    first
        .with_credentials(login("b"))
        .resolve(&image(&server.host()))
        .await
        .unwrap();
    assert_eq!(
        server.seen().last().unwrap().header("authorization"),
        Some("Bearer for-b")
    );
}

#[tokio::test]
async fn logins_for_repositories_of_one_host_go_to_their_repositories() {
    let server = Server::plain(|seen| match seen.header("authorization") {
        Some(_) => good(seen),
        None => reply(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let host = server.host();
    let json =
        format!(r#"{{"auths":{{"{host}":{{"auth":"aDpw"}},"{host}/r/team":{{"auth":"YTpw"}}}}}}"#);
    let logins = DockerConfig::parse(json.as_bytes(), std::path::Path::new("auth.json")).unwrap();
    let registries = Registries::new(RegistriesConfig {
        credentials: Arc::new(logins),
        ..config()
    });
    for (name, sent) in [("r", "Basic aDpw"), ("r/team/app", "Basic YTpw")] {
        let reference = Reference::parse(&format!("{host}/{name}:latest")).unwrap();
        let _ = registries.resolve(&reference).await;
        let seen = server.seen();
        assert_eq!(seen.last().unwrap().header("authorization"), Some(sent));
    }
}

#[tokio::test]
async fn a_busy_token_service_is_asked_again_and_parallel_requests_share_a_token() {
    let times = AtomicUsize::new(0);
    let server = Server::plain(move |seen| {
        if seen.path.starts_with("/token") {
            return match times.fetch_add(1, Ordering::Relaxed) {
                0 => reply(503, ""),
                _ => reply(200, r#"{"token":"tok","expires_in":300}"#),
            };
        }
        match seen.header("authorization") {
            Some(_) => good(seen),
            None => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\""),
        }
    })
    .await;
    let (registries, reference) = (Registries::new(config()), image(&server.host()));
    let all = (0..8).map(|_| registries.resolve(&reference));
    futures_util::future::try_join_all(all).await.unwrap();
    assert_eq!(server.count("GET", "/token"), 2);
}
