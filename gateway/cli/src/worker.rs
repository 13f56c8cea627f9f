//! How steps are run: the keys of `[worker.oci]` and `[cdi]` in a buildkitd.toml, and the networks of
//! this machine that `--network` can name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gateway_sandbox::Network;
use gateway_solver::StepOptions;

use crate::error::UsageError;

/// Where an OCI runtime without a path is looked for.
const PROGRAM_DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// What lets a build into somebody else's network.
const ENTITLEMENT: &str = "network.host";

/// What the file says. Keys that are not about steps are somebody else's business.
pub fn parse(document: &toml::Table) -> Result<StepOptions, String> {
    let mut options = StepOptions::default();
    if let Some(dirs) = document.get("cdi").and_then(|cdi| cdi.get("specDirs")) {
        options.cdi_dirs = dirs
            .as_array()
            .and_then(|list| list.iter().map(|d| d.as_str().map(PathBuf::from)).collect())
            .ok_or("cdi: specDirs must be a list of folders")?;
    }
    if let Some(true) = document
        .get("cdi")
        .and_then(|cdi| cdi.get("disabled")?.as_bool())
    {
        options.cdi_dirs.clear();
    }
    let worker = document.get("worker").and_then(|worker| worker.get("oci"));
    let Some(worker) = worker.and_then(toml::Value::as_table) else {
        return Ok(options);
    };
    let text_of = |key: &str| match worker.get(key) {
        None => Ok(None),
        Some(value) => value
            .as_str()
            .map(Some)
            .ok_or_else(|| format!("worker.oci: {key} must be text")),
    };
    if let Some(binary) = text_of("binary")?.filter(|text| !text.is_empty()) {
        options.runtime = Some(find(binary)?);
    }
    options.network = match text_of("networkMode")? {
        None | Some("" | "auto" | "host") => Network::Host,
        Some("isolated") => Network::Isolated,
        Some("none") => Network::None,
        Some(other) => {
            return Err(format!(
                "worker.oci: networkMode {other:?} is not supported: host (also called auto), none and isolated (by pasta or slirp4netns) are"
            ));
        }
    };
    if let Some(value) = worker.get("maxProcesses") {
        let count = value.as_integer().and_then(|n| u64::try_from(n).ok());
        let count = count.ok_or("worker.oci: maxProcesses must be a number, 0 for any")?;
        options.max_processes = Some(count).filter(|count| *count > 0);
    }
    Ok(options)
}

fn find(binary: &str) -> Result<PathBuf, String> {
    let missing = |place: &str| {
        format!(
            "worker.oci: the OCI runtime {binary:?} is not {place}; install it, or leave `binary` away"
        )
    };
    if binary.contains('/') {
        let path = PathBuf::from(binary);
        return match path.is_file() {
            true => Ok(path),
            false => Err(missing("there")),
        };
    }
    PROGRAM_DIRS
        .iter()
        .map(|dir| Path::new(dir).join(binary))
        .find(|path| path.is_file())
        .ok_or_else(|| missing(&format!("in {}", PROGRAM_DIRS.join(", "))))
}

/// Whether `--network` names a network of this machine, which no frontend knows of.
pub fn is_of_machine(mode: &str) -> bool {
    mode == "isolated" || mode.starts_with("container:") || mode.starts_with("ns:")
}

/// Makes a network of this machine the one of all steps that ask for none.
pub fn use_network(
    mode: &str,
    entitlements: &BTreeSet<String>,
    options: &mut StepOptions,
) -> Result<(), UsageError> {
    let wrong = |problem: String| UsageError::new("--network", mode, problem);
    let path = if let Some(path) = mode.strip_prefix("ns:") {
        PathBuf::from(path)
    } else if let Some(name) = mode.strip_prefix("container:") {
        allowed(mode, entitlements)?;
        container(name).map_err(wrong)?
    } else {
        options.network = Network::Isolated;
        return Ok(());
    };
    allowed(mode, entitlements)?;
    if !path.is_absolute() {
        return Err(wrong("write the whole path, as ns:/run/netns/NAME".into()));
    }
    options.network = Network::Namespace(path);
    Ok(())
}

