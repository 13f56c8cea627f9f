//! Commands: exec ops.

use std::sync::Arc;

use crate::mount::{Mount, MountKind, Secret, Ssh};
use crate::state::{Output, Vertex, VertexOp};
use crate::{Constraints, Env, State, caps, pb};

/// The proxy variables of a command. They are visible to it but not part of its cache key.
pub type ProxyEnv = pb::ProxyEnv;

/// A command in the making. [`Run::root`] or [`Run::exec`] ends it.
#[derive(Clone, Debug)]
pub struct Run {
    base: State,
    settings: State,
    args: Vec<String>,
    mounts: Vec<Mount>,
    secrets: Vec<Secret>,
    ssh: Vec<Ssh>,
    devices: Vec<pb::CdiDevice>,
    proxy: Option<ProxyEnv>,
    readonly_root: bool,
    constraints: Constraints,
}

#[derive(Debug)]
pub(crate) struct ExecSpec {
    pub settings: State,
    pub args: Vec<String>,
    /// Sorted by target; the root is the one at `/`.
    pub mounts: Vec<MountSpec>,
    pub secrets: Vec<Secret>,
    pub ssh: Vec<Ssh>,
    pub devices: Vec<pb::CdiDevice>,
    pub proxy: Option<ProxyEnv>,
}

#[derive(Debug)]
pub(crate) struct MountSpec {
    mount: Mount,
    pub source: Option<Output>,
}

/// A command with its results.
#[derive(Clone, Debug)]
pub struct Exec {
    root: State,
    outputs: Vec<(String, State)>,
}

impl Exec {
    /// The root file system after the command.
    pub fn root(&self) -> &State {
        &self.root
    }

    /// A mount's content after the command: the source itself for a read-only one. `None` when
    /// there is no such mount, or it keeps nothing.
    pub fn mount(&self, target: &str) -> Option<&State> {
        self.outputs
            .iter()
            .find(|(t, _)| t == target)
            .map(|(_, s)| s)
    }
}

impl Run {
    pub(crate) fn new(base: State, args: Vec<String>) -> Self {
        Self {
            settings: base.clone(),
            base,
            args,
            mounts: Vec::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            devices: Vec::new(),
            proxy: None,
            readonly_root: false,
            constraints: Constraints::default(),
        }
    }

    /// Adds a mount.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Adds a secret.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Adds an ssh agent.
    pub fn ssh(mut self, ssh: Ssh) -> Self {
        self.ssh.push(ssh);
        self
    }

    /// Adds a CDI device.
    pub fn device(mut self, name: impl Into<String>, optional: bool) -> Self {
        self.devices.push(pb::CdiDevice {
            name: name.into(),
            optional,
        });
        self
    }

    /// Sets the proxy variables.
    pub fn proxy(mut self, proxy: ProxyEnv) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Mounts the root file system read-only.
    pub fn readonly_root(mut self) -> Self {
        self.readonly_root = true;
        self
    }

    /// The network of this command only.
    pub fn network(mut self, network: pb::NetMode) -> Self {
        self.settings = self.settings.network(network);
        self
    }

    /// The security mode of this command only.
    pub fn security(mut self, security: pb::SecurityMode) -> Self {
        self.settings = self.settings.change(|meta| meta.security = security);
        self
    }

    /// Adds a line to the command's hosts file.
    pub fn extra_host(mut self, host: impl Into<String>, ip: impl Into<String>) -> Self {
        let entry = pb::HostIp {
            host: host.into(),
            ip: ip.into(),
        };
        self.settings = self.settings.change(|meta| meta.extra_hosts.push(entry));
        self
    }

    /// Sets a resource limit.
    pub fn ulimit(mut self, name: impl Into<String>, soft: i64, hard: i64) -> Self {
        let limit = pb::Ulimit {
            name: name.into(),
            soft,
            hard,
        };
        self.settings = self.settings.change(|meta| meta.ulimits.push(limit));
        self
    }

    /// The parent of the command's cgroup.
    pub fn cgroup_parent(mut self, parent: impl Into<String>) -> Self {
        let parent = parent.into();
        self.settings = self.settings.change(|meta| meta.cgroup_parent = parent);
        self
    }

