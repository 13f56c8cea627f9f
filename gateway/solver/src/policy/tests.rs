use gateway_llb::{Constraints, Graph, ImageSource, MarshalOptions};
use proptest::prelude::*;

use super::*;

const ALPINE: &str = "docker-image://docker.io/library/alpine:latest";

fn policies(documents: &[&str]) -> SourcePolicies {
    let parse = |json: &&str| Policy::parse("policy.json", json).unwrap();
    SourcePolicies::new(documents.iter().map(parse))
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
    pb::SourceOp {
        identifier: identifier.into(),
        attrs: attrs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

/// What becomes of a source: its identifier, or the refusal.
fn outcome(documents: &[&str], identifier: &str) -> String {
    let given = source(identifier, &[]);
    match policies(documents).evaluate(&given) {
        Ok(Some(converted)) => converted.identifier,
        Ok(None) => "as it is".into(),
        Err(error) => error.message,
    }
}

#[test]
fn of_one_policy_the_last_matching_rule_counts_and_every_policy_must_agree() {
    const ALLOW_THEN_DENY: &str = r#"{"rules": [
        {"action": "ALLOW", "selector": {"identifier": "docker-image://docker.io/library/alpine:latest"}},
        {"action": "DENY", "selector": {"identifier": "docker-image://*"}}]}"#;
    const DENY_THEN_ALLOW: &str = r#"{"rules": [
        {"action": "DENY", "selector": {"identifier": "*"}},
        {"action": "ALLOW", "selector": {"identifier": "docker-image://docker.io/library/*"}}]}"#;
    let denied = format!("source \"{ALPINE}\" denied by policy: source denied by policy");
    assert_eq!(outcome(&[ALLOW_THEN_DENY], ALPINE), denied);
    assert_eq!(outcome(&[DENY_THEN_ALLOW], ALPINE), "as it is");
    assert_eq!(outcome(&[DENY_THEN_ALLOW, ALLOW_THEN_DENY], ALPINE), denied);
    assert_eq!(
        outcome(&[DENY_THEN_ALLOW], "docker-image://alpine"),
        "as it is"
    );
    assert!(outcome(&[DENY_THEN_ALLOW], "local://context").contains("local://context"));
    assert_eq!(outcome(&[], ALPINE), "as it is");
    assert_eq!(outcome(&["{}"], ALPINE), "as it is");
}

#[test]
fn a_rule_means_an_image_however_it_is_written() {
    const EXACT: &str = r#"{"rules": [{"action": "DENY", "selector":
        {"identifier": "docker-image://docker.io/library/alpine:latest", "match_type": "EXACT"}}]}"#;
    for spelling in [
        "alpine",
        "docker.io/alpine:latest",
        "index.docker.io/library/alpine",
    ] {
        let text = outcome(&[EXACT], &format!("docker-image://{spelling}"));
        assert!(text.contains("denied by policy"), "{spelling}: {text}");
    }
}

#[test]
fn a_refusal_says_whose_rule_it_was_and_no_password() {
    let policies = policies(&[r#"{"rules": [
        {"action": "DENY", "selector": {"identifier": "https://*"}}]}"#]);
    let error = policies
        .evaluate(&source("https://me:secret@example.com/a", &[]))
        .unwrap_err();
    assert!(!error.message.contains("secret"), "{error}");
    let help: String = error.help().collect();
    assert_eq!(help, "rule 1 of policy.json denies it: DENY https://*\n");
}

#[test]
fn a_conversion_starts_all_over_with_what_it_made() {
    const CONVERT: &str = r#"{"rules": [
        {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/alpine:*"},
         "updates": {"identifier": "docker-image://m.example/alpine:${1}"}}]}"#;
    const DENY_MIRROR: &str = r#"{"rules": [
        {"action": "DENY", "selector": {"identifier": "docker-image://m.example/*"}}]}"#;
    let mirror = "docker-image://m.example/alpine:latest";
    assert_eq!(outcome(&[CONVERT], ALPINE), mirror);
    // In either order: the second round asks everybody again.
    for documents in [[CONVERT, DENY_MIRROR], [DENY_MIRROR, CONVERT]] {
        let text = outcome(&documents, ALPINE);
        assert!(text.starts_with(&format!("source \"{mirror}\"")), "{text}");
    }
}

#[test]
fn a_circle_of_conversions_ends() {
    const CIRCLE: &str = r#"{"rules": [
        {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/a:latest"},
         "updates": {"identifier": "docker-image://docker.io/library/b:latest"}},
        {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/b:latest"},
         "updates": {"identifier": "docker-image://docker.io/library/a:latest"}}]}"#;
    const GROWING: &str = r#"{"rules": [
        {"action": "CONVERT", "selector": {"identifier": "https://*"},
         "updates": {"identifier": "https://${1}${1}"}}]}"#;
    let circle = "too many mutations on a single source: too many operations";
    assert_eq!(outcome(&[CIRCLE], "docker-image://a"), circle);
    let text = outcome(&[GROWING], "https://xxxxxxxx");
    assert!(text.contains("longer than 8192 bytes"), "{text}");
}

