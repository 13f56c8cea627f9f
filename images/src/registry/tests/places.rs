//! Which hosts are asked: order, fall-through, capabilities, paths, rules.

use super::*;
use crate::registry::config::{PrefixMirror, PrefixRule};

fn mirrored(server: &Server, mirrors: Vec<Mirror>) -> HostConfig {
    let _ = server;
    HostConfig {
        mirrors,
        ..HostConfig::default()
    }
}

#[tokio::test]
async fn check_72_whatever_a_mirror_answers_the_registry_is_asked_and_the_reason_is_told() {
    type Answer = fn(&Seen) -> Reply;
    let answers: [(&str, Answer); 9] = [
        ("404", |_| reply(404, "")),
        ("403", |_| reply(403, "")),
        ("429", |_| reply(429, "").with("retry-after", "0")),
        ("503", |_| reply(503, "")),
        ("pull access denied", |_| reply(401, "")),
        ("token service", |seen| {
            match seen.path.starts_with("/token") {
                true => reply(401, ""),
                false => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\""),
            }
        }),
        ("unexpected digest", |_| {
            reply(200, sample().index).with("docker-content-digest", digest(b"x"))
        }),
        ("not valid JSON", |_| {
            reply(200, "{").with("content-type", "application/json")
        }),
        ("HTML page", |_| reply(200, "<html>")),
    ];
    for (words, answer) in answers {
        let mirror = Server::plain(answer).await;
        let server = Server::plain(good).await;
        let registries = with_host(
            &server.host(),
            mirrored(&server, vec![mirror.host().into()]),
        );
        let found = registries.resolve(&image(&server.host())).await.unwrap();
        assert_eq!(found.host, server.host());
        let told = format!(
            "mirror {} of {} was passed over: ",
            mirror.host(),
            server.host()
        );
        let line = found.notices.iter().find(|line| line.starts_with(&told));
        assert!(
            line.is_some_and(|line| line.contains(words)),
            "{words}: {:?}",
            found.notices
        );
    }
}

#[tokio::test]
async fn check_71_and_79_mirrors_are_asked_in_order_and_the_registry_only_where_it_may() {
    let first = Server::plain(|_| reply(404, "")).await;
    let second = Server::plain(good).await;
    let server = Server::plain(good).await;
    let mirrors: Vec<Mirror> = vec![first.host().into(), second.host().into()];
    let registries = with_host(&server.host(), mirrored(&server, mirrors.clone()));
    let found = registries.resolve(&image(&server.host())).await.unwrap();
    assert_eq!(found.host, second.host());
    assert_eq!(first.count("GET", "/v2/r/manifests/latest"), 1);
    assert!(server.seen().is_empty());
    let settings = HostConfig {
        mirrors: vec![first.host().into()],
        fallback: Some(false),
        ..HostConfig::default()
    };
    let error = with_host(&server.host(), settings)
        .resolve(&image(&server.host()))
        .await;
    let RegistryError::AllHostsFailed { attempts, .. } = error.unwrap_err() else {
        panic!("another error")
    };
    assert_eq!((attempts.len(), attempts[0].place), (1, Some((1, 1))));
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn check_80_a_host_without_resolve_serves_digests_only_and_has_its_own_path_and_headers() {
    let storage = Server::plain(|_| reply(200, sample().layer)).await;
    let target = format!("http://{}/x", storage.host());
    let mirror = Server::plain(
        move |seen| match seen.path.contains(&digest(&sample().layer)) {
            true => reply(307, "").with("location", target.clone()),
            false => good(&Seen {
                path: seen.path.replace("/base/hub/", "/v2/"),
                ..seen.clone()
            }),
        },
    )
    .await;
    let server = Server::plain(good).await;
    let text = format!(
        "[host.\"http://{}/base/hub\"]\ncapabilities = [\"pull\"]\noverride_path = true\n\
         [host.\"http://{}/base/hub\".header]\nx-key = \"k\"\n",
        mirror.host(),
        mirror.host()
    );
    let (settings, _) = parse_hosts_toml(&text, std::path::Path::new("/")).unwrap();
    let registries = with_host(&server.host(), settings);
    let reference = image(&server.host());
    registries.image(&reference, &amd64()).await.unwrap();
    assert_eq!(server.count("GET", "/v2/r/manifests/latest"), 1);
    let child = format!("/base/hub/r/manifests/{}", digest(&sample().manifest));
    assert_eq!(mirror.count("GET", &child), 1);
    let ns = format!("ns=localhost%3A{}", server.port);
    assert!(
        mirror.seen().iter().all(|seen| seen.path.ends_with(&ns)),
        "{:?}",
        mirror.seen()
    );
    assert!(
        mirror
            .seen()
            .iter()
            .all(|seen| seen.header("x-key") == Some("k"))
    );
    let layer = sample().layer;
    assert_eq!(read(&registries, &reference, &layer).await.unwrap(), layer);
    // Headers of a host are for that host.
    assert_eq!(storage.seen()[0].header("x-key"), None);
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].header("x-key"), None);
}

