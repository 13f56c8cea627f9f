//! A scanner for bills of materials as an image: busybox and a script.

use serde_json::json;

use crate::registry::Registry;

/// The name of its image.
pub const IMAGE: &str = "test/scanner:1";

/// A scanner: says what it sees, in the way of BuildKit's scanners.
const SCANNER: &str = r#"
set -e
said=$(/bin/busybox ls $BUILDKIT_SCAN_SOURCE | /bin/busybox tr '\n' ' ')
echo "{\"_type\": \"https://in-toto.io/Statement/v0.1\", \"predicateType\": \"https://spdx.dev/Document\",
  \"predicate\": {\"files\": \"$said\", \"depth\": \"$BUILDKIT_SCAN_depth\"}}" > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json
"#;

/// Pushes it as [`IMAGE`].
pub fn push(registry: &Registry) {
    let config = json!({"Entrypoint": ["/bin/busybox", "sh", "-c", SCANNER]});
    registry.push_busybox(IMAGE, config);
}
