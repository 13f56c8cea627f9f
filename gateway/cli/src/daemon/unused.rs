//! Flags of buildkitd that change nothing here: they are taken, so that units and scripts written for
//! it go on working, and those that ask for something else are told.

use clap::{Arg, ArgAction, ArgMatches, Command};

/// What a flag is followed by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing, or `=true` and `=false`.
    Switch,
    Value,
}

/// When there is something to say of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Always,
    /// Not when it says this, which is how things are.
    Unless(&'static str),
    Never,
}

use Kind::{Switch, Value};
use Told::{Always, Never, Unless};

const NO_CONTAINERD: &str = "steps run without containerd";
const NO_CNI: &str = "networks are set by each build";
const ONE_KIND: &str = "there is one kind of snapshots";
const IN_FILE: &str = "set the limits of worker.oci in the configuration";
const NO_CDI: &str = "there are no such devices for steps";

/// All of them, with why nothing comes of them.
const FLAGS: &[(&str, Kind, Told, &str)] = &[
    ("debug", Switch, Never, ""),
    ("trace", Switch, Never, ""),
    ("rootless", Switch, Never, ""),
    ("log-format", Value, Never, ""),
    ("log-level", Value, Never, ""),
    ("debugaddr", Value, Always, "there is no such listener"),
    (
        "proxy-network",
        Switch,
        Unless("false"),
        "builds get no proxy of the daemon",
    ),
    (
        "otel-socket-path",
        Value,
        Always,
        "traces of steps are not collected",
    ),
    ("cdi-disabled", Switch, Unless("true"), NO_CDI),
    ("cdi-spec-dir", Value, Always, NO_CDI),
    (
        "save-cache-debug",
        Switch,
        Unless("false"),
        "there is no such file",
    ),
    ("containerd-worker", Value, Unless("false"), NO_CONTAINERD),
    ("containerd-worker-addr", Value, Always, NO_CONTAINERD),
    ("containerd-worker-labels", Value, Always, NO_CONTAINERD),
    ("containerd-worker-net", Value, Always, NO_CONTAINERD),
    ("containerd-cni-config-path", Value, Always, NO_CONTAINERD),
    ("containerd-cni-binary-dir", Value, Always, NO_CONTAINERD),
    ("containerd-cni-pool-size", Value, Always, NO_CONTAINERD),
    (
        "containerd-worker-snapshotter",
        Value,
        Always,
        NO_CONTAINERD,
    ),
    (
        "containerd-worker-apparmor-profile",
        Value,
        Always,
        NO_CONTAINERD,
    ),
    (
        "containerd-worker-selinux",
        Switch,
        Unless("false"),
        NO_CONTAINERD,
    ),
    ("containerd-max-parallelism", Value, Always, NO_CONTAINERD),
    (
        "containerd-worker-rootless",
        Switch,
        Unless("false"),
        NO_CONTAINERD,
    ),
    (
        "containerd-worker-gc",
        Switch,
        Unless("false"),
        NO_CONTAINERD,
    ),
    (
        "containerd-worker-gc-keepstorage",
        Value,
        Always,
        NO_CONTAINERD,
    ),
    (
        "oci-worker",
        Value,
        Unless("true"),
        "there is no other worker",
    ),
    ("oci-worker-rootless", Switch, Never, ""),
    ("oci-worker-snapshotter", Value, Always, ONE_KIND),
    ("oci-worker-proxy-snapshotter-path", Value, Always, ONE_KIND),
    ("oci-worker-net", Value, Always, NO_CNI),
    ("oci-cni-config-path", Value, Always, NO_CNI),
    ("oci-cni-binary-dir", Value, Always, NO_CNI),
    ("oci-cni-pool-size", Value, Always, NO_CNI),
    (
        "oci-worker-binary",
        Value,
        Always,
        "steps run without another program",
    ),
    (
        "oci-worker-apparmor-profile",
        Value,
        Always,
        "steps are confined otherwise",
    ),
    (
        "oci-worker-selinux",
        Switch,
        Unless("false"),
        "steps are confined otherwise",
    ),
    (
        "oci-worker-no-process-sandbox",
        Switch,
        Unless("false"),
        "steps are always sandboxed",
    ),
    ("oci-worker-gc", Switch, Unless("true"), IN_FILE),
    ("oci-worker-gc-keepstorage", Value, Always, IN_FILE),
];

/// What was given of them, in words.
#[derive(Debug, Default)]
pub struct Unused(pub Vec<String>);

impl clap::Args for Unused {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, (name, kind, ..)| {
            let flag = Arg::new(*name)
                .long(*name)
                .hide(true)
                .action(ArgAction::Append);
            command.arg(match kind {
                Value => flag,
                Switch => flag
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Unused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut notes = Vec::new();
        for (name, _, told, why) in FLAGS {
            let Some(values) = matches.get_many::<String>(name) else {
                continue;
            };
            let told = match told {
                Always => true,
                Never => false,
                Unless(as_it_is) => values
                    .clone()
                    .any(|value| value != as_it_is && value != "auto"),
            };
            if told {
                let given: Vec<&str> = values.map(String::as_str).collect();
                notes.push(format!("--{name}={} is ignored: {why}", given.join(",")));
            }
        }
        Ok(Unused(notes))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn notes(given: &[&str]) -> Vec<String> {
        let command = Unused::augment_args(Command::new("x"));
        let matches = command.try_get_matches_from([&["x"], given].concat());
        Unused::from_arg_matches(&matches.expect("flags"))
            .expect("flags")
            .0
    }

    #[test]
    fn p62_every_flag_is_taken_in_both_of_its_forms() {
        for (name, kind, ..) in FLAGS {
            let flag = format!("--{name}");
            match kind {
                Value => notes(&[&flag, "v"]),
                Switch => notes(&[&flag]),
            };
            notes(&[&format!("{flag}=false")]);
        }
    }

    #[test]
    fn p62_what_is_as_it_is_anyway_is_not_told() {
        let none: Vec<String> = Vec::new();
        let as_it_is = [
            "--oci-worker=true",
            "--containerd-worker",
            "false",
            "--debug",
        ];
        assert_eq!(notes(&as_it_is), none);
        assert_eq!(notes(&["--oci-worker=auto", "--oci-worker-gc"]), none);
        assert_eq!(
            notes(&["--oci-worker", "false", "--oci-worker-net=host"]),
            [
                "--oci-worker=false is ignored: there is no other worker",
                "--oci-worker-net=host is ignored: networks are set by each build",
            ]
        );
    }
}
