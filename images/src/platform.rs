//! Platforms (`linux/arm64/v8`): parsing, normalising, and which runs what. Entries of an index are chosen in `choose`.
//!
//! The orders of preference are those of containerd, so that an index gives the same image here as in BuildKit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on. Written in the field order of the published Go type.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlatformError {
    #[error(
        "{0:?} is an invalid component: platform specifier component must match letters, digits, `_`, `.` and `-`"
    )]
    Component(String),
    #[error("{0:?}: cannot parse platform specifier: at most os/architecture/variant")]
    TooManyParts(String),
    #[error("{0:?}: unknown operating system or architecture")]
    Unknown(String),
}

impl Platform {
    /// A normalised platform.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.into(),
            ..Platform::default()
        }
        .normalized()
    }

    /// What this program was built for.
    pub fn host() -> Self {
        Platform::new(
            std::env::consts::OS,
            std::env::consts::ARCH,
            if cfg!(target_arch = "arm") { "v7" } else { "" },
        )
    }

    /// The one spelling of equal platforms: `x86_64` is amd64, `aarch64/v8` is arm64, `arm` is arm/v7.
    /// An empty operating system stays empty.
    pub fn normalized(&self) -> Self {
        let mut p = self.clone();
        p.os = match p.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".into(),
            os => os.into(),
        };
        p.variant = p.variant.to_ascii_lowercase();
        let (architecture, variant) = normal_arch(&p.architecture.to_ascii_lowercase(), &p.variant);
        p.architecture = architecture;
        p.variant = variant;
        p
    }

    /// What may run on this platform, best first. The first is the platform itself.
    fn preference(&self) -> Vec<(String, String)> {
        let me = self.normalized();
        let arch = me.architecture.as_str();
        let mut order = vec![(me.architecture.clone(), me.variant.clone())];
        match arch {
            "amd64" => {
                let level = me
                    .variant
                    .strip_prefix('v')
                    .and_then(|v| v.parse::<u32>().ok())
                    .unwrap_or(1)
                    .min(9);
                // v1 is spelled as no variant.
                order.extend((1..level).rev().map(|v| match v {
                    1 => ("amd64".into(), String::new()),
                    v => ("amd64".into(), format!("v{v}")),
                }));
                order.push(("386".into(), String::new()));
            }
            "arm" => {
                let level = me
                    .variant
                    .strip_prefix('v')
                    .and_then(|v| v.parse::<u32>().ok())
                    .unwrap_or(7)
                    .min(8);
                order.extend((5..level).rev().map(|v| ("arm".into(), format!("v{v}"))));
            }
            "arm64" => {
                order.extend(
                    arm64_variants(&me.variant)
                        .into_iter()
                        .map(|v| ("arm64".into(), v)),
                );
                order.extend((5..=8).rev().map(|v| ("arm".into(), format!("v{v}"))));
            }
            _ => {}
        }
        order
    }

    /// How well `offered` serves someone who wants `self`: 0 is best, `None` is not at all.
    pub fn rank(&self, offered: &Platform) -> Option<usize> {
        let (wanted, offered) = (self.normalized(), offered.normalized());
        if wanted.os != offered.os {
            return None;
        }
        if !wanted.os_version.is_empty() && wanted.os_version != offered.os_version {
            return None;
        }
        self.preference().iter().position(|(arch, variant)| {
            *arch == offered.architecture && *variant == offered.variant
        })
    }
}

/// Lower variants that an arm64 of this variant also runs. v9.x includes v8.(x+5).
fn arm64_variants(variant: &str) -> Vec<String> {
    let text = if variant.is_empty() { "v8" } else { variant };
    let mut numbers = text
        .trim_start_matches('v')
        .splitn(2, '.')
        .map(|n| n.parse::<u32>().ok());
    let (Some(Some(major)), minor) = (numbers.next(), numbers.next().flatten().unwrap_or(0)) else {
        return Vec::new();
    };
    let minor = minor.min(9);
    let spell = |major: u32, minor: u32| match (major, minor) {
        (8, 0) => String::new(),
        (major, 0) => format!("v{major}"),
        (major, minor) => format!("v{major}.{minor}"),
    };
    let mut order = Vec::new();
    if major == 9 {
        order.extend((0..minor).rev().map(|m| spell(9, m)));
        order.extend((0..=(minor + 5).min(9)).rev().map(|m| spell(8, m)));
    } else if major == 8 {
        order.extend((0..minor).rev().map(|m| spell(8, m)));
    }
    order
}

