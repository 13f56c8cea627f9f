//! Limits of steps as docker's flags write them: `--shm-size 64m`, `--ulimit nofile=1024:2048`,
//! `--memory 2g`.

use std::collections::BTreeMap;

use gateway_frontend::conventions::options::ULIMITS;

use crate::build::args::Build;
use crate::error::UsageError;

/// Flags of their own that are short for a `--resource`.
type Short<'a> = (&'static str, &'static str, &'a Option<String>);
/// Keys of `--resource` by the option of the frontend that carries them.
const RESOURCES: [(&str, &str); 7] = [
    ("memory", "memory"),
    ("memory-swap", "memswap"),
    ("cpu-shares", "cpushares"),
    ("cpu-period", "cpuperiod"),
    ("cpu-quota", "cpuquota"),
    ("cpuset-cpus", "cpusetcpus"),
    ("cpuset-mems", "cpusetmems"),
];

/// Writes what the flags say into the frontend's options.
pub fn options(args: &Build, opts: &mut BTreeMap<String, String>) -> Result<(), UsageError> {
    if let Some(text) = &args.shm_size {
        let bytes = bytes(text)
            .ok_or_else(|| UsageError::new("--shm-size", text, "write a size like 64m".into()))?;
        opts.insert("shm-size".into(), bytes.to_string());
    }
    for text in &args.ulimits {
        check_ulimit(text).map_err(|problem| UsageError::new("--ulimit", text, problem))?;
    }
    if !args.ulimits.is_empty() {
        opts.insert("ulimit".into(), args.ulimits.join(","));
    }
    if let Some(parent) = &args.cgroup_parent {
        opts.insert("cgroup-parent".into(), parent.clone());
    }
    let shorts: [Short; 7] = [
        ("--memory", "memory", &args.docker.memory),
        ("--memory-swap", "memory-swap", &args.docker.memory_swap),
        ("--cpu-shares", "cpu-shares", &args.docker.cpu_shares),
        ("--cpu-period", "cpu-period", &args.docker.cpu_period),
        ("--cpu-quota", "cpu-quota", &args.docker.cpu_quota),
        ("--cpuset-cpus", "cpuset-cpus", &args.docker.cpuset_cpus),
        ("--cpuset-mems", "cpuset-mems", &args.docker.cpuset_mems),
    ];
    for (flag, key, value) in shorts {
        if let Some(value) = value {
            set(key, value, opts).map_err(|problem| UsageError::new(flag, value, problem))?;
        }
    }
    for text in &args.resources {
        let wrong = |problem| UsageError::new("--resource", text, problem);
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| wrong("write KEY=VALUE".to_owned()))?;
        set(key.trim(), value, opts).map_err(wrong)?;
    }
    Ok(())
}

fn set(key: &str, value: &str, opts: &mut BTreeMap<String, String>) -> Result<(), String> {
    let known = RESOURCES.iter().find(|(known, _)| *known == key);
    let Some((_, option)) = known else {
        let known: Vec<&str> = RESOURCES.iter().map(|(key, _)| *key).collect();
        return Err(format!(
            "unknown resource {key:?}: {} are known",
            known.join(", ")
        ));
    };
    let value = match key {
        "memory" | "memory-swap" if value != "-1" => bytes(value)
            .ok_or_else(|| "write a size like 2g".to_owned())?
            .to_string(),
        "cpu-shares" | "cpu-period" if value.parse::<u64>().is_err() => {
            return Err("write a number, 0 or more".to_owned());
        }
        "cpu-quota" if value.parse::<i64>().is_err() => {
            return Err("write a number of microseconds".to_owned());
        }
        _ => value.to_owned(),
    };
    opts.insert((*option).to_owned(), value);
    Ok(())
}

/// `NAME=SOFT[:HARD]`; several with commas between them, as one flag of docker's can hold too.
fn check_ulimit(text: &str) -> Result<(), String> {
    for one in text.split(',').filter(|one| !one.is_empty()) {
        let form = || "write NAME=SOFT or NAME=SOFT:HARD, with numbers".to_owned();
        let (name, limits) = one.split_once('=').ok_or_else(form)?;
        if !ULIMITS.contains(&name) {
            let known = ULIMITS.join(", ");
            return Err(format!("unknown limit {name:?}: {known} are known"));
        }
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| text.parse::<i64>().map_err(|_| form());
        let (soft, hard) = (number(soft)?, number(hard)?);
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(format!(
                "the first number, {soft}, is above the second, {hard}"
            ));
        }
    }
    Ok(())
}

/// `64m`, `1.5GiB`, `100`: powers of 1024 whatever the spelling, as docker counts memory.
pub fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_lowercase();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let power = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * 1024_f64.powi(power);
    // Above 2^53 the fraction is lost, which no memory comes near.
    (value.is_finite() && value <= 9e15).then_some(value as i64)
}

#[cfg(test)]
mod tests {

    use super::*;

    fn given(flags: &[&str]) -> Result<BTreeMap<String, String>, UsageError> {
        let build = Build::of_words(flags.iter().chain(&["."])).unwrap();
        let mut opts = BTreeMap::new();
        options(&build, &mut opts).map(|()| opts)
    }

    #[test]
    fn sizes_are_counted_as_docker_counts_them() {
        for (text, count) in [
            ("64m", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("2gb", Some(2 << 30)),
            ("100", Some(100)),
            ("100b", Some(100)),
            ("x", None),
            ("1z", None),
            ("-1", None),
            ("", None),
            ("1e999", None),
        ] {
            assert_eq!(bytes(text), count, "{text}");
        }
    }

    #[test]
    fn limits_become_options_of_the_frontend() {
        let opts = given(&[
            "--shm-size",
            "64m",
            "--ulimit",
            "nofile=1:2",
            "--ulimit",
            "nproc=3",
            "-m",
            "2g",
            "--cpu-quota",
            "5",
            "--resource",
            "cpuset-cpus=0-3",
            "--resource",
            "memory-swap=-1",
            "--cgroup-parent",
            "/x",
        ])
        .unwrap();
        let expected: BTreeMap<String, String> = [
            ("cgroup-parent", "/x"),
            ("cpuquota", "5"),
            ("cpusetcpus", "0-3"),
            ("memory", "2147483648"),
            ("memswap", "-1"),
            ("shm-size", "67108864"),
            ("ulimit", "nofile=1:2,nproc=3"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        assert_eq!(opts, expected);
    }

    #[test]
    fn what_is_no_limit_names_itself() {
        for flags in [
            ["--shm-size", "much"],
            ["--memory", "much"],
            ["--resource", "gpu=1"],
            ["--resource", "memory"],
        ] {
            let error = given(&flags).unwrap_err().to_string();
            assert!(error.contains(flags[0]), "{error}");
        }
    }
}
