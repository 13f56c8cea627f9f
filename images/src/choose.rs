//! Choosing the entry of an index that serves a platform.
//!
//! The orders of preference are those of containerd, so that an index gives the same image here as in BuildKit.

use crate::media::Descriptor;
use crate::platform::Platform;

/// No entry of an index fits; says what the index offers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no match for platform in manifest: not found ({wanted} is not offered, only {})", list(.offered))]
pub struct NoMatch {
    pub wanted: Box<Platform>,
    pub offered: Vec<Platform>,
}

fn list(platforms: &[Platform]) -> String {
    const SHOWN: usize = 20;
    if platforms.is_empty() {
        return "nothing".into();
    }
    let mut text = platforms
        .iter()
        .take(SHOWN)
        .map(Platform::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if platforms.len() > SHOWN {
        text.push_str(&format!(" and {} more", platforms.len() - SHOWN));
    }
    text
}

impl Platform {
    /// The entries that may serve this platform, best first; entries without a platform come last.
    /// Attestations never do.
    pub fn matching<'a>(&self, entries: &'a [Descriptor]) -> Vec<&'a Descriptor> {
        let mut ranked: Vec<(usize, &Descriptor)> = entries
            .iter()
            .filter(|entry| !entry.is_attestation())
            .filter_map(|entry| match &entry.platform {
                Some(platform) if !platform.architecture.is_empty() => {
                    self.rank(platform).map(|rank| (rank, entry))
                }
                _ => Some((usize::MAX, entry)),
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The best entry of an index for this platform.
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> Result<&'a Descriptor, NoMatch> {
        self.matching(entries)
            .into_iter()
            .next()
            .ok_or_else(|| NoMatch {
                wanted: Box::new(self.clone()),
                offered: entries
                    .iter()
                    .filter(|entry| !entry.is_attestation())
                    .filter_map(|entry| entry.platform.clone())
                    .collect(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn entries(platforms: &[&str]) -> Vec<Descriptor> {
        platforms
            .iter()
            .map(|text| {
                let mut d = Descriptor::new("", Digest::of(text.as_bytes()), 1);
                d.platform = (!text.is_empty()).then(|| match text.split_once('/') {
                    Some(("unknown", _)) => Platform {
                        os: "unknown".into(),
                        architecture: "unknown".into(),
                        ..Platform::default()
                    },
                    _ => text.parse().unwrap(),
                });
                d
            })
            .collect()
    }

    fn chosen<'a>(wanted: &str, offered: &[&'a str]) -> Option<&'a str> {
        let entries = entries(offered);
        let wanted: Platform = wanted.parse().unwrap();
        let found = wanted.choose(&entries).ok()?;
        let at = entries.iter().position(|e| e == found)?;
        offered.get(at).copied()
    }

    #[test]
    fn the_nearest_lower_variant_is_chosen() {
        assert_eq!(
            chosen(
                "linux/amd64/v3",
                &["linux/386", "linux/amd64", "linux/amd64/v2"]
            ),
            Some("linux/amd64/v2")
        );
        assert_eq!(
            chosen("linux/amd64", &["linux/amd64/v2", "linux/386"]),
            Some("linux/386")
        );
        assert_eq!(
            chosen("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"]),
            Some("linux/arm/v6")
        );
        assert_eq!(chosen("linux/arm/v6", &["linux/arm/v7"]), None);
        assert_eq!(
            chosen("linux/arm64", &["linux/arm/v6", "linux/arm/v7"]),
            Some("linux/arm/v7")
        );
        assert_eq!(
            chosen("linux/arm64/v9", &["linux/arm64/v8.6", "linux/arm64/v8.2"]),
            Some("linux/arm64/v8.2")
        );
    }

    #[test]
    fn entries_without_platform_come_last_and_attestations_never() {
        assert_eq!(
            chosen("linux/amd64", &["", "linux/amd64"]),
            Some("linux/amd64")
        );
        assert_eq!(chosen("linux/amd64", &["linux/arm64", ""]), Some(""));
        assert_eq!(chosen("linux/amd64", &["unknown/unknown"]), None);
    }

    #[test]
    fn no_match_lists_what_is_offered() {
        let entries = entries(&["linux/s390x", "windows/amd64"]);
        let error = "linux/amd64"
            .parse::<Platform>()
            .unwrap()
            .choose(&entries)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no match for platform in manifest: not found (linux/amd64 is not offered, only linux/s390x, windows/amd64)"
        );
    }
}
