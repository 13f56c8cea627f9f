//! The rules and the texts of what they find. Names, descriptions, addresses and messages are what users and tools
//! match: they are the reference's.

use crate::parse::quote::go_quote;

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// By which it is turned off.
    pub name: &'static str,
    /// What it is about.
    pub description: &'static str,
    /// Where it is explained; empty when nowhere.
    pub url: &'static str,
    /// Runs only when asked for.
    pub experimental: bool,
}

/// What a rule found, not yet placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: &'static Rule,
    /// The message.
    pub message: String,
}

/// The rule of a name.
pub fn by_name(name: &str) -> Option<&'static Rule> {
    ALL.into_iter().find(|rule| rule.name == name)
}

fn finding(rule: &'static Rule, message: impl Into<String>) -> Finding {
    Finding {
        rule,
        message: message.into(),
    }
}

fn hint(near: Option<&str>, mark: &str) -> String {
    match near {
        Some(near) => format!(" (did you mean {mark}{near}?)"),
        None => String::new(),
    }
}

/// All rules.
pub static ALL: [&Rule; 22] = [
    &STAGE_NAME_CASING,
    &FROM_AS_CASING,
    &NO_EMPTY_CONTINUATION,
    &CONSISTENT_INSTRUCTION_CASING,
    &DUPLICATE_STAGE_NAME,
    &RESERVED_STAGE_NAME,
    &JSON_ARGS_RECOMMENDED,
    &MAINTAINER_DEPRECATED,
    &UNDEFINED_ARG_IN_FROM,
    &WORKDIR_RELATIVE_PATH,
    &UNDEFINED_VAR,
    &MULTIPLE_INSTRUCTIONS_DISALLOWED,
    &LEGACY_KEY_VALUE_FORMAT,
    &INVALID_BASE_IMAGE_PLATFORM,
    &REDUNDANT_TARGET_PLATFORM,
    &SECRETS_USED_IN_ARG_OR_ENV,
    &INVALID_DEFAULT_ARG_IN_FROM,
    &FROM_PLATFORM_FLAG_CONST_DISALLOWED,
    &COPY_IGNORED_FILE,
    &INVALID_DEFINITION_DESCRIPTION,
    &EXPOSE_PROTO_CASING,
    &EXPOSE_INVALID_FORMAT,
];

/// The rule of this name.
pub static STAGE_NAME_CASING: Rule = Rule {
    name: "StageNameCasing",
    description: "Stage names should be lowercase",
    url: "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
    experimental: false,
};

/// The rule of this name.
pub static FROM_AS_CASING: Rule = Rule {
    name: "FromAsCasing",
    description: "The 'as' keyword should match the case of the 'from' keyword",
    url: "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
    experimental: false,
};

/// The rule of this name.
pub static NO_EMPTY_CONTINUATION: Rule = Rule {
    name: "NoEmptyContinuation",
    description: "Empty continuation lines will become errors in a future release",
    url: "https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/",
    experimental: false,
};

/// The rule of this name.
pub static CONSISTENT_INSTRUCTION_CASING: Rule = Rule {
    name: "ConsistentInstructionCasing",
    description: "All commands within the Dockerfile should use the same casing (either upper or lower)",
    url: "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/",
    experimental: false,
};

/// The rule of this name.
pub static DUPLICATE_STAGE_NAME: Rule = Rule {
    name: "DuplicateStageName",
    description: "Stage names should be unique",
    url: "https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/",
    experimental: false,
};

/// The rule of this name.
pub static RESERVED_STAGE_NAME: Rule = Rule {
    name: "ReservedStageName",
    description: "Reserved words should not be used as stage names",
    url: "https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/",
    experimental: false,
};

/// The rule of this name.
pub static JSON_ARGS_RECOMMENDED: Rule = Rule {
    name: "JSONArgsRecommended",
    description: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    url: "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
    experimental: false,
};

/// The rule of this name.
pub static MAINTAINER_DEPRECATED: Rule = Rule {
    name: "MaintainerDeprecated",
    description: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    url: "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
    experimental: false,
};

/// The rule of this name.
pub static UNDEFINED_ARG_IN_FROM: Rule = Rule {
    name: "UndefinedArgInFrom",
    description: "FROM command must use declared ARGs",
    url: "https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/",
    experimental: false,
};

/// The rule of this name.
pub static WORKDIR_RELATIVE_PATH: Rule = Rule {
    name: "WorkdirRelativePath",
    description: "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    url: "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/",
    experimental: false,
};

/// The rule of this name.
pub static UNDEFINED_VAR: Rule = Rule {
    name: "UndefinedVar",
    description: "Variables should be defined before their use",
    url: "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
    experimental: false,
};

/// The rule of this name.
pub static MULTIPLE_INSTRUCTIONS_DISALLOWED: Rule = Rule {
    name: "MultipleInstructionsDisallowed",
    description: "Multiple instructions of the same type should not be used in the same stage",
    url: "https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/",
    experimental: false,
};

