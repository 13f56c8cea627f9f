//! The daemon's part of `buildkitd.toml`. Keys that are not known are told, and end nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use gateway_daemon::{Entitlement, HistoryLimits};

use super::clients::{self, ClientTable};
use crate::collection;
use crate::config::Layers;
use crate::config::layers::is_own_table;
use crate::error::CliError;

/// What the file says, as far as it is the daemon's.
#[derive(Debug, Default)]
pub struct DaemonFile {
    pub root: Option<PathBuf>,
    pub entitlements: Vec<Entitlement>,
    pub clients: Vec<ClientTable>,
    pub addresses: Vec<String>,
    pub group: Option<String>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub authority: Option<PathBuf>,
    pub history: Option<HistoryLimits>,
    pub platforms: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// Tables and keys that are read elsewhere.
const ELSEWHERE: [&str; 3] = ["registry", "frontend", "cdi"];

/// Keys of the worker that are read elsewhere.
const OTHERS: [&str; 10] = [
    "max-parallelism",
    "binary",
    "networkMode",
    "maxProcesses",
    "gc",
    "gcpolicy",
    "reservedSpace",
    "maxUsedSpace",
    "minFreeSpace",
    "gckeepstorage",
];

/// Keys that are known, and what they ask for is not done or always done.
const NO_EFFECT: [&str; 11] = [
    "debug",
    "trace",
    "log",
    "otel",
    "system",
    "dns",
    "cache",
    "provenanceEnvDir",
    "proxyNetwork",
    "stargz",
    "attestation",
];

/// What the files say, one laid over the other, and what is to be said of that.
pub fn read(layers: &Layers) -> Result<(DaemonFile, Vec<String>), CliError> {
    let (file, notes) = parse(&layers.merged()).map_err(|problem| CliError::Config {
        path: layers
            .files
            .first()
            .map(|file| file.path.clone())
            .unwrap_or_default(),
        problem,
    })?;
    let notes = notes
        .into_iter()
        .map(|note| format!("configuration: {note}"));
    Ok((file, notes.collect()))
}

fn parse(document: &toml::Table) -> Result<(DaemonFile, Vec<String>), String> {
    let mut file = DaemonFile::default();
    let mut notes = Vec::new();
    for (key, value) in document {
        match key.as_str() {
            "root" => file.root = Some(string(key, value)?.into()),
            "insecure-entitlements" => {
                for text in strings(key, value)? {
                    // As BuildKit does, which refuses it to builds.
                    match text.parse() {
                        Ok(entitlement) => file.entitlements.push(entitlement),
                        Err(error) => notes.push(format!("{key}: {error}")),
                    }
                }
            }
            "client" => file.clients = clients::tables(value, &mut notes)?,
            "grpc" => grpc(&mut file, table(key, value)?, &mut notes)?,
            "history" => file.history = Some(history(table(key, value)?, &mut notes)?),
            "worker" => worker(&mut file, table(key, value)?, &mut notes)?,
            key if ELSEWHERE.contains(&key) || is_own_table(key) => {}
            key if NO_EFFECT.contains(&key) => notes.push(format!("{key} has no effect here")),
            key => notes.push(format!("unknown key {key}")),
        }
    }
    Ok((file, notes))
}

fn table<'a>(key: &str, value: &'a toml::Value) -> Result<&'a toml::Table, String> {
    value
        .as_table()
        .ok_or_else(|| format!("{key} must be a table"))
}

fn string(key: &str, value: &toml::Value) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{key} must be a text"))
}

pub fn strings(key: &str, value: &toml::Value) -> Result<Vec<String>, String> {
    let list = value.as_array().and_then(|list| {
        list.iter()
            .map(|entry| entry.as_str().map(str::to_owned))
            .collect()
    });
    list.ok_or_else(|| format!("{key} must be a list of texts"))
}

fn number(key: &str, value: &toml::Value) -> Result<u64, String> {
    let number = value
        .as_integer()
        .and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| format!("{key} must be a number"))
}

