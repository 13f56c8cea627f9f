//! `--file ADDRESS`: a build file that is fetched before anything else, to stand beside the context.

use std::path::Path;

use gateway_images::registry::{Registries, WebRequest, shown_url};

use super::stdin::{self, Stdin};
use crate::build::args::Build;
use crate::error::CliError;

const SCHEMES: [&str; 2] = ["http://", "https://"];

/// The build file, if the flag has an address of one.
///
/// # Errors
/// When it cannot be fetched or written down.
pub async fn build_file(args: &Build, registries: &Registries) -> Result<Option<Stdin>, CliError> {
    let Some(url) = args.file.as_deref().and_then(Path::to_str) else {
        return Ok(None);
    };
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(None);
    }
    let failed = |problem: String| CliError::Fetch {
        url: shown_url(url),
        problem,
    };
    let request = WebRequest {
        url: url.to_owned(),
        ..WebRequest::default()
    };
    let answer = registries.web(&request).await;
    let mut answer = answer.map_err(|error| failed(error.to_string()))?;
    if !(200..300).contains(&answer.status()) {
        return Err(failed(format!("the server answered {}", answer.status())));
    }
    let mut text = Vec::new();
    while let Some(piece) = answer
        .chunk()
        .await
        .map_err(|error| failed(error.to_string()))?
    {
        if (text.len() + piece.len()) as u64 > stdin::MAX_BUILD_FILE {
            let limit = stdin::MAX_BUILD_FILE;
            return Err(failed(format!("it is larger than {limit} bytes")));
        }
        text.extend_from_slice(&piece);
    }
    if text.is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    stdin::read(text.as_slice(), true).map(Some)
}
