//! Instructions that only change the image's config: ENV, LABEL, ARG, CMD and their like.

use std::sync::Arc;

use gateway_api::Error;

use super::args::ArgInfo;
use super::image::Healthcheck;
use super::stage::Stage;
use super::{Converter, args, signal};
use crate::parse::quote::go_quote;
use crate::parse::{self, ArgPair, CommandLine, Instruction, KeyValue};

impl Converter<'_> {
    pub(super) fn env(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        pairs: &[KeyValue],
    ) -> Result<(), Error> {
        let pairs = self.expand_pairs(stage, instruction, pairs)?;
        let keys = pairs.iter().map(|(key, _)| key.as_str());
        self.checks
            .with(|linter| stage.checks.env_keys(instruction, keys, linter));
        let mut text = "ENV".to_owned();
        for (key, value) in pairs {
            text.push_str(&format!(" {key}={value}"));
            stage.env_in_order &= !key.contains('=') && stage.state.get_env().get(&key).is_none();
            stage.state.set_env(&key, &value);
            stage.image.set_env(&key, &value);
        }
        self.commit(stage, text, false)?;
        Ok(())
    }

    pub(super) fn label(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        pairs: &[KeyValue],
    ) -> Result<(), Error> {
        let pairs = self.expand_pairs(stage, instruction, pairs)?;
        let mut text = "LABEL".to_owned();
        for (key, value) in pairs {
            text.push_str(&format!(" {key}={value}"));
            stage.image.labels.insert_mut(key, value);
        }
        self.commit(stage, text, false)?;
        Ok(())
    }

    fn expand_pairs(
        &self,
        stage: &Stage,
        instruction: &Instruction,
        pairs: &[KeyValue],
    ) -> Result<Vec<(String, String)>, Error> {
        pairs
            .iter()
            .map(|pair| {
                let key = self.expand(stage, instruction, &pair.key)?;
                let value = self.expand(stage, instruction, &pair.value)?;
                Ok((key, value))
            })
            .collect()
    }

    pub(super) fn arg(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        pairs: &[ArgPair],
    ) -> Result<(), Error> {
        let mut texts = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let key = &pair.key;
            let inherited = !self.build_args.contains_key(key)
                && pair.value.is_none()
                && self.global.get(key).is_some();
            let value = match (self.build_args.get(key), &pair.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(stage, instruction, default)?),
                (None, None) => self.global.get(key).map(str::to_owned),
            };
            if let Some(value) = value
                .as_deref()
                .filter(|_| !args::NOT_IN_ENV.contains(&key.as_str()))
            {
                stage.state.set_env(key, value);
                stage.env_in_order = false;
            }
            if !inherited {
                let info = ArgInfo {
                    value: value.clone().unwrap_or_default(),
                    description: pair.doc_comment.clone(),
                    location: instruction.location,
                    ..ArgInfo::default()
                };
                stage.parameters.args.insert(key.clone(), info);
            }
            stage.parameters.used.insert(key.clone());
            texts.push(match &value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            });
            stage.args.set(key, value.map(Arc::from));
        }
        let text = format!("ARG {}", texts.join(" "));
        self.commit(stage, text, false)?;
        Ok(())
    }

    pub(super) fn cmd(&mut self, stage: &mut Stage, line: &CommandLine) -> Result<(), Error> {
        let args = command(stage, line);
        self.commit(stage, format!("CMD {}", quoted(&args)), false)?;
        stage.image.cmd = args.into();
        stage.image.args_escaped = true;
        stage.has_cmd = true;
        Ok(())
    }

    pub(super) fn entrypoint(
        &mut self,
        stage: &mut Stage,
        line: &CommandLine,
    ) -> Result<(), Error> {
        let args = command(stage, line);
        let text = format!("ENTRYPOINT {}", quoted(&args));
        self.commit(stage, text, false)?;
        stage.image.entrypoint = args.into();
        // The base's arguments were meant for the base's entry point.
        if !stage.has_cmd {
            stage.image.cmd = Arc::default();
        }
        Ok(())
    }

    pub(super) fn healthcheck(
        &mut self,
        stage: &mut Stage,
        check: &parse::Healthcheck,
    ) -> Result<(), Error> {
        let text = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            check.test.join(" "),
            duration(check.interval),
            duration(check.timeout),
            duration(check.start_period),
            duration(check.start_interval),
            check.retries
        );
        stage.image.healthcheck = Some(Arc::new(Healthcheck {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries.into(),
        }));
        self.commit(stage, text, false)?;
        Ok(())
    }

    pub(super) fn shell(&mut self, stage: &mut Stage, shell: &[String]) -> Result<(), Error> {
        let text = format!("SHELL [{}]", shell.join(" "));
        self.commit(stage, text, false)?;
        stage.image.shell = shell.into();
        Ok(())
    }

    pub(super) fn maintainer(&mut self, stage: &mut Stage, name: &str) -> Result<(), Error> {
        stage.image.author = name.into();
        let text = format!("MAINTAINER {name}");
        self.commit(stage, text, false)?;
        Ok(())
    }

    pub(super) fn volume(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        volumes: &[String],
    ) -> Result<(), Error> {
        let volumes = self.expand_all(stage, instruction, volumes)?;
        if volumes.iter().any(String::is_empty) {
            return Err(Error::unknown(
                "VOLUME specified can not be an empty string",
            ));
        }
        let text = format!("VOLUME [{}]", volumes.join(" "));
        for volume in volumes {
            stage.image.volumes.insert_mut(volume);
        }
        self.commit(stage, text, false)?;
        Ok(())
    }

    pub(super) fn stopsignal(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        name: &str,
    ) -> Result<(), Error> {
        let name = self.expand(stage, instruction, name)?;
        if !signal::is_signal(&name) {
            return Err(Error::unknown(format!("invalid signal: {name}")));
        }
        let text = format!("STOPSIGNAL {name}");
        self.commit(stage, text, false)?;
        stage.image.stop_signal = name.into();
        Ok(())
    }
}

