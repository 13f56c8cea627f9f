//! Devices of the machine for a step: its descriptions in the container device interface (CDI), and what
//! they add to a sandbox. Device nodes, mounts and variables are; hooks, which are programs run outside of
//! the sandbox, and everything else are refused by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gateway_api::{Code, Error};
use gateway_llb::pb;
use gateway_sandbox::{Mount, MountKind, SandboxSpec};
use serde::Deserialize;
use serde_json::Value;

use crate::shared::Outcome;

/// Makes all devices with this annotation be found by its value.
const CLASS_ANNOTATION: &str = "org.mobyproject.buildkit.device.class";

/// Descriptions are small; a larger file is none.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Options of mounts that are met by every mount of a sandbox, or change nothing in it.
const USUAL_OPTIONS: [&str; 10] = [
    "bind", "rbind", "rw", "nodev", "nosuid", "private", "rprivate", "slave", "rslave", "relatime",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    kind: String,
    #[serde(default)]
    annotations: Map,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
    #[serde(skip)]
    file: PathBuf,
}

type Map = std::collections::BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    annotations: Map,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    device_nodes: Vec<Node>,
    #[serde(default)]
    mounts: Vec<HostMount>,
    /// Hooks and whatever else there may be.
    #[serde(flatten)]
    more: std::collections::BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HostMount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

/// What lets a step have devices.
const ENTITLEMENT: &str = "device";

/// The device that a step gets when it names this one; `None` for one that it may not have. `device` grants all,
/// `device=NAME` one or those of a kind, `device=NAME,alias=OTHER` one under the name that steps know it by.
pub fn granted(entitlements: &BTreeSet<String>, name: &str) -> Option<String> {
    entitlements.iter().find_map(|entitlement| {
        if entitlement == ENTITLEMENT {
            return Some(name.to_owned());
        }
        let grant = entitlement.strip_prefix(ENTITLEMENT)?.strip_prefix('=')?;
        let mut fields = grant.split(',');
        let device = fields.next().unwrap_or_default();
        match fields.find_map(|field| field.strip_prefix("alias=")) {
            Some(alias) => (alias == name).then(|| device.to_owned()),
            None => {
                let kind = name.split('=').next().unwrap_or_default();
                [name, kind].contains(&device).then(|| name.to_owned())
            }
        }
    })
}

/// Adds what the wanted devices need that may be had.
///
/// # Errors
/// A required one is not described, or needs what a sandbox does not do.
pub fn add(
    dirs: &[PathBuf],
    wanted: &[pb::CdiDevice],
    entitlements: &BTreeSet<String>,
    spec: &mut SandboxSpec,
) -> Outcome<()> {
    // Required ones were refused before, where they are not allowed.
    let wanted: Vec<pb::CdiDevice> = wanted
        .iter()
        .filter_map(|device| {
            let name = granted(entitlements, &device.name)?;
            Some(pb::CdiDevice {
                name,
                ..device.clone()
            })
        })
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let (descriptions, unread) = read(dirs)?;
    let mut common = Vec::new();
    let mut given: Vec<*const Device> = Vec::new();
    for device in &wanted {
        let found = find(&descriptions, &device.name);
        if found.is_empty() && !device.optional {
            return Err(missing(&device.name, dirs, &unread));
        }
        for (description, found) in found {
            if given.contains(&std::ptr::from_ref(found)) {
                continue;
            }
            given.push(found);
            if !common.contains(&std::ptr::from_ref(description)) {
                common.push(std::ptr::from_ref(description));
                apply(&description.container_edits, description, spec)?;
            }
            apply(&found.container_edits, description, spec)?;
        }
    }
    spec.mounts.sort_by(|a, b| a.dest.cmp(&b.dest));
    Ok(())
}

fn missing(name: &str, dirs: &[PathBuf], unread: &[PathBuf]) -> Error {
    let list = |paths: &[PathBuf]| {
        let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        paths.join(", ")
    };
    let mut text = format!(
        "required device {name:?} is not registered: no file *.json in {} describes it",
        list(dirs)
    );
    if !unread.is_empty() {
        text.push_str(&format!(
            "; files in YAML are not read, write them as JSON: {}",
            list(unread)
        ));
    }
    Error::new(Code::NotFound, text)
}