#[test]
fn a_conversion_to_itself_changes_nothing() {
    const SAME: &str = r#"{"rules": [
        {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/alpine:*"},
         "updates": {"identifier": "docker-image://alpine:${1}"}}]}"#;
    assert_eq!(outcome(&[SAME], ALPINE), "as it is");
}

#[test]
fn attributes_decide_and_are_changed() {
    const CHECKSUM: &str = r#"{"rules": [
        {"action": "CONVERT", "selector": {"identifier": "https://example.com/*", "constraints": [
            {"key": "http.checksum", "value": "", "condition": "EQUAL"},
            {"key": "http.filename", "value": "\\.tgz$", "condition": "MATCHES"},
            {"key": "other", "value": "x", "condition": "NOTEQUAL"}]},
         "updates": {"attrs": {"http.checksum": "sha256:00"}}}]}"#;
    let policies = policies(&[CHECKSUM]);
    let url = "https://example.com/a";
    let judged = |attrs: &[(&str, &str)]| policies.evaluate(&source(url, attrs)).unwrap();
    let converted = judged(&[("http.filename", "a.tgz")]).unwrap();
    assert_eq!(converted.identifier, url);
    assert_eq!(converted.attrs["http.checksum"], "sha256:00");
    assert_eq!(converted.attrs["http.filename"], "a.tgz");
    assert!(judged(&[("http.filename", "a.zip")]).is_none());
    assert!(judged(&[("http.filename", "a.tgz"), ("other", "x")]).is_none());
    assert!(judged(&[("http.filename", "a.tgz"), ("http.checksum", "sha256:11")]).is_none());
}

#[test]
fn documents_are_read_as_buildkits_clients_write_them() {
    const FORMS: &str = r#"{"Version": 1, "rules": [
        {"Action": 1, "selector": {"identifier": "a", "match_type": 2, "constraints": null}},
        {"selector": {"identifier": "b"}, "updates": null}]}"#;
    let rules = document::rules(FORMS).unwrap();
    assert_eq!(
        (rules[0].action, rules[0].match_type),
        (Action::Deny, MatchType::Regex)
    );
    assert_eq!(
        (rules[1].action, rules[1].match_type),
        (Action::Allow, MatchType::Wildcard)
    );
}

