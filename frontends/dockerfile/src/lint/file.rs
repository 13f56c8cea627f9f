//! The rules that look at the text alone, whether a stage is built or not.

use std::collections::HashSet;

use super::{Linter, rules};
use crate::parse::{Dockerfile, Instruction, Kind, LineRange, Parsed, Stage};

/// Names that stages should leave alone.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// All rules about the text of a file that parsed.
pub fn check_complete_file(file: &Dockerfile, linter: &mut Linter) {
    check_instructions(file, linter);
    stage_names(file, linter);
    casing(file, linter);
}

fn check_instructions(file: &Dockerfile, linter: &mut Linter) {
    for location in &file.empty_continuations {
        linter.report(*location, rules::no_empty_continuation());
    }
    for arg in &file.meta_args {
        instruction(arg, linter);
    }
    for stage in &file.stages {
        from(stage, linter);
        for each in &stage.instructions {
            instruction(each, linter);
        }
    }
}

/// The rules about single lines, of a file that did not parse: what precedes its mistake, and
/// the line of the mistake itself.
pub fn check_broken_file(parsed: &Parsed, linter: &mut Linter) {
    check_instructions(&parsed.dockerfile, linter);
    let Some(failed) = &parsed.failed else { return };
    match failed.keyword.to_lowercase().as_str() {
        "maintainer" => {
            let finding = rules::maintainer_deprecated();
            linter.report_at(&failed.comments, failed.location, finding);
        }
        "from" => {
            let words = &failed.words;
            let name = words.get(2).filter(|_| words.len() == 3);
            // What stands in the place of AS, whatever it is.
            let word = words.get(1).filter(|_| words.len() >= 3);
            from_words(
                &failed.keyword,
                name.map(String::as_str),
                word.map(String::as_str),
                &failed.comments,
                failed.location,
                linter,
            );
        }
        _ => {}
    }
}

fn instruction(each: &Instruction, linter: &mut Linter) {
    match &each.kind {
        Kind::Maintainer(_) => {
            let finding = rules::maintainer_deprecated();
            linter.report_at(&each.comments, each.location, finding);
        }
        Kind::Arg(args) => {
            let keys: Vec<&str> = args.iter().map(|a| a.key.as_str()).collect();
            description("ARG", &keys, &each.comments, each.location, linter);
        }
        _ => {}
    }
}

fn from(stage: &Stage, linter: &mut Linter) {
    from_words(
        &stage.keyword,
        stage.name_as_written.as_deref(),
        stage.as_keyword.as_deref(),
        &stage.comments,
        stage.location,
        linter,
    );
    if let Some(name) = &stage.name {
        description("FROM", &[name], &stage.comments, stage.location, linter);
    }
}

fn from_words(
    from: &str,
    name: Option<&str>,
    word: Option<&str>,
    comments: &[String],
    location: LineRange,
    linter: &mut Linter,
) {
    if let Some(name) = name.filter(|name| **name != name.to_lowercase()) {
        linter.report_at(comments, location, rules::stage_name_casing(name));
    }
    let Some(word) = word else { return };
    // a keyword of mixed case is another rule's
    let same = if from == from.to_lowercase() {
        *word == word.to_lowercase()
    } else {
        from != from.to_uppercase() || *word == word.to_uppercase()
    };
    if !same {
        linter.report_at(comments, location, rules::from_as_casing(from, word));
    }
}

/// The last comment line above must begin with one of the names.
fn description(
    instruction: &str,
    names: &[&str],
    comments: &[String],
    location: LineRange,
    linter: &mut Linter,
) {
    let (Some(last), Some(first)) = (comments.last(), names.first()) else {
        return;
    };
    let word = last.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    let finding = rules::invalid_definition_description(instruction, example);
    linter.report_at(comments, location, finding);
}

fn stage_names(file: &Dockerfile, linter: &mut Linter) {
    let mut seen = HashSet::new();
    for stage in &file.stages {
        let Some(name) = &stage.name else { continue };
        if RESERVED.contains(&name.as_str()) {
            linter.report(stage.location, rules::reserved_stage_name(name));
        }
        if !seen.insert(name) {
            linter.report(stage.location, rules::duplicate_stage_name(name));
        }
    }
}

/// Keywords in another case than most of the file's; mixed case never counts.
fn casing(file: &Dockerfile, linter: &mut Linter) {
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            let rest = stage.instructions.iter();
            std::iter::once((stage.keyword.as_str(), stage.location))
                .chain(rest.map(|i| (i.keyword.as_str(), i.location)))
        })
    };
    let is_lower = |word: &str| word == word.to_lowercase();
    let is_upper = |word: &str| word == word.to_uppercase();
    let lower = keywords().filter(|(word, _)| is_lower(word)).count();
    let upper = keywords()
        .filter(|(word, _)| is_upper(word) && !is_lower(word))
        .count();
    let mostly_lower = lower > upper;
    for (word, location) in keywords() {
        let majority = match mostly_lower {
            true if !is_lower(word) => "lowercase",
            false if !is_upper(word) => "uppercase",
            _ => continue,
        };
        linter.report(
            location,
            rules::consistent_instruction_casing(word, majority),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        let config = Config::for_build(text.as_bytes(), None).unwrap();
        let mut linter = Linter::new(config);
        let file = crate::parse::parse(text.as_bytes()).unwrap();
        check_complete_file(&file, &mut linter);
        linter
            .warnings()
            .iter()
            .map(super::super::Warning::short)
            .collect()
    }

    #[test]
    fn casing_follows_the_majority_and_a_tie_is_upper() {
        assert_eq!(
            warnings("from x\nRUN a"),
            [
                "ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase) (line 1)"
            ]
        );
        assert_eq!(
            warnings("from x\nrun a\nRun b"),
            [
                "ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (lowercase) (line 3)"
            ]
        );
        assert_eq!(warnings("from x as y\nrun a"), Vec::<String>::new());
    }

    #[test]
    fn names_and_keywords_of_stages_are_checked() {
        assert_eq!(
            warnings("FROM x as Base\nFROM x AS base\nFROM x AS context"),
            [
                "StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
                "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)",
                "DuplicateStageName: Duplicate stage name \"base\", stage names should be unique (line 2)",
                "ReservedStageName: Stage name should not use the same name as reserved stage \"context\" (line 3)",
            ]
        );
    }

    #[test]
    fn empty_continuations_and_maintainers_are_reported() {
        assert_eq!(
            warnings("FROM x\nRUN a \\\n\n  b\nMAINTAINER me"),
            [
                "NoEmptyContinuation: Empty continuation line (line 4)",
                "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 5)",
            ]
        );
    }

    #[test]
    fn descriptions_are_checked_only_when_asked_for() {
        let text = "# hello\nARG V=1\n# base is it\nFROM x AS base\n# other\nFROM x AS y";
        assert_eq!(warnings(text), Vec::<String>::new());
        assert_eq!(
            warnings(&format!("# check=experimental=all\n\n{text}")),
            [
                "InvalidDefinitionDescription: Comment for ARG should follow the format: `# V <description>` (line 4)",
                "InvalidDefinitionDescription: Comment for FROM should follow the format: `# y <description>` (line 8)",
            ]
        );
    }

    #[test]
    fn a_comment_turns_a_rule_off_for_its_instruction_alone() {
        assert_eq!(
            warnings("FROM x\n# check=skip=MaintainerDeprecated\nMAINTAINER a\nMAINTAINER b"),
            [
                "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 4)"
            ]
        );
    }
}
