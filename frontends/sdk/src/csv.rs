//! One record of comma-separated values, as options and flags carry them (`type=oci,dest=a.tar`).

/// The fields of a record: separated by commas, `"` around a field, `""` for a quote in it. One
/// line break at the end is not part of the record.
///
/// # Errors
/// An empty record, and quotes where none may be, in the words of the reference.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(body) => quoted(text, body)?,
            None => {
                let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if let Some(at) = field.find('"') {
                    let column = text.len() - rest.len() + at + 1;
                    return Err(format!(
                        "parse error on line 1, column {column}: bare \" in non-quoted-field"
                    ));
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// `key=value` fields; a field without `=` has no value.
///
/// # Errors
/// As [`fields`].
pub fn pairs(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let pair = |field: String| match field.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (field, None),
    };
    Ok(fields(text)?.into_iter().map(pair).collect())
}

/// The field that starts after an opening quote, and what follows its end.
fn quoted<'a>(text: &str, body: &'a str) -> Result<(String, &'a str), String> {
    let mut field = String::new();
    let mut rest = body;
    loop {
        let column = |rest: &str| text.len() - rest.len() + 1;
        let stray = |at| {
            format!("parse error on line 1, column {at}: extraneous or missing \" in quoted-field")
        };
        let Some(end) = rest.find('"') else {
            return Err(stray(column("")));
        };
        let (part, after) = rest.split_at(end);
        field.push_str(part);
        let after = after.get(1..).unwrap_or_default();
        if let Some(after) = after.strip_prefix('"') {
            field.push('"');
            rest = after;
        } else if after.is_empty() || after.starts_with(',') {
            return Ok((field, after));
        } else {
            return Err(stray(column(after) - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_and_quotes() {
        assert_eq!(fields("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(fields("\"a=1,2\",\"b\"\"c\"").unwrap(), ["a=1,2", "b\"c"]);
        assert_eq!(fields("a\n").unwrap(), ["a"]);
        assert_eq!(fields("").unwrap_err(), "EOF");
        assert_eq!(
            pairs(r#"type=oci,"dest=a,b.tar",tar"#).unwrap(),
            [
                ("type".to_owned(), Some("oci".to_owned())),
                ("dest".to_owned(), Some("a,b.tar".to_owned())),
                ("tar".to_owned(), None),
            ]
        );
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
    }

    #[test]
    fn stray_quotes_are_errors() {
        assert!(fields("a\"b").is_err());
        assert!(fields("\"a\"b").is_err());
        assert!(fields("\"a").is_err());
    }
}
