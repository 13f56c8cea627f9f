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
    let mut lines = convert::MAX_LINES;
    for warning in linter.warnings() {
        let ranges = convert::some_ranges(warning.location, &mut lines);
        let rule = warning.rule;
        let rest = left.checked_sub(file.map.data.len());
        left = rest.unwrap_or(left);
        let told = match rest {
            Some(_) => file.warning(warning.short(), rule.description, rule.url, ranges),
            None => file.short_warning(warning.short(), rule.description, rule.url, ranges),
        };
        // A caller that takes no warnings must not fail for them.
        let _ = client.gateway().warn(told).await;
    }
    if linter.more() > 0 {
        let text = format!("{} more warnings are not shown", linter.more());
        let told = file.short_warning(text, "", "", Vec::new());
        let _ = client.gateway().warn(told).await;
    }
}
