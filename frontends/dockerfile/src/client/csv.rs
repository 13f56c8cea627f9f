//! One record of comma separated values, as options and `--mount` write them.

/// The fields of a record. Quoted fields may hold commas; `""` inside quotes is a quote.
///
/// # Errors
/// When a quote stands where none may or is never closed.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("bare \" in non-quoted-field".to_owned());
            }
            out.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(out),
            }
            continue;
        };
        let mut field = String::new();
        let mut tail = quoted;
        loop {
            let Some((part, after)) = tail.split_once('"') else {
                return Err("extraneous or missing \" in quoted-field".to_owned());
            };
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    tail = after;
                }
                None => {
                    tail = after;
                    break;
                }
            }
        }
        out.push(field);
        match tail.strip_prefix(',') {
            Some(after) => rest = after,
            None if tail.is_empty() => return Ok(out),
            None => return Err("extraneous or missing \" in quoted-field".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn quotes_protect_commas_and_quotes() {
        assert_eq!(fields("a,b=c").unwrap(), ["a", "b=c"]);
        assert_eq!(fields("\"a,b\",\"c\"\"d\"").unwrap(), ["a,b", "c\"d"]);
        assert_eq!(fields("").unwrap(), [""]);
        assert!(fields("a\"b").is_err());
        assert!(fields("\"a").is_err());
    }
}