/// All descriptions, those of later folders in place of those of earlier ones; and files in YAML.
fn read(dirs: &[PathBuf]) -> Outcome<(Vec<Description>, Vec<PathBuf>)> {
    let mut all: Vec<Description> = Vec::new();
    let mut unread = Vec::new();
    for dir in dirs {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {
                    let new = parse(&file)?;
                    for old in all.iter_mut().filter(|old| old.kind == new.kind) {
                        old.devices
                            .retain(|old| !new.devices.iter().any(|new| new.name == old.name));
                    }
                    all.push(new);
                }
                Some("yaml" | "yml") => unread.push(file),
                _ => {}
            }
        }
    }
    Ok((all, unread))
}

fn parse(file: &Path) -> Outcome<Description> {
    let wrong = |problem: String| {
        Error::invalid(format!("device description {}: {problem}", file.display()))
    };
    let length = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if !length.is_file() || length.len() > MAX_FILE_BYTES {
        return Err(wrong("it is no small file".into()));
    }
    let bytes = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let mut description: Description =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    description.file = file.to_owned();
    Ok(description)
}

/// `VENDOR/CLASS=NAME`, all of a kind with `=*`, the first one without a name; or the class in their annotations.
fn find<'a>(all: &'a [Description], name: &str) -> Vec<(&'a Description, &'a Device)> {
    let devices = || {
        let of = |d: &'a Description| d.devices.iter().map(move |device| (d, device));
        all.iter().flat_map(of)
    };
    let (kind, device) = name.split_once('=').unwrap_or((name, ""));
    let of_kind = devices().filter(|(description, _)| description.kind == kind);
    let found: Vec<_> = match device {
        "" => {
            // As the reference: the first by name.
            let mut of_kind: Vec<_> = of_kind.collect();
            of_kind.sort_by(|a, b| a.1.name.cmp(&b.1.name));
            of_kind.into_iter().take(1).collect()
        }
        "*" => of_kind.collect(),
        device => of_kind.filter(|(_, d)| d.name == device).collect(),
    };
    if !found.is_empty() {
        return found;
    }
    devices()
        .filter(|(description, device)| {
            let own = device.annotations.get(CLASS_ANNOTATION);
            own.or_else(|| description.annotations.get(CLASS_ANNOTATION))
                .is_some_and(|class| class == name)
        })
        .collect()
}

