//! `GET /images/NAME/json`: what is known of an image of the store. `docker buildx build --push` before version 0.22
//! asks this after the push; of digests in registries it is told nothing, and asks no further.

use gateway_images::reference::Reference;
use http::StatusCode;

use super::{Answer, json, problem};
use crate::state::Daemon;

/// The image that a path asks about: `/images/NAME/json`; the list of all is none.
pub fn named(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/images/")?.strip_suffix("/json")?;
    (!name.is_empty()).then_some(name)
}

pub fn inspect(daemon: &Daemon, name: &str) -> Answer {
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("{name}: {error}")),
    };
    let images = match daemon.0.options.solver.images() {
        Ok(images) => images,
        Err(error) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &error.message),
    };
    let full = reference.to_string();
    match images.into_iter().find(|image| image.name == full) {
        None => problem(StatusCode::NOT_FOUND, &format!("No such image: {name}")),
        Some(image) => json(&serde_json::json!({
            "Id": image.digest,
            "RepoTags": [reference.familiar()],
            "RepoDigests": [],
            "Size": image.size.unwrap_or_default(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p57_single_images_are_asked_about_by_name() {
        assert_eq!(named("/images/a/b:1/json"), Some("a/b:1"));
        assert_eq!(named("/images/json"), None);
        assert_eq!(named("/images//json"), None);
    }
}
