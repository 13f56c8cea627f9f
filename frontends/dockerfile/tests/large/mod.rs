//! Large files of every shape that a line-by-line reader may do badly at.

/// Files of about `size` bytes, each by the name of its shape.
pub fn shapes(size: usize) -> Vec<(&'static str, String)> {
    let long = 65_000;
    let mut shapes = vec![
        (
            "short instructions",
            repeat("FROM scratch\n", size, |i| format!("RUN a {i}\n")),
        ),
        (
            "long lines",
            repeat("FROM scratch\n", size, |_| {
                format!("RUN {}\n", "a b ".repeat(long / 4))
            }),
        ),
        (
            "one instruction of many lines",
            repeat("FROM scratch\nRUN a", size, |_| " \\\n b".to_owned()),
        ),
        (
            "blank lines and comments inside of one instruction",
            repeat("FROM scratch\nRUN a \\\n", size, |_| "# c\n\n".to_owned()),
        ),
        (
            "comments",
            repeat("FROM scratch\n", size, |i| format!("# c {i}\n")),
        ),
        (
            "blank lines",
            repeat("FROM scratch\n", size, |_| "\n".to_owned()),
        ),
        (
            "stages",
            repeat("", size, |i| format!("FROM scratch AS s{i}\n")),
        ),
        (
            "stages with one name",
            repeat("", size, |_| "FROM scratch AS s\n".to_owned()),
        ),
        (
            "stages on each other",
            repeat("FROM scratch AS s0\n", size, |i| {
                format!("FROM s{i} AS s{}\nCOPY --from=s{i} /a /\n", i + 1)
            }),
        ),
        (
            "copies from many stages",
            repeat("", size / 2, |i| format!("FROM scratch AS s{i}\n"))
                + &repeat("FROM scratch\n", size / 2, |i| {
                    format!("COPY --from=s{i} /a /\n")
                }),
        ),
        (
            "heredocs",
            repeat("FROM scratch\n", size, |i| format!("RUN <<E\n{i}\nE\n")),
        ),
        (
            "heredocs of one line",
            repeat("FROM scratch\n", size, |_| {
                format!("RUN {}\n{}", "<<E ".repeat(5_000), "E\n".repeat(5_000))
            }),
        ),
        (
            "one heredoc",
            repeat("FROM scratch\nRUN <<E\n", size, |i| format!("echo {i}\n")) + "E\n",
        ),
        (
            "one heredoc without an end",
            repeat("FROM scratch\nRUN <<E\n", size, |i| format!("echo {i}\n")),
        ),
        (
            "a heredoc without an end after many with one",
            repeat("FROM scratch\n", size, |_| "RUN <<E\nE\n".to_owned()) + "RUN <<F\n",
        ),
        (
            "words that look like heredocs",
            repeat("FROM scratch\n", size, |_| {
                format!("RUN {}\n", "a<<b $((1<<2)) ".repeat(long / 15))
            }),
        ),
        (
            "arguments",
            repeat("FROM scratch\n", size, |i| format!("ARG A{i}=${{A:-b}}\n")),
        ),
        (
            "substitutions in each other",
            repeat("FROM scratch\n", size, |_| {
                format!(
                    "ENV A={}{}\n",
                    "${A:-".repeat(long / 6),
                    "}".repeat(long / 6)
                )
            }),
        ),
        (
            "open substitutions",
            repeat("FROM scratch\n", size, |_| {
                format!("ENV A={}\n", "${".repeat(long / 2))
            }),
        ),
        (
            "open quotes",
            repeat("FROM scratch\n", size, |_| {
                format!("ENV A={}\n", "\"a '".repeat(long / 4))
            }),
        ),
        (
            "pairs",
            repeat("FROM scratch\n", size, |i| {
                format!("LABEL a{i}=\"b\" c=d\\ e\n")
            }),
        ),
        (
            "many pairs of one instruction",
            repeat("FROM scratch\nLABEL", size, |i| format!(" a{i}=b \\\n")),
        ),
        (
            "JSON",
            repeat("FROM scratch\n", size, |_| {
                format!("CMD [{}\"a\"]\n", "\"a\",".repeat(long / 4))
            }),
        ),
        (
            "brackets that are no JSON",
            repeat("FROM scratch\n", size, |_| {
                format!("CMD {}\n", "[".repeat(long))
            }),
        ),
        (
            "flags",
            repeat("FROM scratch\n", size, |_| {
                format!("COPY {} a /\n", "--exclude=a ".repeat(long / 12))
            }),
        ),
        (
            "mounts",
            repeat("FROM scratch\n", size, |_| {
                format!(
                    "RUN {} a\n",
                    "--mount=type=cache,target=/a ".repeat(long / 29)
                )
            }),
        ),
        (
            "sources",
            repeat("FROM scratch\n", size, |_| {
                format!("COPY {} /\n", "a ".repeat(long / 2))
            }),
        ),
        (
            "triggers",
            repeat("FROM scratch\n", size, |_| {
                "ONBUILD RUN <<E\na\nE\n".to_owned()
            }),
        ),
        (
            "checks",
            repeat("FROM scratch\n", size, |_| {
                "# check=skip=all\nRUN a\n".to_owned()
            }),
        ),
        (
            "carriage returns",
            repeat("FROM scratch\n", size, |_| "RUN a\r\n".to_owned()),
        ),
        (
            "escapes",
            repeat("FROM scratch\nRUN ", size, |_| "\\\\\\\n".to_owned()),
        ),
    ];
    shapes.push((
        "unknown instructions",
        repeat("FROM scratch\n", size, |_| "COPPY a /\n".to_owned()),
    ));
    shapes
}

