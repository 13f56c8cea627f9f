//! The names of steps in progress: `[build 2/5] RUN make`.

use gateway_llb::{Env, pb, platform};

use super::stage::Stage;

impl Stage {
    /// Takes the next number of the stage.
    pub fn count_step(&mut self) {
        self.step += 1;
    }

    /// `text` behind the stage's name and the current number. `platform` is shown when several
    /// are built, with the target's where `env` says that it differs.
    pub fn step_name(
        &self,
        text: &str,
        platform: Option<&pb::Platform>,
        env: Option<&Env>,
    ) -> String {
        if self.steps == 0 {
            return text.to_owned();
        }
        let mut out = String::from("[");
        if let Some(platform) = platform.filter(|_| self.show_platform) {
            out.push_str(&platform::format_all(platform));
            if let Some(target) = env.and_then(target_platform) {
                out.push_str(&arrow(platform, target));
            }
            out.push(' ');
        }
        if !self.shown_name.is_empty() {
            out.push_str(&self.shown_name);
            out.push(' ');
        }
        let width = self.steps.to_string().len();
        out.push_str(&format!("{:>width$}/{}] ", self.step, self.steps));
        if self.in_trigger {
            out.push_str("ONBUILD ");
        }
        out.push_str(text);
        out
    }
}

/// The target platform that a stage's variables tell of.
fn target_platform(env: &Env) -> Option<pb::Platform> {
    let whole = env.get("TARGETPLATFORM");
    if let Some(Ok(parsed)) = whole.map(platform::parse) {
        return Some(parsed);
    }
    let parts = ["TARGETOS", "TARGETARCH", "TARGETVARIANT"].map(|key| env.get(key));
    if parts.iter().all(Option::is_none) {
        return None;
    }
    let [os, architecture, variant] = parts.map(|part| part.unwrap_or_default().to_owned());
    Some(pb::Platform {
        os,
        architecture,
        variant,
        ..pb::Platform::default()
    })
}

/// `->arch` when a step for one platform is run on another.
fn arrow(base: &pb::Platform, mut target: pb::Platform) -> String {
    if target.os.is_empty() {
        target.os.clone_from(&base.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&base.architecture);
    }
    let target = platform::normalize(&target);
    if target.os != base.os {
        return format!("->{}", platform::format_all(&target));
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    if target.variant.is_empty() {
        format!("->{}", target.architecture)
    } else {
        format!("->{}/{}", target.architecture, target.variant)
    }
}

/// The first word in capitals.
pub fn uppercase_first(text: &str) -> String {
    match text.split_once(' ') {
        Some((first, rest)) => format!("{} {rest}", first.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// The first line of a heredoc, with dots when there are more.
pub fn heredoc_summary(body: &str) -> String {
    let text = body.trim().replace("\r\n", "\n");
    match text.split_once('\n') {
        Some((first, _)) => format!("{first}..."),
        None => text,
    }
}
