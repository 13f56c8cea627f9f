//! Comma-separated `key=value` fields as flags carry them (`type=oci,dest=a.tar`).

/// Fields in order; a field in double quotes may hold commas, and `""` inside it is one quote.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next() {
            None => {
                fields.push(field);
                return Ok(fields);
            }
            Some(',') => fields.push(std::mem::take(&mut field)),
            Some('"') if field.is_empty() => quoted(&mut chars, &mut field)?,
            Some('"') => return Err(format!("bare quote in {text:?}")),
            Some(c) => field.push(c),
        }
    }
}

fn quoted(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    field: &mut String,
) -> Result<(), String> {
    loop {
        match chars.next() {
            Some('"') if chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            Some('"') => break,
            Some(c) => field.push(c),
            None => return Err("a quoted field does not end".to_owned()),
        }
    }
    match chars.peek() {
        None | Some(',') => Ok(()),
        Some(_) => Err("text after a quoted field".to_owned()),
    }
}

/// `key=value` fields; a field without `=` has no value.
pub fn pairs(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    Ok(fields(text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (field, None),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_commas() {
        assert_eq!(
            pairs(r#"type=oci,"dest=a,b.tar",tar"#).unwrap(),
            [
                ("type".to_owned(), Some("oci".to_owned())),
                ("dest".to_owned(), Some("a,b.tar".to_owned())),
                ("tar".to_owned(), None),
            ]
        );
        assert_eq!(fields(r#""a""b""#).unwrap(), [r#"a"b"#]);
    }

    #[test]
    fn broken_quotes_are_refused() {
        for text in [r#""a"#, r#"a"b"#, r#""a"b"#] {
            assert!(fields(text).is_err(), "{text}");
        }
    }
}
