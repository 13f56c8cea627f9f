//! Platforms as ops carry them: read, normalised and printed by the rules of the field.

use crate::pb::Platform;

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A part with characters that no part has.
    #[error(
        "\"{text}\" is an invalid component of \"{whole}\": platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component {
        /// The part.
        text: String,
        /// The whole text.
        whole: String,
    },
    /// One word that is neither a system nor an architecture.
    #[error("\"{0}\": unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// More than three parts.
    #[error("\"{0}\": cannot parse platform specifier: invalid argument")]
    Form(String),
}

/// The platform of this machine.
pub fn host() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    let variant = if architecture == "arm" { "v7" } else { "" };
    Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    }
}

/// Reads `os`, `arch`, `os/arch` or `os/arch/variant`; a system may carry `(version)`.
///
/// # Errors
/// When a part is malformed or a lone word unknown.
pub fn parse(text: &str) -> Result<Platform, PlatformError> {
    // A fourth part holds all the rest, and is named whole when it is refused.
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    let (os_part, os_version) = match parts.first() {
        Some(first) => match first.split_once('(') {
            Some((os, rest)) if rest.ends_with(')') => (os, rest.trim_end_matches(')').to_owned()),
            _ => (*first, String::new()),
        },
        None => ("", String::new()),
    };
    for part in std::iter::once(os_part).chain(parts.iter().skip(1).copied()) {
        let good = !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !good {
            return Err(PlatformError::Component {
                text: part.to_owned(),
                whole: text.to_owned(),
            });
        }
    }
    let here = host();
    let mut platform = Platform {
        os_version,
        ..Platform::default()
    };
    match parts.as_slice() {
        [_] => {
            let os = normalize_os(os_part);
            if is_known_os(&os) {
                platform.os = os;
                platform.architecture = here.architecture;
                platform.variant = here.variant;
                return Ok(platform);
            }
            let (architecture, variant) = normalize_arch(os_part, "");
            if is_known_arch(&architecture) {
                platform.os = here.os;
                platform.variant = if architecture == "arm" && variant.is_empty() {
                    "v7".to_owned()
                } else {
                    variant
                };
                platform.architecture = architecture;
                return Ok(platform);
            }
            Err(PlatformError::Unknown(text.to_owned()))
        }
        [_, arch] => {
            platform.os = normalize_os(os_part);
            let (architecture, variant) = normalize_arch(arch, "");
            platform.variant = if architecture == "arm" && variant == "v7" {
                String::new()
            } else {
                variant
            };
            platform.architecture = architecture;
            Ok(platform)
        }
        [_, arch, variant] => {
            platform.os = normalize_os(os_part);
            let (architecture, variant) = normalize_arch(arch, variant);
            platform.variant = if architecture == "arm64" && variant.is_empty() {
                "v8".to_owned()
            } else {
                variant
            };
            platform.architecture = architecture;
            Ok(platform)
        }
        _ => Err(PlatformError::Form(text.to_owned())),
    }
}

/// One spelling for each platform: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
pub fn normalize(platform: &Platform) -> Platform {
    let (architecture, variant) = normalize_arch(&platform.architecture, &platform.variant);
    Platform {
        os: normalize_os(&platform.os),
        architecture,
        variant,
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// `os/arch` or `os/arch/variant`; `unknown` without a system.
pub fn format(platform: &Platform) -> String {
    print(&platform.os, platform)
}

/// As [`format()`], with the system's version in parentheses.
pub fn format_all(platform: &Platform) -> String {
    if platform.os_version.is_empty() {
        return format(platform);
    }
    print(
        &format!("{}({})", platform.os, platform.os_version),
        platform,
    )
}

fn print(os: &str, platform: &Platform) -> String {
    if platform.os.is_empty() {
        return "unknown".to_owned();
    }
    let parts = [os, &platform.architecture, &platform.variant];
    let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    parts.join("/")
}

fn normalize_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "" => host().os,
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalize_arch(arch: &str, variant: &str) -> (String, String) {
    let arch = arch.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (arch, variant) = match arch.as_str() {
        "i386" => ("386", ""),
        "x86_64" | "x86-64" | "amd64" => (
            "amd64",
            if variant == "v1" {
                ""
            } else {
                variant.as_str()
            },
        ),
        "aarch64" | "arm64" => (
            "arm64",
            match variant.as_str() {
                "8" | "v8" | "v8.0" => "",
                "9" | "9.0" | "v9.0" => "v9",
                other => other,
            },
        ),
        "armhf" => ("arm", "v6"),
        "armel" => ("arm", "v6"),
        "arm" => (
            "arm",
            match variant.as_str() {
                "" | "7" => "v7",
                "5" => "v5",
                "6" => "v6",
                "8" => "v8",
                other => other,
            },
        ),
        other => (other, variant.as_str()),
    };
    (arch.to_owned(), variant.to_owned())
}

fn is_known_os(os: &str) -> bool {
    matches!(
        os,
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "hurd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "nacl"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
            | "zos"
    )
}

fn is_known_arch(arch: &str) -> bool {
    matches!(
        arch,
        "386"
            | "amd64"
            | "amd64p32"
            | "arm"
            | "armbe"
            | "arm64"
            | "arm64be"
            | "ppc64"
            | "ppc64le"
            | "loong64"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "mips64p32"
            | "mips64p32le"
            | "ppc"
            | "riscv"
            | "riscv64"
            | "s390"
            | "s390x"
            | "sparc"
            | "sparc64"
            | "wasm"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_printed_in_one_spelling() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(
                format_all(&normalize(&parse(text).unwrap())),
                want,
                "{text}"
            );
        }
        assert!(parse("nonsense").is_err());
        assert!(parse("linux/").is_err());
        assert!(parse("a/b/c/d").is_err());
    }
}
