//! The parser as a whole.

use super::*;

mod properties;

fn file(text: &str) -> Dockerfile {
    parse(text.as_bytes()).unwrap()
}

fn instruction(line: &str) -> Instruction {
    let file = file(&format!("FROM x\n{line}\n"));
    let [stage] = file.stages.as_slice() else {
        panic!("one stage in {line:?}")
    };
    (**stage.instructions.first().unwrap()).clone()
}

fn kind(line: &str) -> Kind {
    instruction(line).kind
}

/// The message of a file, and its lines.
fn error(text: &str) -> (String, Option<(u32, u32)>) {
    let err = parse(text.as_bytes()).unwrap_err();
    (err.message, err.location.map(|l| (l.start, l.end)))
}

/// The message of one instruction, without its prefix.
fn mistake(line: &str) -> String {
    let (message, _) = error(&format!("FROM x\n{line}\n"));
    let prefix = "dockerfile parse error on line 2: ";
    message.strip_prefix(prefix).unwrap_or(&message).to_owned()
}

fn shell(text: &str) -> CommandLine {
    CommandLine {
        args: vec![text.to_owned()],
        shell_form: true,
        heredocs: vec![],
    }
}

fn run(line: &str) -> Run {
    match kind(line) {
        Kind::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn stages_and_global_args_are_told_apart() {
    let file = file("ARG A=1\nFROM --platform=$P base AS Name\nRUN a\nfrom Name\n");
    assert_eq!(file.meta_args.len(), 1);
    let [first, second] = file.stages.as_slice() else {
        panic!("two stages")
    };
    assert_eq!(first.base, "base");
    assert_eq!(first.platform.as_deref(), Some("$P"));
    assert_eq!(first.name.as_deref(), Some("name"));
    assert_eq!(first.name_as_written.as_deref(), Some("Name"));
    assert_eq!(first.as_keyword.as_deref(), Some("AS"));
    assert_eq!(first.code, "FROM --platform=$P base AS Name");
    assert_eq!(first.instructions.len(), 1);
    assert_eq!(second.base, "Name");
    assert_eq!(second.keyword, "from");
    assert_eq!(second.location, LineRange::line(4));
}

#[test]
fn continuations_join_lines_and_keep_inner_blanks() {
    let each = instruction("RUN a \\\n  b\\  \n# comment\n\n   # another\n c \\\\\n");
    assert_eq!(each.kind, Kind::Run(run("RUN a   b c \\\\")));
    assert_eq!(each.original, "RUN a   b c \\\\");
    assert_eq!(each.location, LineRange::new(2, 7));
    assert_eq!(instruction("RUN a \\").code(), "RUN a");
    let file = file("FROM x\nRUN a \\\n\n b\nRUN c\n");
    assert_eq!(file.empty_continuations, [LineRange::line(4)]);
    assert_eq!(file.stages[0].instructions.len(), 2);
}

#[test]
fn a_line_of_the_escape_character_alone_is_a_continuation() {
    assert_eq!(kind("\\\nRUN a"), kind("RUN a"));
    assert_eq!(mistake("\\"), "unknown instruction: ");
}

#[test]
fn crlf_files_parse_like_lf_files() {
    let lf = "# escape=`\nFROM x\nRUN a `\n  b\nENV A=b\n";
    assert_eq!(file(lf), file(&lf.replace('\n', "\r\n")));
}

#[test]
fn directives_are_read_at_the_top_only() {
    let parsed = file("# Escape = `\n#check=skip=all\nFROM x\nRUN a `\n b");
    assert_eq!(parsed.escape, Escape('`'));
    assert_eq!(parsed.directive("check").unwrap().value, "skip=all");
    assert!(parsed.stages[0].comments.is_empty());
    for text in ["\n# escape=`\nFROM x", "# a\n# escape=`\nFROM x"] {
        assert_eq!(file(text).escape, Escape::default(), "{text:?}");
    }
    assert_eq!(file("\u{feff}# escape=`\nFROM x").escape, Escape('`'));
    assert_eq!(
        error("# escape=x\nFROM x"),
        (
            "invalid escape token 'x' does not match ` or \\".to_owned(),
            Some((1, 1))
        )
    );
    assert_eq!(
        error("# escape=`\n# escape=`\nFROM x").0,
        "only one escape parser directive can be used"
    );
}

#[test]
fn comments_belong_to_the_next_instruction() {
    let parsed = file("# one\n#\n# x is y\n\n# x two\nARG x\n# builds\nFROM b\nRUN c");
    assert_eq!(parsed.meta_args[0].comments, ["x is y", "x two"]);
    let Kind::Arg(args) = &parsed.meta_args[0].kind else {
        panic!("an ARG")
    };
    assert_eq!(args[0].doc_comment, "is y");
    assert_eq!(parsed.stages[0].comments, ["builds"]);
    assert!(parsed.stages[0].instructions[0].comments.is_empty());
}

#[test]
fn files_without_a_stage_are_errors() {
    assert_eq!(
        error(""),
        ("the Dockerfile cannot be empty".to_owned(), None)
    );
    assert_eq!(
        error("# a\n\n"),
        ("file with no instructions".to_owned(), Some((2, 2)))
    );
    assert_eq!(
        error("ARG a"),
        ("dockerfile contains no stages to build".to_owned(), None)
    );
    assert_eq!(
        error("ARG a\nRUN b"),
        ("no build stage in current context".to_owned(), Some((2, 2)))
    );
}

#[test]
fn lines_have_a_limit() {
    let line = |len: usize| format!("FROM x\nRUN {}\nRUN a\n", "a".repeat(len - 4));
    assert_eq!(file(&line(65535)).stages[0].instructions.len(), 2);
    assert_eq!(
        error(&line(65536)).0,
        "dockerfile line greater than max allowed size of 65535"
    );
}

#[test]
fn command_lines_have_two_forms() {
    assert_eq!(run("RUN  a  b ").command, shell("a  b"));
    assert_eq!(run("RUN\ta").command, shell("a"));
    let exec = |args: &[&str]| CommandLine {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        ..CommandLine::default()
    };
    assert_eq!(run(r#"RUN ["a", "b c"] "#).command, exec(&["a", "b c"]));
    assert_eq!(kind("CMD []"), Kind::Cmd(exec(&[])));
    assert_eq!(kind("ENTRYPOINT ['a']"), Kind::Entrypoint(shell("['a']")));
    let none = CommandLine {
        shell_form: true,
        ..CommandLine::default()
    };
    assert_eq!(run("RUN").command, none);
    assert_eq!(
        mistake("CMD [1]"),
        "when using JSON array syntax, arrays must be comprised of strings only"
    );
}

#[test]
fn run_flags_are_typed() {
    let found = run(
        "RUN --mount=type=cache,target=/a --mount=target=/b --network=none --security=insecure --device=gpu a",
    );
    assert_eq!(found.mounts, ["type=cache,target=/a", "target=/b"]);
    assert_eq!(found.network, Network::None);
    assert_eq!(found.security, Security::Insecure);
    assert_eq!(found.devices[0].name, "gpu");
    assert_eq!(found.command, shell("a"));
    assert_eq!(
        mistake("RUN --network=foo a"),
        "invalid network mode \"foo\""
    );
    assert_eq!(mistake("RUN --security=x a"), "security \"x\" is not valid");
    assert_eq!(
        mistake("RUN --mount=from=$x a"),
        "'from' doesn't support variable expansion, define alias stage instead"
    );
    assert_eq!(
        mistake("RUN --mont=x a"),
        "unknown flag: --mont (did you mean mount?)"
    );
    assert_eq!(run("RUN -- --foo").command, shell("--foo"));
    assert_eq!(run("RUN echo --foo").command, shell("echo --foo"));
    assert_eq!(mistake("CMD --foo bar"), "unknown flag: --foo");
    assert_eq!(mistake("ENV --x=1 A=1"), "unknown flag: --x");
}

#[test]
fn copies_have_flags_and_paths() {
    let Kind::Copy(copy) = kind(
        "COPY --from=a --chown=b --chmod=c --link --parents=false --exclude=d --exclude=\"e f\" g h i",
    ) else {
        panic!("a COPY")
    };
    let expected = Copy {
        paths: SourcesAndDest {
            sources: vec!["g".to_owned(), "h".to_owned()],
            inline: vec![],
            dest: "i".to_owned(),
        },
        from: Some("a".to_owned()),
        chown: Some("b".to_owned()),
        chmod: Some("c".to_owned()),
        link: true,
        parents: false,
        exclude: vec!["d".to_owned(), "e f".to_owned()],
    };
    assert_eq!(copy, expected);
    let Kind::Add(add) = kind(r#"ADD --checksum=a --keep-git-dir --unpack=FALSE ["b c", "d"]"#)
    else {
        panic!("an ADD")
    };
    assert_eq!(add.checksum.as_deref(), Some("a"));
    assert_eq!((add.keep_git_dir, add.unpack), (Some(true), Some(false)));
    assert_eq!(
        (add.paths.sources, add.paths.dest),
        (vec!["b c".to_owned()], "d".to_owned())
    );
    assert_eq!(
        mistake("COPY --from=a --from=b c d"),
        "duplicate flag specified: --from"
    );
    assert_eq!(
        mistake("COPY --from c d"),
        "missing a value on flag: --from"
    );
    assert_eq!(
        mistake("COPY --link= c d"),
        "missing a value on flag: --link"
    );
    assert_eq!(
        mistake("COPY --link=maybe c d"),
        "expecting boolean value for flag --link, not: maybe"
    );
    let one = "requires at least two arguments, but only one was provided. Destination could not be determined";
    assert_eq!(mistake("COPY a"), format!("COPY {one}"));
    assert_eq!(mistake("ADD"), format!("ADD {one}"));
}

#[test]
fn heredocs_of_run_keep_their_bodies() {
    let each = instruction("RUN <<A cat - <<-'B'\n# not a comment \\\n\nA\n\tx\n\tB\nRUN b");
    assert_eq!(each.location, LineRange::new(2, 7));
    let Kind::Run(run) = each.kind else {
        panic!("a RUN")
    };
    assert_eq!(run.command.args, ["<<A cat - <<-'B'"]);
    let doc = |name: &str, expand, chomp, content: &str| Heredoc {
        name: name.to_owned(),
        fd: 0,
        expand,
        chomp,
        content: content.to_owned(),
    };
    assert_eq!(
        run.command.heredocs,
        [
            doc("A", true, false, "# not a comment \\\n\n"),
            doc("B", false, true, "\tx\n")
        ]
    );
    assert_eq!(
        error("FROM x\nRUN <<A\nb"),
        ("unterminated heredoc".to_owned(), Some((2, 3)))
    );
    assert_eq!(kind("CMD <<A"), Kind::Cmd(shell("<<A")));
    assert_eq!(run_heredocs(r#"RUN ["a", "<<A"]"#), 0);
    assert_eq!(run_heredocs("RUN echo $((1<<2)) \"<<A\""), 0);
}

fn run_heredocs(line: &str) -> usize {
    run(line).command.heredocs.len()
}

#[test]
fn heredocs_of_copy_are_sources() {
    let Kind::Copy(copy) = kind("COPY a <<b <<-\"c\" /d/\n1\r\nb\n\t2\nc\n") else {
        panic!("a COPY")
    };
    assert_eq!(copy.paths.sources, ["a"]);
    let found: Vec<_> = copy
        .paths
        .inline
        .iter()
        .map(|d| (d.name.as_str(), d.expand, d.content.as_str()))
        .collect();
    assert_eq!(found, [("b", true, "1\r\n"), ("c", false, "2\n")]);
    assert_eq!(
        mistake("COPY a <<b\nb"),
        "COPY cannot accept a heredoc as a destination"
    );
}

#[test]
fn onbuild_keeps_the_text_of_its_trigger() {
    let Kind::Onbuild(found) = kind("OnBuild  Run --mount=x <<A\nb\nA") else {
        panic!("an ONBUILD")
    };
    assert_eq!(found.expression, "Run --mount=x <<A\nb\nA");
    assert_eq!(found.trigger, "RUN");
    assert_eq!(kind("ONBUILD foo bar").name(), "ONBUILD");
    assert_eq!(
        mistake("ONBUILD ONBUILD RUN a"),
        "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"
    );
    assert_eq!(
        mistake("ONBUILD from x"),
        "FROM isn't allowed as an ONBUILD trigger"
    );
    assert_eq!(mistake("ONBUILD"), "ONBUILD requires at least one argument");

    let at = LineRange::line(7);
    let trigger = parse_onbuild_trigger("Run --mount=target=/x <<A\nb\nA", at).unwrap();
    assert_eq!(trigger.location, at);
    assert_eq!(trigger.kind.name(), "RUN");
    let error = |text| parse_onbuild_trigger(text, at).unwrap_err();
    assert_eq!(
        error("RUN a\nRUN b"),
        ParseError::at("onbuild trigger should be a single expression", at)
    );
    assert_eq!(
        error("RUM a").message,
        "unknown instruction: RUM (did you mean RUN?)"
    );
}

#[test]
fn healthchecks_are_typed() {
    let Kind::Healthcheck(found) = kind(
        "HEALTHCHECK --interval=5s --timeout=1m --start-period=1ms --start-interval=2s --retries=3 cmd a b",
    ) else {
        panic!("a HEALTHCHECK")
    };
    let expected = Healthcheck {
        test: vec!["CMD-SHELL".to_owned(), "a b".to_owned()],
        interval: 5_000_000_000,
        timeout: 60_000_000_000,
        start_period: 1_000_000,
        start_interval: 2_000_000_000,
        retries: 3,
    };
    assert_eq!(found, expected);
    let test = |line| match kind(line) {
        Kind::Healthcheck(h) => h.test,
        other => panic!("{other:?}"),
    };
    assert_eq!(test("HEALTHCHECK CMD [\"a\", \"b\"]"), ["CMD", "a", "b"]);
    assert_eq!(test("HEALTHCHECK none"), ["NONE"]);
    for (line, text) in [
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        (
            "HEALTHCHECK FOO",
            "Unknown type \"FOO\" in HEALTHCHECK (try CMD)",
        ),
        ("HEALTHCHECK NONE a", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        (
            "HEALTHCHECK --interval=1 CMD a",
            "time: missing unit in duration \"1\"",
        ),
        (
            "HEALTHCHECK --interval=1ns CMD a",
            "Interval \"interval\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD a",
            "--retries cannot be negative (-1)",
        ),
        (
            "HEALTHCHECK --retries=x CMD a",
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
    ] {
        assert_eq!(mistake(line), text);
    }
}

#[test]
fn values_stay_raw_words() {
    let pair = |key: &str, value: &str, legacy| KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
        legacy,
    };
    assert_eq!(
        kind("ENV a=\"b c\" d=e\\ f g="),
        Kind::Env(vec![
            pair("a", "\"b c\"", false),
            pair("d", "e\\ f", false),
            pair("g", "", false)
        ])
    );
    assert_eq!(
        kind("LABEL a  b c"),
        Kind::Label(vec![pair("a", "b c", true)])
    );
    assert_eq!(kind("WORKDIR /a b"), Kind::Workdir("/a b".to_owned()));
    assert_eq!(kind("USER $u"), Kind::User("$u".to_owned()));
    assert_eq!(kind("STOPSIGNAL --x a"), Kind::Stopsignal("a".to_owned()));
    assert_eq!(
        kind("EXPOSE 90 8$p"),
        Kind::Expose(vec!["8$p".to_owned(), "90".to_owned()])
    );
    assert_eq!(
        kind("VOLUME [\"/a b\"]"),
        Kind::Volume(vec!["/a b".to_owned()])
    );
    assert_eq!(
        kind("SHELL [\"a\", \"-c\"]"),
        Kind::Shell(vec!["a".to_owned(), "-c".to_owned()])
    );
    let Kind::Arg(args) = kind("ARG a b=\"c d\" e=") else {
        panic!("an ARG")
    };
    let values: Vec<_> = args
        .iter()
        .map(|a| (a.key.as_str(), a.value.as_deref()))
        .collect();
    assert_eq!(
        values,
        [("a", None), ("b", Some("\"c d\"")), ("e", Some(""))]
    );
}

#[test]
fn each_mistake_has_its_text() {
    for (line, text) in [
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a on b", "FROM requires either one or three arguments"),
        (
            "FROM a AS 1abc",
            "invalid name for build stage: \"1abc\", name can't start with a number or contain symbols",
        ),
        ("FORM x", "unknown instruction: FORM (did you mean FROM?)"),
        ("copi x", "unknown instruction: copi (did you mean copy?)"),
        ("XYZZY x", "unknown instruction: XYZZY"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        (
            "VOLUME [\"\"]",
            "VOLUME specified can not be an empty string",
        ),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =a", "ARG names can not be blank"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV =a", "ENV names can not be blank"),
        ("ENV a", "ENV must have two arguments"),
        ("SHELL", "SHELL requires at least one argument"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("SHELL a", "SHELL requires the arguments to be in JSON form"),
    ] {
        assert_eq!(mistake(line), text, "{line}");
    }
}

#[test]
fn mistakes_of_lines_come_before_mistakes_of_instructions() {
    let (message, lines) = error("FROM x\nFOO\nRUN a \\\n b\nENV \\\n A\n");
    assert_eq!(
        (message.as_str(), lines),
        ("ENV must have two arguments", Some((5, 6)))
    );
    let (message, lines) = error("FROM x\nUSER \\\n\n\n");
    assert_eq!(
        (message.as_str(), lines),
        (
            "dockerfile parse error on line 2: USER requires exactly one argument",
            Some((2, 4))
        )
    );
}

#[test]
fn what_precedes_a_mistake_is_kept() {
    let parsed = parse_lenient(b"FROM x\nRUN a\nRUM b\n");
    assert!(parsed.error.is_some());
    assert_eq!(parsed.dockerfile.stages[0].instructions.len(), 1);
}

#[test]
fn a_large_file_takes_time_by_its_length_only() {
    let mut text = "FROM x\n".to_owned();
    for n in 0..20_000 {
        text += &format!(
            "RUN --mount=target=/x echo {n} \\\n  && true <b\nENV A{n}=\"b c\" D=e\n# c\n"
        );
    }
    text += &format!("RUN {}a\n", "b \\\n".repeat(100_000));
    text += &format!("RUN <<E\n{}E\n", "body\n".repeat(100_000));
    let begun = std::time::Instant::now();
    assert_eq!(file(&text).stages[0].instructions.len(), 40_002);
    // quadratic work would take minutes
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
