//! The image config of a stage in the making.
//!
//! Stages begin with what the stage below them has, and a file may have a hundred thousand of them: a copy shares all that
//! it has in common.

use std::sync::Arc;

use gateway_llb::pb;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync, VectorSync};

use super::image::{Empty, Healthcheck, History, Image, ImageConfig};

/// An image config whose copies cost next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// What no instruction changes: platform, layers, time.
    rest: Arc<Image>,
    /// MAINTAINER.
    pub author: Arc<str>,
    history: VectorSync<Arc<History>>,
    env: Variables,
    /// USER.
    pub user: Arc<str>,
    /// WORKDIR.
    pub working_dir: Arc<str>,
    /// CMD.
    pub cmd: Arc<[String]>,
    /// ENTRYPOINT.
    pub entrypoint: Arc<[String]>,
    /// SHELL.
    pub shell: Arc<[String]>,
    /// EXPOSE.
    pub exposed_ports: RedBlackTreeSetSync<String>,
    /// VOLUME.
    pub volumes: RedBlackTreeSetSync<String>,
    /// LABEL.
    pub labels: RedBlackTreeMapSync<String, String>,
    /// STOPSIGNAL.
    pub stop_signal: Arc<str>,
    /// CMD or ENTRYPOINT is escaped already.
    pub args_escaped: bool,
    /// HEALTHCHECK.
    pub healthcheck: Option<Arc<Healthcheck>>,
    /// ONBUILD.
    pub on_build: VectorSync<String>,
}

/// `KEY=VALUE` entries in order, found by name.
#[derive(Clone, Debug, Default)]
struct Variables {
    entries: VectorSync<Arc<str>>,
    /// The first entry of each name.
    places: HashTrieMapSync<Arc<str>, usize>,
}

impl Variables {
    fn push(&mut self, entry: Arc<str>) {
        let (name, _) = pair(&entry);
        if !self.places.contains_key(name) {
            self.places.insert_mut(name.into(), self.entries.len());
        }
        self.entries.push_back_mut(entry);
    }

    /// In its place when it has one.
    fn set(&mut self, key: &str, value: &str) {
        let entry = format!("{key}={value}").into();
        // The name of an entry ends at its first `=`, so none has a name with one.
        match self.places.get(key).filter(|_| !key.contains('=')) {
            Some(&place) => {
                self.entries.set_mut(place, entry);
            }
            None => self.push(entry),
        }
    }
}

fn pair(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

impl From<Image> for Draft {
    fn from(mut image: Image) -> Self {
        let config = std::mem::take(&mut image.config);
        let mut env = Variables::default();
        for entry in config.env {
            env.push(entry.into());
        }
        Self {
            author: std::mem::take(&mut image.author).into(),
            history: std::mem::take(&mut image.history).into_iter().collect(),
            env,
            user: config.user.into(),
            working_dir: config.working_dir.into(),
            cmd: config.cmd.into(),
            entrypoint: config.entrypoint.into(),
            shell: config.shell.into(),
            exposed_ports: config.exposed_ports.into_keys().collect(),
            volumes: config.volumes.into_keys().collect(),
            labels: config.labels.into_iter().collect(),
            stop_signal: config.stop_signal.into(),
            args_escaped: config.args_escaped,
            healthcheck: config.healthcheck.map(Arc::new),
            on_build: config.on_build.into_iter().collect(),
            rest: Arc::new(image),
        }
    }
}

impl Draft {
    /// The config as it is now.
    pub fn to_image(&self) -> Image {
        let keys = |set: &RedBlackTreeSetSync<String>| {
            let entries = set.iter().map(|key| (key.clone(), Empty {}));
            entries.collect()
        };
        let labels = self.labels.iter();
        Image {
            author: (*self.author).to_owned(),
            history: self.history.iter().cloned().collect(),
            config: ImageConfig {
                user: (*self.user).to_owned(),
                exposed_ports: keys(&self.exposed_ports),
                env: self.env.entries.iter().map(|e| (**e).to_owned()).collect(),
                entrypoint: self.entrypoint.to_vec(),
                cmd: self.cmd.to_vec(),
                volumes: keys(&self.volumes),
                working_dir: (*self.working_dir).to_owned(),
                labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
                stop_signal: (*self.stop_signal).to_owned(),
                args_escaped: self.args_escaped,
                healthcheck: self.healthcheck.as_deref().cloned(),
                on_build: self.on_build.iter().cloned().collect(),
                shell: self.shell.to_vec(),
            },
            ..(*self.rest).clone()
        }
    }

    /// The system that it is for.
    pub fn os(&self) -> &str {
        &self.rest.os
    }

    /// The environment as pairs.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.entries.iter().map(|entry| pair(entry))
    }

    /// How many entries the environment has.
    pub fn env_len(&self) -> usize {
        self.env.entries.len()
    }

    /// Whether some entry of the environment has that name.
    pub fn has_env(&self, key: &str) -> bool {
        self.env.places.contains_key(key)
    }

    /// Sets a variable, in its place when it has one.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.env.set(key, value);
    }

    /// Adds a step to the history.
    pub fn commit(&mut self, created_by: String, layer: bool, epoch: Option<i64>) {
        let step = History::step(created_by, layer, epoch);
        self.history.push_back_mut(Arc::new(step));
    }

    /// What an empty image for a platform begins with.
    pub fn scratch(platform: &pb::Platform) -> Self {
        Image::scratch(platform).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_config_comes_back_as_it_was() {
        let json = br#"{"created":"2020-01-01T00:00:00Z","author":"a","architecture":"amd64","os":"linux",
            "rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":[{"created_by":"x"}],
            "config":{"User":"u","ExposedPorts":{"1/tcp":{}},"Env":["A=1","B","A=2"],"Entrypoint":["e"],
            "Cmd":["c"],"Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"l":"1"},"StopSignal":"9",
            "ArgsEscaped":true,"Healthcheck":{"Test":["NONE"]},"OnBuild":["RUN a"],"Shell":["s"]}}"#;
        let image = Image::parse(json).unwrap();
        assert_eq!(Draft::from(image.clone()).to_image(), image);
    }

    proptest! {
        #[test]
        fn variables_are_set_as_an_image_sets_them(
            base in prop::collection::vec("[AB]?(=[01]?)?", 0..4),
            changes in prop::collection::vec(("[A-C](=[A-C])?", "[01]"), 0..12),
        ) {
            let mut image = Image::default();
            image.config.env = base;
            let mut draft = Draft::from(image.clone());
            for (key, value) in changes {
                image.set_env(&key, &value);
                draft.set_env(&key, &value);
                prop_assert_eq!(draft.has_env(&key), image.env().any(|(name, _)| name == key));
            }
            prop_assert_eq!(draft.to_image(), image);
        }
    }
}