#[tokio::test]
async fn sentence_4_rules_by_prefix_move_names_choose_mirrors_and_block() {
    let server = Server::plain(|seen| {
        good(&Seen {
            path: seen.path.replace("/v2/moved/", "/v2/"),
            ..seen.clone()
        })
    })
    .await;
    let cache = Server::plain(|_| reply(404, "")).await;
    let rule = |prefix: &str, location: String| PrefixRule {
        prefix: prefix.into(),
        location,
        ..PrefixRule::default()
    };
    let mut hub = rule("docker.io/team", format!("{}/moved", server.host()));
    hub.mirrors = vec![PrefixMirror {
        location: format!("{}/cache", cache.host()),
        insecure: false,
        by_digest: true,
        by_tag: false,
    }];
    let mut blocked = rule("docker.io", String::new());
    blocked.blocked = true;
    let registries = Registries::new(RegistriesConfig {
        rules: vec![blocked, hub],
        ..config()
    });
    let found = registries
        .resolve(&Reference::parse("team/r").unwrap())
        .await
        .unwrap();
    assert_eq!(found.host, server.host());
    assert!(cache.seen().is_empty(), "the mirror is for digests");
    let pinned = format!("team/r@{}", digest(&sample().manifest));
    registries
        .resolve(&Reference::parse(&pinned).unwrap())
        .await
        .unwrap();
    let asked = format!("/v2/cache/r/manifests/{}", digest(&sample().manifest));
    assert_eq!(cache.count("GET", &asked), 1);
    let error = registries
        .resolve(&Reference::parse("other/x").unwrap())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("blocked by the rule for \"docker.io\""),
        "{error}"
    );
}

#[tokio::test]
async fn check_75_a_mirror_is_trusted_by_its_own_table_alone() {
    let made = issued(&["localhost"], |_| {});
    let mirror = Server::tls(made.server, good).await;
    let server = Server::plain(good).await;
    let parent = HostConfig {
        mirrors: vec![mirror.host().into()],
        http: Some(true),
        insecure: None,
        ..HostConfig::default()
    };
    for (own, expected) in [
        (trusting(&made.trust), mirror.host()),
        (
            HostConfig {
                http: Some(false),
                ..HostConfig::default()
            },
            server.host(),
        ),
    ] {
        let registries = Registries::new(RegistriesConfig {
            hosts: BTreeMap::from([(server.host(), parent.clone()), (mirror.host(), own)]),
            ..config()
        });
        let found = registries.resolve(&image(&server.host())).await.unwrap();
        assert_eq!(found.host, expected);
        let skipped = expected == server.host();
        assert_eq!(
            found
                .notices
                .iter()
                .any(|n| n.contains("x509: certificate signed by unknown authority")),
            skipped
        );
    }
}

