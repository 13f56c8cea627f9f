//! The frontend's own image, as a definition: a frontend can use it as a base.

use std::path::Path;

use gateway_llb::pb;
use prost::Message;

/// Where hosts since 2021 put it.
pub const OWN_IMAGE_PATH: &str = "/run/config/buildkit/metadata/frontend.bin";

/// The definition of the image that this frontend runs from; `None` where the host does not tell.
pub fn own_image(path: &Path) -> Option<pb::Definition> {
    let bytes = std::fs::read(path).ok()?;
    pb::Definition::decode(bytes.as_slice()).ok()
}
