//! The rules about the instructions of a stage that is built. The conversion calls them instruction by instruction.

use super::{Finding, Linter, rules};
use crate::convert::is_absolute;
use crate::parse::{Instruction, Kind, LineRange};

/// What was seen of a stage so far.
#[derive(Clone, Debug, Default)]
pub struct StageChecks {
    cmd: Option<LineRange>,
    entrypoint: Option<LineRange>,
    healthcheck: Option<LineRange>,
    workdir: bool,
}

impl StageChecks {
    /// The checks of a stage that is built on another stage of the file.
    pub fn on(base: &Self) -> Self {
        Self {
            workdir: base.workdir,
            ..Self::default()
        }
    }

    /// Check one instruction; `has_shell` says that the image's config (base or SHELL) names a shell.
    ///
    /// Raises LegacyKeyValueFormat, SecretsUsedInArgOrEnv of ARG, JSONArgsRecommended and
    /// MultipleInstructionsDisallowed; [`Self::env_keys`] and [`Self::workdir`] need expanded values.
    pub fn check(&mut self, each: &Instruction, has_shell: bool, linter: &mut Linter) {
        let keyword = each.keyword.as_str();
        let here = each.location;
        let mut found: Vec<(LineRange, Finding)> = Vec::new();
        let mut report = |location, finding| found.push((location, finding));
        match &each.kind {
            Kind::Env(pairs) | Kind::Label(pairs) => {
                for _ in pairs.iter().filter(|p| p.legacy) {
                    report(here, rules::legacy_key_value_format(keyword));
                }
            }
            Kind::Arg(args) => {
                for arg in args.iter().filter(|a| rules::is_secret_name(&a.key)) {
                    report(here, rules::secrets_used_in_arg_or_env("ARG", &arg.key));
                }
            }
            Kind::Cmd(_) | Kind::Entrypoint(_) | Kind::Healthcheck(_) => {
                let last = match &each.kind {
                    Kind::Cmd(_) => &mut self.cmd,
                    Kind::Entrypoint(_) => &mut self.entrypoint,
                    _ => &mut self.healthcheck,
                };
                if let Some(earlier) = last.replace(here) {
                    report(earlier, rules::multiple_instructions_disallowed(keyword));
                }
                if let Kind::Cmd(line) | Kind::Entrypoint(line) = &each.kind
                    && line.shell_form
                    && !has_shell
                {
                    report(here, rules::json_args_recommended(keyword));
                }
            }
            _ => {}
        }
        linter.report_all(&each.comments, found);
    }

    /// Check the keys of ENV after their expansion: SecretsUsedInArgOrEnv.
    pub fn env_keys<'a>(
        &self,
        each: &Instruction,
        keys: impl IntoIterator<Item = &'a str>,
        linter: &mut Linter,
    ) {
        let secrets = keys.into_iter().filter(|key| rules::is_secret_name(key));
        let found =
            secrets.map(|key| (each.location, rules::secrets_used_in_arg_or_env("ENV", key)));
        linter.report_all(&each.comments, found);
    }

    /// Check the path of WORKDIR after its expansion: WorkdirRelativePath, once per chain of stages.
    pub fn workdir(&mut self, each: &Instruction, path: &str, os: &str, linter: &mut Linter) {
        if !self.workdir && !is_absolute(path, os) {
            let finding = rules::workdir_relative_path(path);
            linter.report_at(&each.comments, each.location, finding);
        }
        self.workdir = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        let mut linter = Linter::new(Config::default());
        let file = crate::parse::parse(text.as_bytes()).unwrap();
        for stage in &file.stages {
            let mut checks = StageChecks::default();
            for each in &stage.instructions {
                checks.check(each, false, &mut linter);
                match &each.kind {
                    Kind::Env(pairs) => checks.env_keys(each, [pairs[0].key.as_str()], &mut linter),
                    Kind::Workdir(path) => checks.workdir(each, path, "linux", &mut linter),
                    _ => {}
                }
            }
        }
        let short = |w: &super::super::Warning| (w.rule.name.to_owned(), w.location.start);
        let found: Vec<_> = linter.warnings().iter().map(short).collect();
        found
            .into_iter()
            .map(|(name, line)| format!("{name} {line}"))
            .collect()
    }

    #[test]
    fn each_rule_fires_where_it_should() {
        assert_eq!(
            warnings(
                "FROM x\nENV key value\nLABEL k v\nCMD a\nCMD [\"b\"]\nENTRYPOINT c\nARG PASSWORD\nWORKDIR rel\nWORKDIR rel"
            ),
            [
                "LegacyKeyValueFormat 2",
                "SecretsUsedInArgOrEnv 2",
                "LegacyKeyValueFormat 3",
                "JSONArgsRecommended 4",
                "MultipleInstructionsDisallowed 4",
                "JSONArgsRecommended 6",
                "SecretsUsedInArgOrEnv 7",
                "WorkdirRelativePath 8",
            ]
        );
    }

    #[test]
    fn a_clean_stage_has_no_warnings() {
        assert_eq!(
            warnings(
                "FROM x\nENV a=b\nLABEL token=v\nCMD [\"b\"]\nWORKDIR /a\nWORKDIR rel\nFROM x\nCMD [\"a\"]"
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_stage_knows_the_workdir_of_its_base() {
        let file = crate::parse::parse(b"FROM x\nWORKDIR /a\nWORKDIR b").unwrap();
        let mut linter = Linter::new(Config::default());
        let mut base = StageChecks::default();
        let [first, second] = file.stages[0].instructions.as_slice() else {
            panic!("two instructions")
        };
        base.workdir(first, "/a", "linux", &mut linter);
        StageChecks::on(&base).workdir(second, "b", "linux", &mut linter);
        assert!(linter.warnings().is_empty());
        StageChecks::default().workdir(second, "b", "linux", &mut linter);
        assert_eq!(linter.warnings().len(), 1);
    }
}