#[tokio::test]
async fn sentence_4_settings_that_cannot_be_used_are_told_when_their_host_is() {
    let hosts = BTreeMap::from([(
        "h.example".to_owned(),
        HostConfig {
            broken: Some("/etc/x/hosts.toml: server must be a URL".into()),
            ..HostConfig::default()
        },
    )]);
    let registries = Registries::new(RegistriesConfig { hosts, ..config() });
    let error = registries.resolve(&image("h.example")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/etc/x/hosts.toml: server must be a URL"),
        "{error}"
    );
}

fn options(push: bool) -> CheckOptions {
    CheckOptions {
        push,
        platform: amd64(),
    }
}

fn steps(check: &Check) -> Vec<(&'static str, Verdict)> {
    check
        .steps
        .iter()
        .map(|step| (step.name, step.verdict))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentence_6_the_doctor_takes_every_step_and_tells_what_is_odd() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, |seen| {
        match (seen.method.as_str(), seen.path.as_str()) {
            (_, "/v2/") => reply(200, "{}"),
            ("HEAD", _) => reply(404, ""),
            ("POST", "/v2/r/blobs/uploads/") => {
                reply(202, "").with("location", "/v2/r/blobs/uploads/1")
            }
            ("DELETE", _) => reply(204, ""),
            _ => good(seen),
        }
    })
    .await;
    let registries = with_host(&server.host(), trusting(&made.trust));
    let mut heard = Vec::new();
    let check = registries
        .check(&image(&server.host()), &options(true), &mut |step| {
            heard.push(step.name)
        })
        .await;
    use Verdict::{Good, Odd};
    let expected = [
        ("name", Good),
        ("hosts", Good),
        ("dns", Good),
        ("tcp", Good),
        ("tls", Good),
        ("api", Good),
        ("login", Good),
        ("head", Odd),
        ("get", Good),
        ("blob", Odd),
        ("push", Good),
    ];
    assert_eq!(steps(&check), expected);
    assert_eq!(heard.len(), expected.len());
    assert!(check.is_good() && check.attempts.is_empty());
    let tls = &check.steps[4].text;
    assert!(
        tls.starts_with("TLS 1.3, TLS13_AES") && tls.contains("of CN=Acme Root CA"),
        "{tls}"
    );
    let quirks: Vec<_> = check
        .quirks
        .iter()
        .map(|(_, quirk)| quirk.clone())
        .collect();
    assert_eq!(quirks, [Quirk::HeadFails(404), Quirk::Ranges]);
    assert_eq!(
        server.count("DELETE", "/v2/r/blobs/uploads/1"),
        1,
        "nothing is left behind"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentence_6_the_doctor_names_the_step_that_fails_and_goes_on_with_the_next_host() {
    let made = issued(&["localhost"], |_| {});
    let mirror = Server::tls(made.server, good).await;
    let server = Server::plain(|seen| match seen.path.contains("uploads") {
        true => reply(
            403,
            r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#,
        ),
        false => good(seen),
    })
    .await;
    let hosts = BTreeMap::from([
        (server.host(), mirrored(&server, vec![mirror.host().into()])),
        (
            mirror.host(),
            HostConfig {
                http: Some(false),
                ..HostConfig::default()
            },
        ),
    ]);
    let registries = Registries::new(RegistriesConfig { hosts, ..config() });
    let check = registries
        .check(&image(&server.host()), &options(true), &mut |_| {})
        .await;
    let failed: Vec<_> = check
        .steps
        .iter()
        .filter(|s| s.verdict == Verdict::Failed)
        .collect();
    assert_eq!(
        (failed[0].name, failed[0].host.as_str(), failed[0].kind),
        ("tls", mirror.host().as_str(), Some("no_trust"))
    );
    assert_eq!((failed[1].name, failed[1].kind), ("push", Some("denied")));
    assert_eq!(check.served_by.as_deref(), Some(server.host().as_str()));
    assert!(!check.is_good());
    let page = error_page(&check.error().unwrap());
    assert!(page.contains("as mirror 1/1 of localhost:"), "{page}");
}
