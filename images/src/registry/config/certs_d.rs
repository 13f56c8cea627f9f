//! Folders of certificates by host, in Docker's form: `certs.d/HOST[:PORT]/{*.crt,*.cert,*.key}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{HostConfig, KeyPair};

/// Adds what a folder in Docker's form holds: `*.crt` are CA files, `*.cert` with a `.key` of the same name are client
/// certificates. A missing folder holds nothing. Gives warnings.
pub fn add_certificate_dir(host: &mut HostConfig, dir: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return warnings,
        Err(error) => return vec![format!("{}: {error}", dir.display())],
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    files.sort();
    for file in &files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => host.ca.push(file.clone()),
            Some("cert") => {
                let key = file.with_extension("key");
                match files.contains(&key) {
                    true => host.keypair.push(KeyPair { key, cert: file.clone() }),
                    false => warnings.push(format!(
                        "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                        key.display(),
                        file.display()
                    )),
                }
            }
            _ => {}
        }
    }
    warnings
}

/// Adds the hosts of a folder like Docker's `certs.d`, which holds one folder for each `host[:port]`.
/// Hosts that are configured keep their settings and get the files besides. Gives warnings.
pub fn add_certs_d(hosts: &mut BTreeMap<String, HostConfig>, certs_d: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(certs_d) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Without files of this form there is nothing to say about the host.
        let mut found = HostConfig::default();
        warnings.extend(add_certificate_dir(&mut found, &entry.path()));
        if found == HostConfig::default() {
            continue;
        }
        let host = hosts.entry(name).or_default();
        host.ca.extend(found.ca);
        host.keypair.extend(found.keypair);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certs_d_folder_adds_files_and_reports_a_certificate_without_key() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("h.example:5000");
        std::fs::create_dir(&host).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "lonely.cert"] {
            std::fs::write(host.join(name), "").unwrap();
        }
        let mut hosts = BTreeMap::new();
        let warnings = add_certs_d(&mut hosts, folder.path());
        let found = &hosts["h.example:5000"];
        assert_eq!(found.ca, [host.join("ca.crt")]);
        assert_eq!(found.keypair[0].cert, host.join("client.cert"));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("lonely.key"), "{warnings:?}");
    }
}