/// The rule of this name.
pub static LEGACY_KEY_VALUE_FORMAT: Rule = Rule {
    name: "LegacyKeyValueFormat",
    description: "Legacy key/value format with whitespace separator should not be used",
    url: "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
    experimental: false,
};

/// The rule of this name.
pub static INVALID_BASE_IMAGE_PLATFORM: Rule = Rule {
    name: "InvalidBaseImagePlatform",
    description: "Base image platform does not match expected target platform",
    url: "",
    experimental: false,
};

/// The rule of this name.
pub static REDUNDANT_TARGET_PLATFORM: Rule = Rule {
    name: "RedundantTargetPlatform",
    description: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    url: "https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/",
    experimental: false,
};

/// The rule of this name.
pub static SECRETS_USED_IN_ARG_OR_ENV: Rule = Rule {
    name: "SecretsUsedInArgOrEnv",
    description: "Sensitive data should not be used in the ARG or ENV commands",
    url: "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/",
    experimental: false,
};

/// The rule of this name.
pub static INVALID_DEFAULT_ARG_IN_FROM: Rule = Rule {
    name: "InvalidDefaultArgInFrom",
    description: "Default value for global ARG results in an empty or invalid base image name",
    url: "https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/",
    experimental: false,
};

/// The rule of this name.
pub static FROM_PLATFORM_FLAG_CONST_DISALLOWED: Rule = Rule {
    name: "FromPlatformFlagConstDisallowed",
    description: "FROM --platform flag should not use a constant value",
    url: "https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/",
    experimental: false,
};

/// The rule of this name.
pub static COPY_IGNORED_FILE: Rule = Rule {
    name: "CopyIgnoredFile",
    description: "Attempting to Copy file that is excluded by .dockerignore",
    url: "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/",
    experimental: false,
};

/// The rule of this name.
pub static INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    name: "InvalidDefinitionDescription",
    description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    url: "https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/",
    experimental: true,
};

/// The rule of this name.
pub static EXPOSE_PROTO_CASING: Rule = Rule {
    name: "ExposeProtoCasing",
    description: "Protocol in EXPOSE instruction should be lowercase",
    url: "https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/",
    experimental: false,
};

/// The rule of this name.
pub static EXPOSE_INVALID_FORMAT: Rule = Rule {
    name: "ExposeInvalidFormat",
    description: "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    url: "https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/",
    experimental: false,
};

/// A stage name with upper-case letters.
pub fn stage_name_casing(name: &str) -> Finding {
    let text = format!("Stage name '{name}' should be lowercase");
    finding(&STAGE_NAME_CASING, text)
}

/// FROM and AS in different case.
pub fn from_as_casing(from: &str, as_keyword: &str) -> Finding {
    let text = format!("'{as_keyword}' and '{from}' keywords' casing do not match");
    finding(&FROM_AS_CASING, text)
}

/// An empty line in a continued instruction.
pub fn no_empty_continuation() -> Finding {
    finding(&NO_EMPTY_CONTINUATION, "Empty continuation line")
}

/// A keyword in another case than most; `majority` is `uppercase` or `lowercase`.
pub fn consistent_instruction_casing(keyword: &str, majority: &str) -> Finding {
    let text =
        format!("Command '{keyword}' should match the case of the command majority ({majority})");
    finding(&CONSISTENT_INSTRUCTION_CASING, text)
}

/// A stage name used again.
pub fn duplicate_stage_name(name: &str) -> Finding {
    let name = go_quote(name);
    let text = format!("Duplicate stage name {name}, stage names should be unique");
    finding(&DUPLICATE_STAGE_NAME, text)
}

/// A stage called `scratch` or `context`.
pub fn reserved_stage_name(name: &str) -> Finding {
    let name = go_quote(name);
    let text = format!("Stage name should not use the same name as reserved stage {name}");
    finding(&RESERVED_STAGE_NAME, text)
}

/// CMD or ENTRYPOINT in shell form without SHELL.
pub fn json_args_recommended(keyword: &str) -> Finding {
    let text = format!(
        "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
    );
    finding(&JSON_ARGS_RECOMMENDED, text)
}

/// MAINTAINER.
pub fn maintainer_deprecated() -> Finding {
    let text = "Maintainer instruction is deprecated in favor of using label";
    finding(&MAINTAINER_DEPRECATED, text)
}

/// A variable of FROM that no global ARG declares.
pub fn undefined_arg_in_from(name: &str, near: Option<&str>) -> Finding {
    let hint = hint(near, "");
    let text = format!("FROM argument '{name}' is not declared{hint}");
    finding(&UNDEFINED_ARG_IN_FROM, text)
}