fn normal_arch(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = match arch {
        "i386" | "x86" => ("386", ""),
        "x86_64" | "x86-64" | "amd64" => ("amd64", if variant == "v1" { "" } else { variant }),
        "aarch64" | "arm64" => match variant {
            "8" | "v8" | "v8.0" => ("arm64", ""),
            "9" | "v9.0" => ("arm64", "v9"),
            _ => ("arm64", variant),
        },
        "armhf" => ("arm", "v7"),
        "armel" => ("arm", "v6"),
        "arm" => match variant {
            "" | "7" => ("arm", "v7"),
            "5" => ("arm", "v5"),
            "6" => ("arm", "v6"),
            "8" => ("arm", "v8"),
            _ => ("arm", variant),
        },
        _ => (arch, variant),
    };
    (arch.to_owned(), variant.to_owned())
}

fn is_os(text: &str) -> bool {
    matches!(
        text,
        "linux"
            | "windows"
            | "darwin"
            | "macos"
            | "freebsd"
            | "netbsd"
            | "openbsd"
            | "dragonfly"
            | "solaris"
            | "illumos"
            | "android"
            | "aix"
            | "plan9"
            | "js"
            | "wasi"
            | "wasip1"
            | "ios"
    )
}

fn is_arch(text: &str) -> bool {
    matches!(
        text,
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "ppc64"
            | "ppc64le"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "riscv64"
            | "s390x"
            | "wasm"
            | "loong64"
            | "loongarch64"
    )
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `os`, `architecture`, `os/architecture` or `os/architecture/variant`; the missing parts are the host's.
    /// An operating system version may follow the system in brackets: `windows(10.0.17763)/amd64`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 {
            return Err(PlatformError::TooManyParts(text.into()));
        }
        let first = parts.first().copied().unwrap_or_default();
        let (os, os_version) = match first.strip_suffix(')').and_then(|p| p.split_once('(')) {
            Some((os, version)) => (os, version),
            None => (first, ""),
        };
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let rest = parts.iter().skip(1).copied();
        for part in std::iter::once(os).chain(rest) {
            if part.is_empty() || !part.chars().all(fine) {
                return Err(PlatformError::Component(part.into()));
            }
        }
        if !os_version.chars().all(fine) {
            return Err(PlatformError::Component(os_version.into()));
        }
        let host = Platform::host();
        let mut platform = match (parts.get(1), parts.get(2)) {
            (Some(arch), variant) => Platform::new(os, arch, variant.copied().unwrap_or_default()),
            (None, _) => {
                let lower = os.to_ascii_lowercase();
                let alone = Platform::new(&host.os, &lower, "");
                if is_os(&lower) {
                    Platform::new(&lower, &host.architecture, &host.variant)
                } else if is_arch(&alone.architecture) {
                    alone
                } else {
                    return Err(PlatformError::Unknown(text.into()));
                }
            }
        };
        platform.os_version = os_version.into();
        Ok(platform)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_platform_are_equal() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("Linux/aarch64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/i386", "linux/386"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ] {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                normal,
                "{text}"
            );
        }
    }

    #[test]
    fn bad_specifiers_are_refused() {
        for text in ["", "linux/", "linux/amd64/v1/x", "li nux/amd64", "nonsense"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_parsed_platform_prints_and_parses_back(text in "[a-z0-9_.()-]{0,8}(/[a-z0-9_.-]{1,8}){0,3}") {
            if let Ok(platform) = text.parse::<Platform>() {
                proptest::prop_assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
            }
        }
    }
}
