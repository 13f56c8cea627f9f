//! `GET /images/NAME/json`: what is known of an image of the store. `docker buildx build --push` before version 0.22
//! asks this after the push; of digests in registries it is told nothing, and asks no further.

use gateway_images::reference::Reference;
use http::StatusCode;

use super::{Answer, json, problem};
use crate::state::Daemon;

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
