//! What lint found, told to whoever asked for the build.

use gateway_frontend::conventions::{BuildClient, BuildFile};

use crate::convert;
use crate::lint::Linter;

pub(crate) async fn warn(client: &BuildClient, file: &BuildFile, linter: &Linter) {
    for warning in linter.warnings() {
        let ranges = convert::ranges(warning.location);
        let rule = warning.rule;
        let told = file.warning(warning.short(), rule.description, rule.url, ranges);
        // A caller that takes no warnings must not fail for them.
        let _ = client.gateway().warn(told).await;
    }
}