    /// The exit codes that mean success, instead of 0.
    pub fn valid_exit_codes(mut self, codes: Vec<i32>) -> Self {
        self.settings = self
            .settings
            .change(|meta| meta.valid_exit_codes = Some(codes));
        self
    }

    /// Name, platform, cache and place of the op.
    pub fn with(mut self, constraints: Constraints) -> Self {
        self.constraints = constraints;
        self
    }

    /// The root file system after the command.
    pub fn root(self) -> State {
        self.exec().root
    }

    /// The command with the results of all its mounts.
    pub fn exec(self) -> Exec {
        let base = self.base.clone();
        let mut mounts = Vec::with_capacity(self.mounts.len() + 1);
        let root = Mount {
            readonly: self.readonly_root,
            ..Mount::bind("/", &base)
        };
        mounts.push(root);
        mounts.extend(self.mounts);
        // Stable, as the outputs are numbered in this order.
        mounts.sort_by(|a, b| a.target.as_bytes().cmp(b.target.as_bytes()));

        let spec = ExecSpec {
            args: self.args,
            secrets: self.secrets,
            ssh: self.ssh,
            devices: self.devices,
            proxy: self.proxy,
            settings: self.settings,
            mounts: mounts
                .iter()
                .map(|mount| MountSpec {
                    source: mount.source.output.clone(),
                    mount: Mount {
                        source: State::scratch(),
                        ..mount.clone()
                    },
                })
                .collect(),
        };
        let mut constraints = self.constraints;
        spec.add_caps(&mut constraints);
        let platform = constraints.platform.clone();
        let vertex = Arc::new(Vertex {
            op: VertexOp::Exec(Box::new(spec)),
            constraints,
        });

        let mut next = 0;
        let mut outputs = Vec::new();
        for mount in &mounts {
            let state = if mount.has_output() {
                let state = State {
                    output: Some(Output::Of(Arc::clone(&vertex), next)),
                    meta: Arc::clone(&mount.source.meta),
                };
                next += 1;
                match &platform {
                    Some(platform) => state.platform(platform.clone()),
                    None => state,
                }
            } else if mount.readonly && mount.kind == MountKind::Bind {
                mount.source.clone()
            } else {
                continue;
            };
            outputs.push((mount.target.clone(), state));
        }
        let root = outputs
            .iter()
            .find(|(target, _)| target == "/")
            .map_or(base, |(_, state)| state.clone());
        Exec { root, outputs }
    }
}

impl ExecSpec {
    fn add_caps(&self, constraints: &mut Constraints) {
        let meta = &self.settings.meta;
        let needs_resources = constraints.metadata.linux_resources.is_some();
        let mut add = |cap: &str| {
            constraints.metadata.caps.insert(cap.to_owned(), true);
        };
        add(caps::EXEC_META_BASE);
        if meta.valid_exit_codes.is_some() {
            add(caps::EXEC_VALID_EXIT_CODE);
        }
        if !meta.ulimits.is_empty() {
            add(caps::EXEC_META_ULIMIT);
        }
        if needs_resources {
            add(caps::EXEC_META_LINUX_RESOURCES);
        }
        if meta.network != pb::NetMode::Unset {
            add(caps::EXEC_META_NETWORK);
        }
        if meta.security != pb::SecurityMode::Sandbox {
            add(caps::EXEC_META_SECURITY);
        }
        if self.proxy.is_some() {
            add(caps::EXEC_META_PROXY);
        }
        for spec in &self.mounts {
            if !spec.mount.selector.is_empty() {
                add(caps::EXEC_MOUNT_SELECTOR);
            }
            match &spec.mount.kind {
                MountKind::Cache { .. } => {
                    add(caps::EXEC_MOUNT_CACHE);
                    add(caps::EXEC_MOUNT_CACHE_SHARING);
                }
                MountKind::Tmpfs { size } => {
                    add(caps::EXEC_MOUNT_TMPFS);
                    if *size > 0 {
                        add(caps::EXEC_MOUNT_TMPFS_SIZE);
                    }
                }
                MountKind::Bind if spec.source.is_some() => add(caps::EXEC_MOUNT_BIND),
                MountKind::Bind => {}
            }
            if spec.mount.content_cache != pb::MountContentCache::Default {
                add(caps::EXEC_MOUNT_CONTENT_CACHE);
            }
        }
        if !self.secrets.is_empty() {
            add(caps::EXEC_MOUNT_SECRET);
        }
        if self.secrets.iter().any(|s| s.env.is_some()) {
            add(caps::EXEC_SECRET_ENV);
        }
        if !self.ssh.is_empty() {
            add(caps::EXEC_MOUNT_SSH);
        }
        if !self.devices.is_empty() {
            add(caps::EXEC_META_CDI);
        }
    }

