//! What holds for any input: no panic, and locations inside the file.

use proptest::prelude::*;

use super::super::*;

proptest! {
    #[test]
    fn any_bytes_parse_or_fail_within_the_file(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check_spans(&bytes)?;
    }

    #[test]
    fn any_likely_text_parses_or_fails_within_the_file(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "FROM ", "RUN ", "COPY ", "ENV ", "ONBUILD ", "HEALTHCHECK ", "ARG ", "LABEL ", "CMD ", "x", "=", "\"", "'", "\\",
            "\\\n", "\n", "# escape=`\n", "#", "`", "<<A", "<<-", "A\n", "[", "]", "\"a\"", ",", "--", "--mount=", "--from=",
            " ", "\t", "\r\n", "$", "${", "}", ":-", "\u{e9}", "\u{a0}", "\u{feff}", "CMD", "NONE",
        ]), 0..40)
    ) {
        check_spans(words.concat().as_bytes())?;
        check_spans(format!("FROM x\n{}", words.concat()).as_bytes())?;
    }

    #[test]
    fn any_word_expands_or_fails(word in "[a-c$\\{}:#%/?*'\"<\\-+ \\\\]{0,30}") {
        let vars = [("a".to_owned(), "b c".to_owned())];
        for rules in [expand::Expander::new('\\'), expand::Expander::heredoc_body(), expand::Expander::step_name('`')] {
            let _ = rules.expand(&word, vars.as_slice());
        }
    }

    #[test]
    fn text_without_special_characters_expands_to_itself(word in "[a-zA-Z0-9/.,_=+@% -]{0,30}") {
        let out = expand::Expander::new('\\').expand(&word, &expand::NoVars).unwrap();
        prop_assert_eq!(&out.value, &word);
        prop_assert_eq!(out.words, word.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    }
}

fn check_spans(bytes: &[u8]) -> Result<(), TestCaseError> {
    let lines = u32::try_from(bytes.split_inclusive(|b| *b == b'\n').count()).unwrap_or(u32::MAX);
    let inside = |l: LineRange| 1 <= l.start && l.start <= l.end && l.end <= lines.max(1);
    let parsed = parse_lenient(bytes);
    if let Some(location) = parsed.error.and_then(|e| e.location) {
        prop_assert!(inside(location), "{location:?} of {lines}");
    }
    let mut last = 0;
    for stage in &parsed.dockerfile.stages {
        let rest = stage.instructions.iter().map(|i| i.location);
        for location in std::iter::once(stage.location).chain(rest) {
            prop_assert!(inside(location), "{location:?} of {lines}");
            prop_assert!(location.start > last, "{location:?} after {last}");
            last = location.end;
        }
    }
    let _ = detect_syntax(bytes);
    Ok(())
}
