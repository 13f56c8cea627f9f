//! Tables of the configuration that can never have an effect, because no host is ever asked under that name.

use std::collections::BTreeMap;

use super::HostConfig;
use crate::reference::Reference;

/// One warning for each table that matches nothing, with what was probably meant.
pub fn unused_tables(hosts: &BTreeMap<String, HostConfig>) -> Vec<String> {
    let mirrors: Vec<&str> = hosts
        .values()
        .flat_map(|host| host.mirrors.iter().map(|mirror| mirror.host.as_str()))
        .collect();
    let mut warnings = Vec::new();
    for (name, host) in hosts {
        let mut warn = |why: String| {
            warnings.push(format!("[registry.{name:?}] has no effect: {why}"));
        };
        if let Some((_, rest)) = name.split_once("://") {
            let bare = rest.split('/').next().unwrap_or(rest);
            warn(format!(
                "a host is named without a scheme, write [registry.{bare:?}]"
            ));
        } else if let Some((bare, _)) = name.split_once('/') {
            warn(format!(
                "settings are by host, not by repository, write [registry.{bare:?}]"
            ));
        } else if matches!(
            name.as_str(),
            "registry-1.docker.io"
                | "index.docker.io"
                | "hub.docker.com"
                | "registry.hub.docker.com"
                | "docker.com"
        ) {
            // The API's own host is looked up as well, but only where docker.io has no table.
            if name != "registry-1.docker.io" || hosts.contains_key("docker.io") {
                warn("Docker Hub is configured as [registry.\"docker.io\"]".into());
            }
        } else if name.contains('*') {
            warn("hosts are matched whole, there are no wildcards".into());
        } else if Reference::parse(&format!("{name}/x")).is_ok_and(|r| r.domain() != name)
            || Reference::parse(&format!("{name}/x")).is_err()
        {
            warn("no image reference has this host".into());
        } else if host.mirrors.is_empty()
            // One with a table of its own is another registry of the same machine.
            && let Some(asked) = mirrors
                .iter()
                .find(|m| same_name_other_port(m, name) && !hosts.contains_key(**m))
            && !mirrors.contains(&name.as_str())
        {
            warnings.push(format!(
                "[registry.{name:?}] does not hold for the mirror {asked}: a mirror's settings stand under its host \
                 with its port, [registry.{asked:?}]"
            ));
        }
    }
    warnings
}

fn same_name_other_port(one: &str, other: &str) -> bool {
    let bare = |host: &str| host.split(':').next().unwrap_or(host).to_owned();
    !one.starts_with('[') && one != other && bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    use super::super::parse_buildkitd_toml;
    use super::*;

    #[test]
    fn sentence_4_tables_that_no_host_is_asked_under_are_told() {
        let text = r#"
            [registry."docker.io"]
            mirrors = ["mirror.example:5000"]
            [registry."mirror.example"]
            insecure = true
            [registry."https://scheme.example/"]
            [registry."path.example/team"]
            [registry."index.docker.io"]
            [registry."*.wild.example"]
            [registry."noport"]
            [registry."good.example:5000"]
            [registry."localhost"]
            [registry."one.example"]
            mirrors = ["two.example:5000"]
            [registry."two.example:5000"]
            insecure = true
            [registry."two.example:5001"]
            insecure = true
        "#;
        let (hosts, _) = parse_buildkitd_toml(text).unwrap();
        let warnings = unused_tables(&hosts);
        for words in [
            "[registry.\"mirror.example\"] does not hold for the mirror mirror.example:5000",
            "[registry.\"https://scheme.example/\"] has no effect: a host is named without a scheme, write [registry.\"scheme.example\"]",
            "[registry.\"path.example/team\"] has no effect: settings are by host",
            "configured as [registry.\"docker.io\"]",
            "there are no wildcards",
            "[registry.\"noport\"] has no effect: no image reference has this host",
        ] {
            assert!(
                warnings.iter().any(|w| w.contains(words)),
                "{words}: {warnings:#?}"
            );
        }
        assert_eq!(warnings.len(), 6, "{warnings:#?}");
    }
}