fn allowed(mode: &str, entitlements: &BTreeSet<String>) -> Result<(), UsageError> {
    match entitlements.contains(ENTITLEMENT) {
        true => Ok(()),
        false => Err(UsageError::new(
            "--network",
            mode,
            format!(
                "steps would stand in somebody else's network; add --allow {ENTITLEMENT} if they may"
            ),
        )),
    }
}

/// The namespace of a running container, as the engine that has it says.
fn container(name: &str) -> Result<PathBuf, String> {
    // A name that looks like a flag would be one.
    if name.is_empty() || name.starts_with('-') {
        return Err("write container:NAME".into());
    }
    let mut said = Vec::new();
    for engine in ["docker", "podman"] {
        let output = Command::new(engine)
            .args([
                "inspect",
                "--type",
                "container",
                "--format",
                "{{.State.Pid}}",
                name,
            ])
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout);
                return match text.trim().parse::<u32>() {
                    Ok(pid) if pid > 0 => Ok(format!("/proc/{pid}/ns/net").into()),
                    _ => Err(format!("{engine}'s container {name} does not run")),
                };
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                said.push(format!("{engine}: {text}"));
            }
            Err(_) => said.push(format!("{engine} is not installed")),
        }
    }
    Err(format!(
        "no container {name} was found ({})",
        said.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> Result<StepOptions, String> {
        parse(&text.parse().unwrap())
    }

    #[test]
    fn the_runtime_network_and_limit_of_steps_are_read() {
        let options = of_text(
            "[worker.oci]\nbinary = \"/bin/sh\"\nnetworkMode = \"isolated\"\nmaxProcesses = 0\ngc = true\n[cdi]\nspecDirs = [\"/x\"]\n",
        )
        .unwrap();
        assert_eq!(options.runtime.as_deref(), Some(Path::new("/bin/sh")));
        assert_eq!(options.network, Network::Isolated);
        assert_eq!(options.max_processes, None);
        assert_eq!(options.cdi_dirs, [PathBuf::from("/x")]);
        let options = of_text("[worker.oci]\nbinary = \"sh\"\n[cdi]\ndisabled = true\n").unwrap();
        assert!(options.runtime.is_some_and(|path| path.ends_with("sh")));
        assert!(options.max_processes.is_some() && options.cdi_dirs.is_empty());
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (text, expected) in [
            ("binary = \"no-such-runtime\"", "no-such-runtime"),
            ("binary = \"/no/such/runtime\"", "/no/such/runtime"),
            ("binary = 1", "binary"),
            ("networkMode = \"cni\"", "cni"),
            ("maxProcesses = -1", "maxProcesses"),
        ] {
            let error = of_text(&format!("[worker.oci]\n{text}\n")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn somebody_elses_network_needs_an_entitlement() {
        let mut options = StepOptions::default();
        let allowed = BTreeSet::from([ENTITLEMENT.to_owned()]);
        for mode in ["ns:/run/netns/x", "container:db"] {
            assert!(is_of_machine(mode));
            let error = use_network(mode, &BTreeSet::new(), &mut options).unwrap_err();
            assert!(
                error.to_string().contains("--allow network.host"),
                "{error}"
            );
        }
        use_network("ns:/run/netns/x", &allowed, &mut options).unwrap();
        assert_eq!(options.network, Network::Namespace("/run/netns/x".into()));
        assert!(use_network("ns:relative", &allowed, &mut options).is_err());
        assert!(use_network("container:--help", &allowed, &mut options).is_err());
        use_network("isolated", &BTreeSet::new(), &mut options).unwrap();
        assert_eq!(options.network, Network::Isolated);
    }
}
