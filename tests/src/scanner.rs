//! A scanner for bills of materials as an image: busybox and a script.

use serde_json::json;

use crate::base_images::{Layout, Tar};
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
    let dir = tempfile::tempdir().expect("a temporary folder");
    let busybox = std::fs::read("/bin/busybox").expect("busybox");
    let layer = Tar::default()
        .dir("bin", (0o755, 0, 0))
        .file("bin/busybox", &busybox, (0o755, 0, 0))
        .bytes();
    let mut layout = Layout::create(dir.path()).expect("a layout");
    let config = json!({"Entrypoint": ["/bin/busybox", "sh", "-c", SCANNER]});
    let image = layout.image(&[layer], config, "amd64").expect("an image");
    layout.name(image, IMAGE);
    layout.close().expect("closing the layout");
    registry.push_layout(dir.path(), IMAGE, IMAGE);
}
