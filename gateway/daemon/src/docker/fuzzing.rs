//! Doors for the fuzz targets into what is read of requests.

use super::query::Query;
use super::unversioned;

/// A path with its query. A build that is understood has one output at most, and none with a path of its own.
pub fn target(text: &str) {
    let Ok(uri) = text.parse::<http::Uri>() else {
        return;
    };
    unversioned(uri.path());
    if let Ok(request) = Query::of(&uri).request() {
        assert!(request.exporters.len() <= 1);
        let dest = |exporter: &crate::proto::control::Exporter| exporter.attrs.contains_key("dest");
        assert!(!request.exporters.iter().any(dest));
    }
}
