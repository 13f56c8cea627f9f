//! Caches against a server of our own that fails as services do. The whole programs and the signatures are tested
//! elsewhere; here are the ways of a single call.

use std::collections::BTreeMap;

use super::*;

fn parsed(kind: &str, pairs: &[(&str, &str)]) -> Result<RemoteCache, String> {
    let attrs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    let attrs: BTreeMap<String, String> = attrs.collect();
    RemoteCache::parse(kind, &attrs, &|_| None)
}

const S3: [(&str, &str); 4] = [
    ("bucket", "team"),
    ("region", "eu-1"),
    ("access_key_id", "AKIA"),
    ("secret_access_key", "hunter2"),
];

#[test]
fn a_cache_is_known_by_its_place_and_not_by_who_logs_in() {
    let one = parsed("s3", &S3).unwrap();
    let anonymous = parsed("s3", &S3[..2]).unwrap();
    assert!(one.is_same_place(&anonymous) && one != anonymous);
    assert_eq!(one.name(), anonymous.name());
    assert!(one.name().starts_with("s3:") && !one.name().contains("hunter2"));
    let other = parsed("s3", &[&S3[..], &[("prefix", "x/")]].concat()).unwrap();
    assert!(!one.is_same_place(&other));
    assert!(!format!("{one:?}").contains("hunter2"));
}

#[test]
fn wrong_attributes_are_named() {
    for (more, problem) in [
        (("retry_mode", "fast"), "retry_mode is standard or adaptive"),
        (("retry_max_attempts", "0"), "retry_max_attempts must be"),
        (("upload_parallelism", "many"), "upload_parallelism must be"),
        (("endpoint_url", "minio"), "endpoint_url="),
    ] {
        let said = parsed("s3", &[&S3[..], &[more]].concat()).unwrap_err();
        assert!(said.contains(problem), "{said}");
    }
    let said = parsed("s3", &S3[..3]).unwrap_err();
    assert!(said.contains("need each other"), "{said}");
    let said = parsed("s3", &S3[1..]).unwrap_err();
    assert!(said.contains("AWS_BUCKET"), "{said}");
    assert!(parsed("tape", &[]).is_err());
}

#[test]
fn variables_stand_in_for_attributes() {
    let attrs = BTreeMap::new();
    let cache = RemoteCache::parse("s3", &attrs, &|name| Some(format!("value-of-{name}"))).unwrap();
    let Place::S3(s3) = &cache.0 else {
        panic!("another type");
    };
    let shown = format!("{s3:?}");
    assert!(shown.contains("value-of-AWS_BUCKET"), "{shown}");
    assert!(shown.contains("value-of-AWS_ACCESS_KEY_ID"), "{shown}");
    assert!(!shown.contains("value-of-AWS_SECRET_ACCESS_KEY"), "{shown}");
    // Ages that are none are the usual one, as in the reference.
    assert!(shown.contains("touch_refresh: 86400s"), "{shown}");
}
