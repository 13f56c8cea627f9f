//! What lint found, told to whoever asked for the build.

use gateway_frontend::conventions::{BuildClient, BuildFile};

use crate::convert;
use crate::lint::Linter;

/// Bytes of build files that all warnings of a build bring along together: each brings its whole file,
/// for the lines that are shown with it, and a large file may have one on every line. Those beyond say
/// where they are, without the lines.
const MAX_SOURCE_BYTES: usize = 32 << 20;

pub(crate) async fn warn(client: &BuildClient, file: &BuildFile, linter: &Linter) {
    let mut left = MAX_SOURCE_BYTES;
    for warning in linter.warnings() {
        let ranges = convert::ranges(warning.location);
        let rule = warning.rule;
        let mut told = file.warning(warning.short(), rule.description, rule.url, ranges);
        if let Some(info) = &mut told.info {
            match left.checked_sub(info.data.len()) {
                Some(rest) => left = rest,
                None => {
                    info.data = Vec::new();
                    info.definition = None;
                }
            }
        }
        // A caller that takes no warnings must not fail for them.
        let _ = client.gateway().warn(told).await;
    }
}