/// Shapes that reading does well at, and conversion may not.
pub fn conversions(size: usize) -> Vec<(&'static str, String)> {
    let scratch = "FROM scratch\n";
    vec![
        (
            "arguments of unknown variables",
            repeat(scratch, size, |i| format!("ARG A{i}=$B{i}\n")),
        ),
        (
            "global arguments of unknown variables",
            repeat("", size, |i| format!("ARG A{i}=$B{i}\n")) + scratch,
        ),
        (
            "unknown variables in bases",
            repeat("", size / 2, |i| format!("ARG A{i}=x\n"))
                + &repeat("", size / 2, |i| format!("FROM scratch$B{i}\n")),
        ),
        (
            "unknown variables with long names",
            repeat(scratch, size, |i| {
                let name = "N".repeat(30_000);
                format!("ARG {name}{i}=$M{name}\n")
            }),
        ),
        (
            "unknown variables of one instruction",
            repeat("FROM scratch\nENV", size, |i| format!(" A{i}=$B{i} \\\n")),
        ),
        (
            "unknown variables below many comments",
            repeat("FROM scratch\n", size / 2, |_| "# c\n".to_owned())
                + &repeat("ENV", size / 2, |i| format!(" A{i}=$B{i} \\\n")),
        ),
        (
            "environment",
            repeat(scratch, size, |i| format!("ENV E{i}=v\n")),
        ),
        (
            "environment that is set again",
            repeat(scratch, size, |i| format!("ENV E{}=v\n", i % 1000)),
        ),
        (
            "labels",
            repeat(scratch, size, |i| format!("LABEL L{i}=v\n")),
        ),
        (
            "ports",
            repeat(scratch, size, |i| format!("EXPOSE {}\n", i % 65_536)),
        ),
        (
            "folders in each other",
            repeat(scratch, size, |_| "WORKDIR a\n".to_owned()),
        ),
        (
            "stages on each other with variables",
            repeat("FROM scratch AS s0\n", size, |i| {
                format!("FROM s{i} AS s{}\nENV E{i}=v\nLABEL L{i}=v\n", i + 1)
            }),
        ),
        (
            "stages on each other with arguments",
            repeat("FROM scratch AS s0\n", size, |i| {
                format!("FROM s{i} AS s{}\nARG A{i}=v\n", i + 1)
            }),
        ),
        (
            "stages on one with variables",
            repeat("FROM scratch AS s\n", size / 2, |i| format!("ENV E{i}=v\n"))
                + &repeat("", size / 2, |i| {
                    format!("FROM s AS s{}\nCOPY --from=s{i} / /\n", i + 1)
                }),
        ),
        (
            "triggers of many stages",
            repeat("FROM scratch AS s\n", size / 2, |i| {
                format!("ONBUILD ENV E{i}=v\n")
            }) + &repeat("", size / 2, |i| format!("FROM s AS s{i}\n")),
        ),
        (
            "a ring of stages",
            repeat("", size, |i| {
                format!("FROM scratch AS s{i}\nCOPY --from=s{} / /\n", i + 1)
            }) + "FROM scratch AS s0\n",
        ),
        (
            "copies from unknown images",
            repeat(scratch, size, |i| format!("COPY --from=unknown{i} / /\n")),
        ),
        (
            "unknown bases",
            repeat("", size, |i| format!("FROM unknown{i}\n")),
        ),
        (
            "commands that see many arguments",
            repeat(scratch, size / 2, |i| format!("ARG A{i}=v\n"))
                + &repeat("", size / 2, |_| "RUN a\n".to_owned()),
        ),
        (
            "commands between arguments",
            repeat(scratch, size, |i| format!("ARG A{i}=v\nRUN a\n")),
        ),
        (
            "mounts from many stages",
            repeat("", size / 2, |i| format!("FROM scratch AS s{i}\n"))
                + &repeat("FROM scratch\nRUN", size / 2, |i| {
                    format!(" --mount=from=s{i},target=/m{i} \\\n")
                })
                + "a\n",
        ),
        (
            "patterns",
            repeat(scratch, size, |_| {
                let value = "ab".repeat(2_000);
                format!("ENV A={value}\nENV B=${{A//a*b*a*b*c/x}}\n")
            }),
        ),
        (
            "excludes of many sources",
            repeat("FROM scratch\nCOPY", size / 2, |i| {
                format!(" --exclude=x{i} \\\n")
            }) + &repeat("", size / 2, |_| " a \\\n".to_owned())
                + " /b/\n",
        ),
    ]
}

fn repeat(start: &str, size: usize, part: impl Fn(usize) -> String) -> String {
    let mut text = start.to_owned();
    let mut i = 0;
    while text.len() < size {
        text += &part(i);
        i += 1;
    }
    text
}
