//! Here-documents: which words are one, and their bodies.

use super::ast::Heredoc;
use super::expand::{ExpandError, Expander, NoVars};

/// The heredocs that a logical line announces, bodies still empty.
///
/// The escape character is always `\`, whatever the file's is (observed).
pub(super) fn in_line(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    let rules = Expander {
        raw_quotes: true,
        raw_escapes: true,
        skip_unset: true,
        ..Expander::new('\\')
    };
    // a line the rules can't read (an open quote, say) holds no heredoc
    let Ok(line) = rules.expand(line, &NoVars) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for word in &line.words {
        found.extend(parse_word(word)?);
    }
    Ok(found)
}

/// Read a word such as `3<<-"EOF"`; `None` when it is no heredoc.
///
/// # Errors
/// A name that can't be read.
pub fn parse_word(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let digits = word
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(word.len());
    let (fd, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_ascii_start();
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let rules = Expander {
        skip_unset: true,
        ..Expander::new('\\')
    };
    let plain = rules.expand(rest, &NoVars)?.words;
    let [name] = plain.as_slice() else {
        return Ok(None);
    };
    let rules = Expander {
        raw_quotes: true,
        ..rules
    };
    let raw = rules.expand(rest, &NoVars)?.words;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let quoted = raw.first().map_or(0, |raw| quotes(raw)) != quotes(name);
    Ok(Some(Heredoc {
        name: name.clone(),
        fd: fd.parse().unwrap_or_default(),
        expand: !quoted,
        chomp,
        content: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<(String, bool, bool, u32)> {
        let found = in_line(line).unwrap();
        found
            .into_iter()
            .map(|d| (d.name, d.expand, d.chomp, d.fd))
            .collect()
    }

    #[test]
    fn a_heredoc_is_a_whole_word() {
        assert_eq!(names("RUN <<EOF"), [("EOF".to_owned(), true, false, 0)]);
        assert_eq!(names("RUN <<-EOF"), [("EOF".to_owned(), true, true, 0)]);
        assert_eq!(names("RUN 3<<EOF"), [("EOF".to_owned(), true, false, 3)]);
        assert_eq!(names("RUN << EOF"), [("EOF".to_owned(), true, false, 0)]);
        assert_eq!(
            names("RUN <<'EOF' cat"),
            [("EOF".to_owned(), false, false, 0)]
        );
        assert_eq!(
            names("RUN <<E\"O\"F"),
            [("EOF".to_owned(), false, false, 0)]
        );
        assert_eq!(names("RUN <<EOF;"), [("EOF;".to_owned(), true, false, 0)]);
        assert_eq!(
            names("RUN <<A cat; <<B"),
            [
                ("A".to_owned(), true, false, 0),
                ("B".to_owned(), true, false, 0)
            ]
        );
        assert_eq!(names("RUN $(( 1 << 4 ))").len(), 1);
        for line in [
            "RUN echo $((1<<2))",
            "RUN cat <<< x",
            "RUN echo \"<<EOF\"",
            "RUN echo '<<EOF",
            "RUN cat <<",
        ] {
            assert_eq!(names(line), [], "{line}");
        }
    }

    #[test]
    fn chomping_drops_tabs_only() {
        assert_eq!(
            crate::parse::ast::chomp("\t\ta\n\t b\n  c\n\n\t"),
            "a\n b\n  c\n\n"
        );
    }
}