fn apply(edits: &Edits, of: &Description, spec: &mut SandboxSpec) -> Outcome<()> {
    let refuse = |what: &str| {
        Err(Error::new(
            Code::Unimplemented,
            format!(
                "device {} needs {what}, which steps do not get ({})",
                of.kind,
                of.file.display()
            ),
        ))
    };
    if let Some((key, _)) = edits.more.iter().find(|(_, value)| !is_empty(value)) {
        return refuse(key);
    }
    for variable in &edits.env {
        let prefix = variable.split_inclusive('=').next().unwrap_or_default();
        spec.env.retain(|known| !known.starts_with(prefix));
        spec.env.push(variable.clone());
    }
    for node in &edits.device_nodes {
        if let Some(permissions) = &node.permissions
            && !(permissions.contains('r') && permissions.contains('w'))
        {
            return refuse(&format!("permissions {permissions:?} of {}", node.path));
        }
        let source = node.host_path.as_ref().filter(|path| !path.is_empty());
        add_mount(
            spec,
            &node.path,
            MountKind::Device {
                source: source.unwrap_or(&node.path).into(),
            },
        );
    }
    for mount in &edits.mounts {
        let unusual = mount
            .options
            .iter()
            .find(|option| *option != "ro" && !USUAL_OPTIONS.contains(&option.as_str()));
        if let Some(option) = unusual {
            return refuse(&format!("the option {option} of a mount"));
        }
        add_mount(
            spec,
            &mount.container_path,
            MountKind::Bind {
                source: mount.host_path.clone().into(),
                selector: String::new(),
                readonly: mount.options.iter().any(|option| option == "ro"),
            },
        );
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// The step's own mounts come first.
fn add_mount(spec: &mut SandboxSpec, dest: &str, kind: MountKind) {
    if !spec.mounts.iter().any(|mount| mount.dest == dest) {
        spec.mounts.push(Mount {
            dest: dest.to_owned(),
            kind,
        });
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_device_is_granted_by_its_name_its_kind_or_the_name_it_is_known_by() {
        let granted = |entitlement: &str, name: &str| {
            super::granted(&BTreeSet::from([entitlement.to_owned()]), name)
        };
        let some = |name: &str| Some(name.to_owned());
        for (entitlement, name, given) in [
            ("device", "v.example/gpu=0", some("v.example/gpu=0")),
            (
                "device=v.example/gpu=0",
                "v.example/gpu=0",
                some("v.example/gpu=0"),
            ),
            (
                "device=v.example/gpu",
                "v.example/gpu=0",
                some("v.example/gpu=0"),
            ),
            ("device=v.example/gpu=0", "v.example/gpu=1", None),
            ("device=v.example/gpu=0", "v.example/gpu", None),
            (
                "device=v.example/gpu=0,alias=gpu",
                "gpu",
                some("v.example/gpu=0"),
            ),
            ("device=v.example/gpu=0,alias=gpu", "v.example/gpu=0", None),
            ("devices", "v.example/gpu=0", None),
            ("network.host", "v.example/gpu=0", None),
        ] {
            assert_eq!(granted(entitlement, name), given, "{entitlement} {name}");
        }
    }

    use gateway_sandbox::Root;

    use super::*;

    const GPU: &str = r#"{"cdiVersion": "0.6.0", "kind": "example.com/gpu",
        "annotations": {"org.mobyproject.buildkit.device.class": "any-gpu"},
        "containerEdits": {"env": ["GPU=common"], "hooks": []},
        "devices": [
            {"name": "1", "containerEdits": {
                "env": ["GPU=one"],
                "deviceNodes": [{"path": "/dev/gpu1", "hostPath": "/dev/null", "permissions": "rw"}],
                "mounts": [{"hostPath": "/etc", "containerPath": "/gpu/etc", "options": ["ro", "rbind"]}]}},
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0"}]}},
            {"name": "hook", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/sh"}]}}
        ]}"#;

    fn spec(dir: &Path, names: &[&str]) -> Outcome<SandboxSpec> {
        let root = Root::Dir {
            path: "/r".into(),
            readonly: false,
        };
        let mut spec = SandboxSpec::new(root, vec!["sh".into()]);
        spec.env = vec!["GPU=image".into()];
        let wanted: Vec<pb::CdiDevice> = names
            .iter()
            .map(|name| pb::CdiDevice {
                name: name.trim_end_matches('?').to_owned(),
                optional: name.ends_with('?'),
            })
            .collect();
        let all = BTreeSet::from([ENTITLEMENT.to_owned()]);
        add(&[dir.to_owned()], &wanted, &all, &mut spec).map(|()| spec)
    }

    fn described() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("gpu.json"), GPU).unwrap();
        dir
    }

    fn dests(spec: &SandboxSpec) -> Vec<&str> {
        spec.mounts
            .iter()
            .map(|mount| mount.dest.as_str())
            .collect()
    }

    #[test]
    fn a_device_brings_its_nodes_mounts_and_variables() {
        let dir = described();
        let spec = spec(dir.path(), &["example.com/gpu=1"]).unwrap();
        assert_eq!(spec.env, ["GPU=one"]);
        assert_eq!(dests(&spec), ["/dev/gpu1", "/gpu/etc"]);
        assert!(
            matches!(&spec.mounts[0].kind, MountKind::Device { source } if source == Path::new("/dev/null"))
        );
        assert!(matches!(
            &spec.mounts[1].kind,
            MountKind::Bind { readonly: true, .. }
        ));
    }

    #[test]
    fn a_kind_alone_is_its_first_device_and_a_class_all_of_them() {
        let dir = described();
        assert_eq!(
            dests(&spec(dir.path(), &["example.com/gpu"]).unwrap()),
            ["/dev/gpu0"]
        );
        for all in ["example.com/gpu=*", "any-gpu"] {
            let error = spec(dir.path(), &[all]).unwrap_err().to_string();
            assert!(
                error.contains("hooks") && error.contains("gpu.json"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_not_described_is_an_error_unless_optional() {
        let dir = described();
        std::fs::write(dir.path().join("more.yaml"), "kind: x").unwrap();
        let error = spec(dir.path(), &["example.com/tpu=0"])
            .unwrap_err()
            .to_string();
        for wanted in ["example.com/tpu=0", "not registered", "more.yaml"] {
            assert!(error.contains(wanted), "{error}");
        }
        assert!(
            spec(dir.path(), &["example.com/tpu=0?"])
                .unwrap()
                .mounts
                .is_empty()
        );
        std::fs::write(dir.path().join("bad.json"), "{").unwrap();
        let error = spec(dir.path(), &["example.com/gpu=1"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("bad.json"), "{error}");
    }
}
