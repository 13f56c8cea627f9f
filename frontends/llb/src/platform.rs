//! Platforms as ops carry them: read, normalised and printed by the rules of the field.

use crate::pb::Platform;

/// The form of a system, as refusals show it.
const OS_FORM: &str = r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$";

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
    /// A system with characters that none has.
    #[error(
        "\"{text}\" is an invalid OS component of \"{whole}\": OSAndVersion specifier component must match \"{OS_FORM}\": invalid argument"
    )]
    System {
        /// The part.
        text: String,
        /// The whole text.
        whole: String,
    },
    /// Patterns are not platforms.
    #[error("\"{0}\": wildcards not yet supported: invalid argument")]
    Wildcard(String),
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
    if text.contains('*') {
        return Err(PlatformError::Wildcard(text.to_owned()));
    }
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    let first = parts.first().copied().unwrap_or_default();
    let (os_part, os_version, os_features) =
        system(first).ok_or_else(|| PlatformError::System {
            text: first.to_owned(),
            whole: text.to_owned(),
        })?;
    for part in parts.iter().skip(1) {
        if part.is_empty() || !part.bytes().all(is_part_byte) {
            return Err(PlatformError::Component {
                text: (*part).to_owned(),
                whole: text.to_owned(),
            });
        }
    }
    let here = host();
    let mut platform = Platform {
        os_version,
        os_features,
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
            let (architecture, variant) = normalize_arch(first, "");
            if is_known_arch(&architecture) {
                platform.os = here.os;
                platform.variant = if architecture == "arm" && variant == "v7" {
                    String::new()
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

fn is_part_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')
}

/// A system with its version and features: `windows(10.0.17763+win32k)`.
fn system(text: &str) -> Option<(&str, String, Vec<String>)> {
    let (os, options) = match text.split_once('(') {
        Some((os, rest)) => (os, Some(rest.strip_suffix(')')?)),
        None => (text, None),
    };
    let is_os_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if os.is_empty() || !os.bytes().all(is_os_byte) {
        return None;
    }
    let Some(options) = options else {
        return Some((os, String::new(), Vec::new()));
    };
    let mut parts = options.split('+');
    let good = |part: &str| part.bytes().all(|b| is_part_byte(b) || b == b'%');
    let version = parts.next().filter(|part| good(part))?;
    let mut features = Vec::new();
    for part in parts {
        if part.is_empty() || !good(part) {
            return None;
        }
        features.push(unescape(part)?);
    }
    Some((os, unescape(version)?, features))
}

/// `%2B` and the like.
fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(out).ok()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => out.push_str("%25"),
            '+' => out.push_str("%2B"),
            '(' => out.push_str("%28"),
            ')' => out.push_str("%29"),
            '/' => out.push_str("%2F"),
            c => out.push(c),
        }
    }
    out
}

/// One spelling for each platform: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
pub fn normalize(platform: &Platform) -> Platform {
    let (architecture, variant) = normalize_arch(&platform.architecture, &platform.variant);
    Platform {
        os: normalize_os(&platform.os),
        architecture,
        variant,
        os_version: platform.os_version.clone(),
        os_features: sorted(&platform.os_features),
    }
}

fn sorted(features: &[String]) -> Vec<String> {
    let mut features = features.to_vec();
    features.sort();
    features.dedup();
    features
}

/// `os/arch` or `os/arch/variant`; `unknown` without a system.
pub fn format(platform: &Platform) -> String {
    print(&platform.os, platform)
}

/// As [`format()`], with the system's version and features in parentheses.
pub fn format_all(platform: &Platform) -> String {
    let mut options = escape(&platform.os_version);
    for feature in sorted(&platform.os_features) {
        if !feature.is_empty() {
            options.push('+');
            options.push_str(&escape(&feature));
        }
    }
    if options.is_empty() {
        return format(platform);
    }
    print(&format!("{}({options})", platform.os), platform)
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
        "armhf" => ("arm", "v7"),
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
        let text = "windows(10.0.17763+win32k)/amd64";
        let parsed = parse(text).unwrap();
        assert_eq!(parsed.os_features, ["win32k"]);
        assert_eq!(format_all(&parsed), text);
        assert!(
            parse("linux(1")
                .unwrap_err()
                .to_string()
                .contains(r#"must match "^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+"#)
        );
        assert!(parse("nonsense").is_err());
        assert!(parse("linux/").is_err());
        assert!(parse("a/b/c/d").is_err());
    }
}
