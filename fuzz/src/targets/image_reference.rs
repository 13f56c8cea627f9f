//! References of images, digests, platforms: what is shown reads again and means the same.

use gateway_images::digest::Digest;
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;

/// One run with one input.
pub fn run(text: &str) {
    match Reference::parse(text) {
        Ok(reference) => {
            let again = Reference::parse(&reference.to_string()).expect("what is shown reads");
            assert_eq!(again, reference);
            let again = Reference::parse(&reference.familiar()).expect("the short form reads");
            assert_eq!(again, reference);
            reference.api_host();
            reference.object();
        }
        Err(error) => drop(error.to_string()),
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        let normal = platform.normalized();
        assert_eq!(normal.normalized(), normal);
        let again: Platform = normal.to_string().parse().expect("what is shown reads");
        assert_eq!(again.normalized(), normal);
    }
}
