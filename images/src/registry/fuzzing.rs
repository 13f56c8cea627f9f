//! Doors for the fuzz targets into readers that are nobody else's business.

use rustls_pki_types::CertificateDer;

use super::{auth, challenge, referrers, tls, transport};

/// All that is read out of header values.
pub fn header(value: &str) {
    challenge::parse(value);
    transport::retry_after(value);
    referrers::next_link(value);
}

/// All that is read out of the bodies of errors and of token services.
pub fn body(bytes: &[u8]) {
    transport::registry_error(bytes);
    transport::service_message(bytes);
    auth::token_of(bytes);
}

/// All that is read out of the certificates of a server: its own, then those that it sends with it. Gives what an
/// error page would say of them, every text by itself; nothing when they are good.
pub fn certificates(chain: &[Vec<u8>], name: &str) -> Vec<String> {
    let chain: Vec<CertificateDer<'_>> = chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    tls::said_of(&chain, name)
}
