//! podman's registries.conf: rules by repository prefix. Read on request only, because it says for another program whom
//! to trust, and rewrites names.

use super::{PrefixMirror, PrefixRule, strings};

/// Reads the `[[registry]]` tables of one file. Later files add to earlier ones, and replace rules of the same prefix.
/// Gives warnings.
///
/// # Errors
/// What is wrong, without the file's name.
pub fn parse_registries_conf(
    text: &str,
    rules: &mut Vec<PrefixRule>,
) -> Result<Vec<String>, String> {
    let document: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| e.message().to_owned())?;
    let mut warnings = Vec::new();
    for (key, value) in &document {
        match key.as_str() {
            "registry" => {
                let tables = value
                    .as_array()
                    .ok_or("registry must be a list: [[registry]]")?;
                for table in tables {
                    let table = table.as_table().ok_or("[[registry]] must hold tables")?;
                    let rule = rule(table, &mut warnings)?;
                    rules.retain(|other| other.prefix != rule.prefix);
                    rules.push(rule);
                }
            }
            "unqualified-search-registries" => {
                let only_hub = strings(value).is_some_and(|l| l.iter().all(|r| r == "docker.io"));
                if !only_hub {
                    warnings.push(
                        "unqualified-search-registries: not used, a name without a host is on docker.io".into(),
                    );
                }
            }
            "short-name-mode" => {}
            other => warnings.push(format!("the key {other:?} has no effect here")),
        }
    }
    Ok(warnings)
}

fn rule(table: &toml::Table, warnings: &mut Vec<String>) -> Result<PrefixRule, String> {
    let mut rule = PrefixRule::default();
    let mut by_digest_only = false;
    for (key, value) in table {
        match key.as_str() {
            "prefix" => rule.prefix = name(key, value)?,
            "location" => rule.location = name(key, value)?,
            "insecure" => rule.insecure = flag(key, value)?,
            "blocked" => rule.blocked = flag(key, value)?,
            "mirror-by-digest-only" => by_digest_only = flag(key, value)?,
            "mirror" => {
                let list = value
                    .as_array()
                    .ok_or("mirror must be a list: [[registry.mirror]]")?;
                for entry in list {
                    let entry = entry
                        .as_table()
                        .ok_or("[[registry.mirror]] must hold tables")?;
                    rule.mirrors.push(mirror(entry, warnings)?);
                }
            }
            other => warnings.push(format!("registry: the key {other:?} has no effect here")),
        }
    }
    if rule.prefix.is_empty() {
        rule.prefix = rule.location.clone();
    }
    if rule.prefix.is_empty() {
        return Err("[[registry]] needs prefix or location".into());
    }
    if rule.prefix.starts_with("*.")
        && rule.location.is_empty()
        && rule.mirrors.is_empty()
        && !rule.blocked
        && !rule.insecure
    {
        warnings.push(format!("registry {:?} says nothing", rule.prefix));
    }
    if by_digest_only {
        for mirror in &mut rule.mirrors {
            mirror.by_tag = false;
        }
    }
    Ok(rule)
}

fn mirror(table: &toml::Table, warnings: &mut Vec<String>) -> Result<PrefixMirror, String> {
    let mut mirror = PrefixMirror {
        location: String::new(),
        insecure: false,
        by_digest: true,
        by_tag: true,
    };
    for (key, value) in table {
        match key.as_str() {
            "location" => mirror.location = name(key, value)?,
            "insecure" => mirror.insecure = flag(key, value)?,
            "pull-from-mirror" => match value.as_str() {
                Some("all") => {}
                Some("digest-only") => mirror.by_tag = false,
                Some("tag-only") => mirror.by_digest = false,
                _ => return Err("pull-from-mirror must be all, digest-only or tag-only".into()),
            },
            other => warnings.push(format!("mirror: the key {other:?} has no effect here")),
        }
    }
    match mirror.location.is_empty() {
        true => Err("[[registry.mirror]] needs a location".into()),
        false => Ok(mirror),
    }
}

/// `host[:port][/path]`, without a scheme.
fn name(key: &str, value: &toml::Value) -> Result<String, String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("{key} must be a string"))?;
    if text.contains("://") {
        return Err(format!("{key} {text:?}: remove the scheme"));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._:/[]*".contains(c);
    match text.chars().all(legal) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!("{key} {text:?} is no place of a registry")),
    }
}

fn flag(key: &str, value: &toml::Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| format!("{key} must be true or false"))
}

impl PrefixRule {
    /// How many characters of `name` (`domain/path`) the prefix covers, or `None`.
    pub(crate) fn covers(&self, name: &str) -> Option<usize> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or(name);
            let bare = host.split(':').next().unwrap_or(host);
            return (bare.len() > domain.len() && bare.ends_with(domain)).then_some(host.len());
        }
        let rest = name.strip_prefix(self.prefix.as_str())?;
        // `host/a` is not a prefix of `host/ab`, nor `host` of `host:5000`.
        (rest.is_empty() || rest.starts_with('/')).then_some(self.prefix.len())
    }

    /// The name with its covered part replaced.
    pub(crate) fn moved(&self, name: &str, location: &str) -> Option<String> {
        if location.is_empty() {
            return Some(name.to_owned());
        }
        Some(format!("{location}{}", name.get(self.covers(name)?..)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_4_a_registries_conf_gives_rules_by_prefix() {
        let text = r#"
            unqualified-search-registries = ["quay.io"]
            [[registry]]
            prefix = "docker.io/library"
            location = "r.example:5000/hub"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "m.example/cache"
            [[registry]]
            location = "bad.example"
            blocked = true
            [[registry]]
            prefix = "*.wild.example"
            insecure = true
        "#;
        let mut rules = Vec::new();
        let warnings = parse_registries_conf(text, &mut rules).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let hub = &rules[0];
        assert!(hub.mirrors[0].by_digest && !hub.mirrors[0].by_tag);
        let name = "docker.io/library/alpine";
        assert_eq!(
            hub.moved(name, &hub.location).as_deref(),
            Some("r.example:5000/hub/alpine")
        );
        assert_eq!(hub.covers("docker.io/libraryx/alpine"), None);
        assert!(rules[1].blocked && rules[1].covers("bad.example/x").is_some());
        assert_eq!(rules[1].covers("bad.example:5000/x"), None);
        assert_eq!(
            rules[2].covers("a.b.wild.example:5000/x"),
            Some("a.b.wild.example:5000".len())
        );
        assert_eq!(rules[2].covers("wild.example/x"), None);
    }

    #[test]
    fn sentence_4_schemes_and_missing_places_are_refused_by_name() {
        for (text, words) in [
            (
                "[[registry]]\nlocation = \"https://h\"",
                "remove the scheme",
            ),
            ("[[registry]]\ninsecure = true", "needs prefix or location"),
            (
                "[[registry]]\nlocation='h'\n[[registry.mirror]]\ninsecure=true",
                "needs a location",
            ),
            ("[[registry]]\nprefix = \"h x\"", "is no place"),
        ] {
            let error = parse_registries_conf(text, &mut Vec::new()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_registries_conf_is_read_or_refused(text in "\\[\\[registry\\]\\]\n(prefix|location|mirror|blocked) ?= ?\\PC{0,40}", name in "[a-z./:*]{0,30}") {
            let mut rules = Vec::new();
            let _ = parse_registries_conf(&text, &mut rules);
            for rule in &rules {
                let _ = rule.moved(&name, "l");
            }
        }
    }
}