#[test]
fn what_is_not_understood_is_an_error_that_names_its_place() {
    for (json, wanted) in [
        ("", "not a JSON document"),
        ("[]", "policy: [] is no object"),
        (r#"{"version": 2}"#, "version: 2 is not known, only 1 is"),
        (
            r#"{"rule": []}"#,
            "policy: unknown member \"rule\"; version, rules are known",
        ),
        (r#"{"rules": {}}"#, "rules: {} is no list"),
        (r#"{"rules": [null]}"#, "rule 1: null is no object"),
        (r#"{"rules": [{}]}"#, "rule 1: no selector"),
        (
            r#"{"rules": [{"selector": {}}]}"#,
            "rule 1, selector: no identifier",
        ),
        (
            r#"{"rules": [{"action": "deny", "selector": {"identifier": "a"}}]}"#,
            "rule 1, action: \"deny\" is not known; ALLOW, DENY, CONVERT are",
        ),
        (
            r#"{"rules": [{"action": 3, "selector": {"identifier": "a"}}]}"#,
            "rule 1, action: 3 is not known",
        ),
        (
            r#"{"rules": [{"selector": {"identifier": "a", "matchType": "EXACT"}}]}"#,
            "rule 1, selector: unknown member \"matchType\"",
        ),
        (
            r#"{"rules": [{"selector": {"identifier": "a", "constraints": [{"condition": "LIKE"}]}}]}"#,
            "rule 1, constraint, condition: \"LIKE\" is not known",
        ),
        (
            r#"{"rules": [{"selector": {"identifier": "a"}}, {"action": "CONVERT", "selector": {"identifier": "a"}}]}"#,
            "rule 2: CONVERT needs updates",
        ),
        (
            r#"{"rules": [{"selector": {"identifier": "a**"}}]}"#,
            "rule 1: invalid wildcard \"a**\"",
        ),
        (
            r#"{"rules": [{"selector": {"identifier": "(", "match_type": "REGEX"}}]}"#,
            "rule 1: invalid regular expression \"(\": unclosed group",
        ),
    ] {
        let error = Policy::parse("p", json).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{json}: {error}");
    }
}

fn definition() -> pb::Definition {
    let base = ImageSource::new("docker.io/library/alpine:latest")
        .state(Constraints::new().name("[base]"));
    let options = MarshalOptions::default();
    base.dir("/")
        .run(["true"])
        .root()
        .marshal(&options)
        .unwrap()
}

const PIN: &str = r#"{"rules": [
    {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/alpine:latest"},
     "updates": {"identifier": "docker-image://docker.io/library/busybox:1"}}]}"#;

#[test]
fn a_converted_source_gives_its_op_and_all_above_it_new_digests() {
    let before = definition();
    let after = apply(&before, &policies(&[PIN])).unwrap().unwrap();
    let graph = Graph::load(&after).unwrap();
    let mut vertices = graph.vertices();
    let source = vertices.next().unwrap();
    let Some(pb::op::Op::Source(op)) = &source.op().op else {
        panic!("a source");
    };
    assert_eq!(op.identifier, "docker-image://docker.io/library/busybox:1");
    assert_eq!(source.custom_name(), Some("[base]"));
    assert_eq!(source.op().platform, pb_op(&before, 0).platform);
    let exec = vertices.next().unwrap();
    assert_eq!(exec.op().inputs[0].digest, source.digest());
    assert_eq!(graph.result().digest, exec.digest());
    assert_ne!(after.def[2], before.def[2]);
}

fn pb_op(definition: &pb::Definition, index: usize) -> pb::Op {
    use prost::Message as _;
    pb::Op::decode(definition.def[index].as_slice()).unwrap()
}

#[test]
fn fields_that_are_not_known_survive_a_conversion() {
    let mut definition = definition();
    // Field 77, a varint, of the source op and of nothing that names it.
    let unknown = [0xe8, 0x04, 0x05];
    let old = gateway_llb::digest_of(&definition.def[0]);
    definition.def[0].extend(unknown);
    let new = gateway_llb::digest_of(&definition.def[0]);
    let renamed = String::from_utf8_lossy(&definition.def[1]).contains(&old);
    assert!(renamed);
    let mut exec = pb_op(&definition, 1);
    exec.inputs[0].digest = new;
    definition.def[1] = prost::Message::encode_to_vec(&exec);
    definition.def[1].extend(unknown);
    let mut last = pb_op(&definition, 2);
    last.inputs[0].digest = gateway_llb::digest_of(&definition.def[1]);
    definition.def[2] = prost::Message::encode_to_vec(&last);
    let after = apply(&definition, &policies(&[PIN])).unwrap().unwrap();
    for bytes in &after.def[..2] {
        assert!(bytes.ends_with(&unknown));
    }
    assert_eq!(Graph::load(&after).unwrap().len(), 2);
}

#[test]
fn a_definition_that_no_rule_changes_is_not_touched() {
    const ALLOW: &str = r#"{"rules": [{"selector": {"identifier": "*"}}]}"#;
    let applied = apply(&definition(), &policies(&[ALLOW])).unwrap();
    assert!(applied.is_none());
    // Whoever loads it says what is wrong.
    let broken = pb::Definition {
        def: vec![vec![0xff]],
        ..pb::Definition::default()
    };
    assert!(apply(&broken, &policies(&[ALLOW])).unwrap().is_none());
}

#[test]
fn a_denied_source_of_a_definition_is_shown_in_the_build_file() {
    const DENY: &str = r#"{"rules": [{"action": "DENY", "selector": {"identifier": "*alpine*"}}]}"#;
    let mut definition = definition();
    let digest = gateway_llb::digest_of(&definition.def[0]);
    definition.source = Some(pb::Source {
        infos: vec![pb::SourceInfo {
            filename: "Dockerfile".into(),
            ..pb::SourceInfo::default()
        }],
        locations: [(
            digest,
            pb::Locations {
                locations: vec![pb::Location::default()],
            },
        )]
        .into(),
    });
    let error = apply(&definition, &policies(&[DENY])).err().unwrap();
    assert_eq!(
        error.message,
        format!(
            "error evaluating the source policy: source \"{ALPINE}\" denied by policy: source denied by policy"
        )
    );
    assert_eq!(error.sources().next().unwrap().info.filename, "Dockerfile");
}

proptest! {
    #[test]
    fn no_document_panics(text in ".{0,64}") {
        let _ = Policy::parse("p", &text);
    }

    #[test]
    fn after_any_conversions_no_denied_source_is_left(
        converts in prop::collection::vec((0..4_u8, 0..4_u8), 0..4),
        denied in 0..4_u8,
        start in 0..4_u8,
    ) {
        let name = |n: u8| format!("docker-image://docker.io/library/i{n}:latest");
        let rule = |action, identifier, updates| Rule {
            action, identifier, updates, match_type: MatchType::Exact, constraints: Vec::new(),
        };
        let mut rules: Vec<Rule> = converts.iter().map(|(from, to)| {
            let update = Update { identifier: name(*to), attrs: BTreeMap::new() };
            rule(Action::Convert, name(*from), Some(update))
        }).collect();
        rules.push(rule(Action::Deny, name(denied), None));
        let policies = SourcePolicies::new([Policy::new("p", rules).unwrap()]);
        let given = source(&name(start), &[]);
        if let Ok(judged) = policies.evaluate(&given) {
            let used = judged.unwrap_or(given);
            prop_assert_ne!(&used.identifier, &name(denied));
            // What was judged is at rest: judged again it stays.
            prop_assert!(policies.evaluate(&used).unwrap().is_none());
        }
    }
}