fn grpc(file: &mut DaemonFile, grpc: &toml::Table, notes: &mut Vec<String>) -> Result<(), String> {
    for (key, value) in grpc {
        match key.as_str() {
            "address" => file.addresses = strings("grpc.address", value)?,
            "gid" => file.group = Some(number("grpc.gid", value)?.to_string()),
            "tls" => {
                for (key, value) in table("grpc.tls", value)? {
                    let place = match key.as_str() {
                        "cert" => &mut file.certificate,
                        "key" => &mut file.key,
                        "ca" => &mut file.authority,
                        key => {
                            notes.push(format!("unknown key grpc.tls.{key}"));
                            continue;
                        }
                    };
                    *place = Some(string(key, value)?.into());
                }
            }
            "uid" | "debugAddress" => notes.push(format!("grpc.{key} has no effect here")),
            key => notes.push(format!("unknown key grpc.{key}")),
        }
    }
    Ok(())
}

fn history(history: &toml::Table, notes: &mut Vec<String>) -> Result<HistoryLimits, String> {
    let mut limits = HistoryLimits::default();
    for (key, value) in history {
        match key.as_str() {
            "maxAge" => {
                limits.age = match value.as_str() {
                    Some(text) => collection::duration(text)?,
                    None => Duration::from_secs(number("history.maxAge", value)?),
                }
            }
            "maxEntries" => {
                let entries = number("history.maxEntries", value)?;
                limits.entries = usize::try_from(entries).unwrap_or(usize::MAX);
            }
            key => notes.push(format!("unknown key history.{key}")),
        }
    }
    Ok(limits)
}

fn worker(
    file: &mut DaemonFile,
    workers: &toml::Table,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    for (name, value) in workers {
        let worker = table(name, value)?;
        if name != "oci" {
            if worker.get("enabled").and_then(toml::Value::as_bool) != Some(false) {
                notes.push(format!("worker.{name} is not there: steps run without it"));
            }
            continue;
        }
        for (key, value) in worker {
            match key.as_str() {
                "platforms" => file.platforms = strings("worker.oci.platforms", value)?,
                "labels" => {
                    for (key, value) in table("worker.oci.labels", value)? {
                        file.labels.insert(key.clone(), string(key, value)?);
                    }
                }
                "enabled" | "rootless" => {}
                key if OTHERS.contains(&key) => {}
                "snapshotter"
                | "noProcessSandbox"
                | "binary"
                | "apparmor-profile"
                | "selinux"
                | "cniPoolSize"
                | "networkMode"
                | "cniConfigPath"
                | "cniBinaryPath"
                | "bridgeName"
                | "bridgeSubnet"
                | "defaultCgroupParent"
                | "proxySnapshotterPath" => {
                    notes.push(format!("worker.oci.{key} has no effect here"));
                }
                key => notes.push(format!("unknown key worker.oci.{key}")),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(DaemonFile, Vec<String>), String> {
        parse(&text.parse().expect("TOML"))
    }

    #[test]
    fn p62_the_keys_of_buildkitd_are_read_and_unknown_ones_are_told() {
        let (file, mut notes) = parsed(
            r#"
root = "/data"
debug = true
insecure-entitlements = ["network.host", "network.hots"]
surprise = 1
[grpc]
address = ["unix:///a", "tcp://b:1"]
gid = 12
more = 1
[grpc.tls]
cert = "c"
key = "k"
ca = "a"
[history]
maxAge = 60
maxEntries = 3
[worker.oci]
gc = true
max-parallelism = 4
snapshotter = "native"
platforms = ["linux/arm64"]
[worker.oci.labels]
x = "y"
[worker.containerd]
enabled = false
[registry."docker.io"]
mirrors = ["m"]
"#,
        )
        .unwrap();
        assert_eq!(file.root.unwrap(), std::path::Path::new("/data"));
        assert_eq!(file.entitlements, [Entitlement::HostNetwork]);
        assert_eq!(file.addresses, ["unix:///a", "tcp://b:1"]);
        assert_eq!(file.group.unwrap(), "12");
        assert_eq!(file.authority.unwrap(), std::path::Path::new("a"));
        let history = file.history.unwrap();
        assert_eq!((history.age.as_secs(), history.entries), (60, 3));
        assert_eq!(file.labels["x"], "y");
        notes.sort_unstable();
        assert_eq!(
            notes,
            [
                "debug has no effect here",
                "insecure-entitlements: unknown entitlement \"network.hots\": network.host, security.insecure, device and device=NAME are known",
                "unknown key grpc.more",
                "unknown key surprise",
                "worker.oci.snapshotter has no effect here",
            ]
        );
        assert!(parsed("root = 1").is_err());
        assert!(parsed("[worker]\noci = 1").is_err());
    }
}
