//! Reading certificates for people: failures here never hide the TLS error that they explain.

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::registry::error::PeerCertificate;

/// Certificates of a chain that are described; a peer may send many.
pub(crate) const MAX_DESCRIBED: usize = 8;
/// Alternative names that are listed.
const MAX_NAMES: usize = 50;

pub(crate) fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der.as_ref())
        .ok()
        .map(|(_, certificate)| certificate)
}

pub(crate) fn describe(der: &CertificateDer<'_>) -> PeerCertificate {
    let sha256 = Sha256::digest(der.as_ref())
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect::<Vec<_>>()
        .join(":");
    let Some(certificate) = parsed(der) else {
        return PeerCertificate {
            subject: "(unreadable certificate)".into(),
            sha256,
            ..Default::default()
        };
    };
    PeerCertificate {
        subject: clean(&certificate.subject().to_string()),
        issuer: clean(&certificate.issuer().to_string()),
        names: names(&certificate),
        not_before: date(certificate.validity().not_before.to_datetime()),
        not_after: date(certificate.validity().not_after.to_datetime()),
        key: key(&certificate),
        is_ca: certificate.is_ca(),
        sha256,
        left: left(
            certificate.validity().not_before.to_datetime(),
            certificate.validity().not_after.to_datetime(),
            OffsetDateTime::now_utc(),
        ),
    }
}

fn left(from: OffsetDateTime, until: OffsetDateTime, now: OffsetDateTime) -> String {
    if now < from {
        format!("valid in {}", span(from - now))
    } else if now > until {
        format!("expired {} ago", span(now - until))
    } else {
        format!("{} left", span(until - now))
    }
}

/// Days, or hours when it is less than one.
pub(crate) fn span(time: time::Duration) -> String {
    match time.whole_days() {
        0 => format!("{} hours", time.whole_hours()),
        days => format!("{days} days"),
    }
}

/// The alternative names, `DNS:…` and `IP:…`.
pub(crate) fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Some(extension) = certificate.subject_alternative_name().ok().flatten() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{}", clean(name))),
            GeneralName::IPAddress(bytes) => {
                let address = <[u8; 4]>::try_from(*bytes)
                    .map(|b| std::net::IpAddr::from(b).to_string())
                    .or_else(|_| {
                        <[u8; 16]>::try_from(*bytes).map(|b| std::net::IpAddr::from(b).to_string())
                    });
                address.ok().map(|a| format!("IP:{a}"))
            }
            _ => None,
        })
        .take(MAX_NAMES)
        .collect()
}

/// The certificate says where its issuer's certificate can be had.
pub(crate) fn names_its_issuers_address(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|e| {
        matches!(
            e.parsed_extension(),
            ParsedExtension::AuthorityInfoAccess(_)
        )
    })
}

pub(crate) fn date(when: OffsetDateTime) -> String {
    when.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| "?".into())
}

/// The name of a signature algorithm that is too weak to be believed, if the certificate has such a one.
pub(crate) fn weak_signature(der: &CertificateDer<'_>) -> Option<&'static str> {
    let oid = parsed(der)?.signature_algorithm.algorithm.to_id_string();
    match oid.as_str() {
        "1.2.840.113549.1.1.4" => Some("MD5 with RSA"),
        "1.2.840.113549.1.1.5" => Some("SHA-1 with RSA"),
        "1.2.840.10045.4.1" => Some("SHA-1 with ECDSA"),
        "1.2.840.10040.4.3" => Some("SHA-1 with DSA"),
        _ => None,
    }
}

/// The first critical extension that nobody here understands.
pub(crate) fn unknown_critical(der: &CertificateDer<'_>) -> Option<String> {
    let certificate = parsed(der)?;
    let unknown = |e: &&x509_parser::extensions::X509Extension<'_>| {
        e.critical
            && matches!(
                e.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
            )
    };
    let found = certificate.extensions().iter().find(unknown)?;
    Some(found.oid.to_id_string())
}

/// The key size in bits, for RSA.
pub(crate) fn rsa_bits(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(rsa) => Some(rsa.key_size()),
        _ => None,
    }
}

fn key(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(point)) => match point.key_size() {
            // The point's coordinate is rounded up to whole bytes.
            528 => "ECDSA P-521".into(),
            bits => format!("ECDSA P-{bits}"),
        },
        _ => match certificate
            .public_key()
            .algorithm
            .algorithm
            .to_id_string()
            .as_str()
        {
            "1.3.101.112" => "Ed25519".into(),
            other => other.into(),
        },
    }
}

/// Names come from the peer and end on a terminal.
fn clean(text: &str) -> String {
    const LONGEST: usize = 300;
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(LONGEST)
        .collect()
}