/// The arguments of CMD and ENTRYPOINT.
fn command(stage: &Stage, line: &CommandLine) -> Vec<String> {
    if line.shell_form {
        with_shell(stage, &line.args)
    } else {
        line.args.clone()
    }
}

/// A command in shell form, with the shell of the image in front.
pub(super) fn with_shell(stage: &Stage, args: &[String]) -> Vec<String> {
    let shell = &stage.image.shell;
    let mut out = if !shell.is_empty() {
        shell.to_vec()
    } else if stage.image.os() == "windows" {
        ["cmd", "/S", "/C"].map(str::to_owned).to_vec()
    } else {
        ["/bin/sh", "-c"].map(str::to_owned).to_vec()
    };
    out.push(args.join(" "));
    out
}

/// Arguments as the history shows them: `["a" "b"]`.
fn quoted(args: &[String]) -> String {
    let args: Vec<String> = args.iter().map(|arg| go_quote(arg)).collect();
    format!("[{}]", args.join(" "))
}

/// A time in nanoseconds as the history shows it: `1m30s`, `1.5s`, `100ms`.
fn duration(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.unsigned_abs();
    let decimal = |value: u64, unit: u64, name: &str| {
        let digits = unit.ilog10() as usize;
        let fraction = format!("{:0digits$}", value % unit);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() || digits == 0 {
            format!("{}{name}", value / unit)
        } else {
            format!("{}.{fraction}{name}", value / unit)
        }
    };
    let text = match all {
        0..1_000 => format!("{all}ns"),
        1_000..1_000_000 => decimal(all, 1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(all, 1_000_000, "ms"),
        _ => {
            let minutes = all / 60_000_000_000;
            let seconds = decimal(all % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_are_printed_in_their_usual_units() {
        for (value, text) in [
            (0, "0s"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (100_000_000, "100ms"),
            (1_500, "1.5µs"),
        ] {
            assert_eq!(super::duration(value), text);
        }
    }
}