/// The first WORKDIR of a chain of stages is relative.
pub fn workdir_relative_path(path: &str) -> Finding {
    let path = go_quote(path);
    let text =
        format!("Relative workdir {path} can have unexpected results if the base image changes");
    finding(&WORKDIR_RELATIVE_PATH, text)
}

/// A variable that is not set.
pub fn undefined_var(name: &str, near: Option<&str>) -> Finding {
    let hint = hint(near, "$");
    let text = format!("Usage of undefined variable '${name}'{hint}");
    finding(&UNDEFINED_VAR, text)
}

/// A second CMD, ENTRYPOINT or HEALTHCHECK; reported where the earlier one is.
pub fn multiple_instructions_disallowed(keyword: &str) -> Finding {
    let text = format!(
        "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
    );
    finding(&MULTIPLE_INSTRUCTIONS_DISALLOWED, text)
}

/// `ENV key value`.
pub fn legacy_key_value_format(keyword: &str) -> Finding {
    let text = format!(
        "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
    );
    finding(&LEGACY_KEY_VALUE_FORMAT, text)
}

/// A base image for another platform.
pub fn invalid_base_image_platform(image: &str, expected: &str, actual: &str) -> Finding {
    let (expected, actual) = (go_quote(expected), go_quote(actual));
    let text = format!(
        "Base image {image} was pulled with platform {actual}, expected {expected} for current build"
    );
    finding(&INVALID_BASE_IMAGE_PLATFORM, text)
}

/// `--platform=$TARGETPLATFORM`, as written.
pub fn redundant_target_platform(written: &str) -> Finding {
    let text = format!(
        "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
    );
    finding(&REDUNDANT_TARGET_PLATFORM, text)
}

/// A key that looks like a secret's; `instruction` is `ARG` or `ENV`. See [`is_secret_name`].
pub fn secrets_used_in_arg_or_env(instruction: &str, key: &str) -> Finding {
    let key = go_quote(key);
    let text =
        format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {key})");
    finding(&SECRETS_USED_IN_ARG_OR_ENV, text)
}

/// Whether a key looks like a secret's: one of its words, split at `_`, says so and none says otherwise.
pub fn is_secret_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let has = |words: &[&str]| key.split('_').any(|word| words.contains(&word));
    has(&[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ]) && !has(&["public", "file", "version"])
}

/// A base that is no valid image name when no build argument is given; `base` as written.
pub fn invalid_default_arg_in_from(base: &str) -> Finding {
    let text = format!("Default value for ARG {base} results in empty or invalid base image name");
    finding(&INVALID_DEFAULT_ARG_IN_FROM, text)
}

/// `--platform=linux/amd64`.
pub fn from_platform_flag_const_disallowed(platform: &str) -> Finding {
    let platform = go_quote(platform);
    let text = format!("FROM --platform flag should not use constant value {platform}");
    finding(&FROM_PLATFORM_FLAG_CONST_DISALLOWED, text)
}

/// A source that the ignore file leaves out; `instruction` is `Copy` or `Add`.
pub fn copy_ignored_file(instruction: &str, file: &str) -> Finding {
    let file = go_quote(file);
    let text = format!("Attempting to {instruction} file {file} that is excluded by .dockerignore");
    finding(&COPY_IGNORED_FILE, text)
}

/// A comment above ARG or FROM that does not describe it.
pub fn invalid_definition_description(instruction: &str, name: &str) -> Finding {
    let text =
        format!("Comment for {instruction} should follow the format: `# {name} <description>`");
    finding(&INVALID_DEFINITION_DESCRIPTION, text)
}

/// `EXPOSE 80/TCP`.
pub fn expose_proto_casing(port: &str) -> Finding {
    let text = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
    finding(&EXPOSE_PROTO_CASING, text)
}

/// `EXPOSE 127.0.0.1:80:80`.
pub fn expose_invalid_format(port: &str) -> Finding {
    let text = format!(
        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
    );
    finding(&EXPOSE_INVALID_FORMAT, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_own_name_and_address() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), ALL.len());
        for rule in ALL {
            assert_eq!(by_name(rule.name), Some(rule));
        }
        assert_eq!(by_name("NoSuchRule"), None);
        assert_eq!(
            JSON_ARGS_RECOMMENDED.url,
            "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
        );
        assert_eq!(INVALID_BASE_IMAGE_PLATFORM.url, "");
    }

    #[test]
    fn secret_names_are_told_by_their_words() {
        for name in ["key", "SECRET_TOKEN", "api_key", "DB_PASSWORD", "x_auth"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "KEYBOARD",
            "PUBLIC_KEY",
            "TOKEN_FILE",
            "secrets",
            "KEY_VERSION",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn hints_follow_the_name() {
        assert_eq!(
            undefined_var("X", Some("Y")).message,
            "Usage of undefined variable '$X' (did you mean $Y?)"
        );
        assert_eq!(
            undefined_arg_in_from("X", Some("Y")).message,
            "FROM argument 'X' is not declared (did you mean Y?)"
        );
    }
}