    pub fn take_inputs(&mut self, out: &mut Vec<Output>) {
        out.extend(self.settings.output.take());
        out.extend(self.mounts.iter_mut().filter_map(|m| m.source.take()));
    }

    /// The op, given a number for each mount's source (`None` for scratch).
    pub fn to_op(
        &self,
        inputs: &[Option<i64>],
        default_path: Option<&str>,
    ) -> Result<pb::ExecOp, &'static str> {
        if self.args.is_empty() {
            return Err("arguments are required");
        }
        let meta = &self.settings.meta;
        let mut env = Env::clone(&meta.env);
        let ssh_targets: Vec<String> = self
            .ssh
            .iter()
            .enumerate()
            .map(|(i, ssh)| {
                if ssh.target.is_empty() {
                    format!("/run/buildkit/ssh_agent.{i}")
                } else {
                    ssh.target.clone()
                }
            })
            .collect();
        if let Some(first) = ssh_targets.first()
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", first.as_str());
        }
        if let Some(path) = default_path
            && env.get("PATH").is_none()
        {
            env.set("PATH", path);
        }

        let mut mounts = Vec::new();
        let mut next = 0;
        for (spec, input) in self.mounts.iter().zip(inputs) {
            let output = if spec.mount.has_output() {
                next += 1;
                next - 1
            } else {
                -1
            };
            mounts.push(spec.mount.to_pb(input.unwrap_or(-1), output));
        }
        let mut secret_env = Vec::new();
        for secret in &self.secrets {
            if let Some(name) = &secret.env {
                secret_env.push(pb::SecretEnv {
                    id: secret.id.clone(),
                    name: name.clone(),
                    optional: secret.optional,
                });
            }
            if let Some(target) = &secret.target {
                mounts.push(pb::Mount {
                    input: -1,
                    dest: target.clone(),
                    mount_type: pb::MountType::Secret.into(),
                    secret_opt: Some(pb::SecretOpt {
                        id: secret.id.clone(),
                        uid: secret.uid,
                        gid: secret.gid,
                        mode: secret.mode,
                        optional: secret.optional,
                    }),
                    ..pb::Mount::default()
                });
            }
        }
        for (ssh, target) in self.ssh.iter().zip(ssh_targets) {
            mounts.push(pb::Mount {
                input: -1,
                dest: target,
                mount_type: pb::MountType::Ssh.into(),
                ssh_opt: Some(pb::SshOpt {
                    id: ssh.id.clone(),
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                }),
                ..pb::Mount::default()
            });
        }

        Ok(pb::ExecOp {
            meta: Some(pb::Meta {
                args: self.args.clone(),
                env: env.to_strings(),
                cwd: (*meta.dir).to_owned(),
                user: (*meta.user).to_owned(),
                proxy_env: self.proxy.clone(),
                extra_hosts: meta.extra_hosts.clone(),
                hostname: meta.hostname.clone(),
                ulimit: meta.ulimits.clone(),
                cgroup_parent: meta.cgroup_parent.clone(),
                remove_mount_stubs_recursive: true,
                valid_exit_codes: meta.valid_exit_codes.clone().unwrap_or_default(),
            }),
            mounts,
            network: meta.network.into(),
            security: meta.security.into(),
            secretenv: secret_env,
            cdi_devices: self.devices.clone(),
        })
    }
}
