//! Filters on usage records, in containerd's syntax: `field`, `field==value`, `field!=value`,
//! `field~=regex`, several with commas between them all of which must hold. Of several filters one must.

use regex::Regex;

use super::record::UsageRecord;
use crate::error::SolverError;

/// Longest filter that is read: no honest one comes near.
const MAX_FILTER_BYTES: usize = 64 << 10;

/// Filters, read. None, or an empty one among them, matches everything.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Condition>>);

#[derive(Debug)]
struct Condition {
    field: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// # Errors
    /// When a filter cannot be read; the text is in the error.
    pub fn parse(filters: &[String]) -> Result<Filters, SolverError> {
        let parsed = filters.iter().map(|filter| {
            parse(filter).map_err(|problem| SolverError::Filter {
                filter: filter.chars().take(200).collect(),
                problem,
            })
        });
        parsed.collect::<Result<_, _>>().map(Filters)
    }

    pub fn matches(&self, record: &UsageRecord) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|all| all.iter().all(|condition| condition.holds(record)))
    }
}

/// The field's text; `None` when the record does not have it.
fn field(record: &UsageRecord, name: &str) -> Option<String> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    // As text `true`, so that `mutable==true` says what it seems to.
    let flag = |set: bool| set.then(|| "true".to_owned());
    match name {
        "id" => text(&record.id),
        "parents" => text(&record.parents.join(";")),
        "description" => text(&record.description),
        "type" => text(record.record_type.as_str()),
        "inuse" => flag(record.in_use),
        "mutable" => flag(record.mutable),
        "immutable" => flag(!record.mutable),
        "shared" => flag(record.shared),
        "private" => flag(!record.shared),
        _ => None,
    }
}

impl Condition {
    fn holds(&self, record: &UsageRecord) -> bool {
        let value = field(record, &self.field);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::NotEqual(other) => value.as_ref() != Some(other),
            Test::Matches(regex) => value.is_some_and(|value| regex.is_match(&value)),
        }
    }
}

fn parse(filter: &str) -> Result<Vec<Condition>, String> {
    if filter.len() > MAX_FILTER_BYTES {
        return Err(format!("longer than {MAX_FILTER_BYTES} bytes"));
    }
    let mut conditions = Vec::new();
    let mut rest = filter.trim();
    while !rest.is_empty() {
        let (condition, after) = condition(rest)?;
        conditions.push(condition);
        rest = match after.trim_start() {
            "" => "",
            after => match after.strip_prefix(',') {
                Some(next) if !next.trim().is_empty() => next.trim_start(),
                Some(_) => return Err("nothing after the last comma".into()),
                None => return Err(format!("expected a comma before {after:?}")),
            },
        };
    }
    Ok(conditions)
}

/// One condition, and what comes after it.
fn condition(text: &str) -> Result<(Condition, &str), String> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return Err(format!("expected a field at {text:?}"));
    }
    let field = name.to_owned();
    let rest = rest.trim_start();
    let Some((operator, rest)) = ["==", "!=", "~="]
        .iter()
        .find_map(|operator| Some((*operator, rest.strip_prefix(operator)?)))
    else {
        return match rest.starts_with([',']) || rest.is_empty() {
            true => Ok((
                Condition {
                    field,
                    test: Test::Present,
                },
                rest,
            )),
            false => Err(format!("expected ==, != or ~= at {rest:?}")),
        };
    };
    let (value, rest) = value(rest.trim_start(), operator == "~=")?;
    let test = match operator {
        "==" => Test::Equal(value),
        "!=" => Test::NotEqual(value),
        _ => Test::Matches(Regex::new(&value).map_err(|error| error.to_string())?),
    };
    Ok((Condition { field, test }, rest))
}

/// A value: in double quotes with Go's escapes; for a regular expression also between `/` or `|`; else
/// up to the next comma.
fn value(text: &str, is_regex: bool) -> Result<(String, &str), String> {
    let quote = text
        .chars()
        .next()
        .filter(|c| *c == '"' || (is_regex && matches!(c, '/' | '|')));
    let Some(quote) = quote else {
        let end = text.find(',').unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return match value.trim_end() {
            "" => Err("expected a value".into()),
            value => Ok((value.to_owned(), rest)),
        };
    };
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((value, text.get(at + c.len_utf8()..).unwrap_or_default()));
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        match chars.next() {
            Some((_, next)) if next == quote => value.push(next),
            // Escapes of a regular expression are its own.
            Some((_, next)) if quote != '"' => value.extend(['\\', next]),
            Some((_, 'n')) => value.push('\n'),
            Some((_, 't')) => value.push('\t'),
            Some((_, '\\')) => value.push('\\'),
            Some((_, next)) => return Err(format!("unknown escape \\{next}")),
            None => break,
        }
    }
    Err(format!("{quote} without an end"))
}

#[cfg(test)]
mod tests {
    use super::super::record::RecordType;
    use super::*;

    fn record() -> UsageRecord {
        UsageRecord {
            id: "sha256:ab".into(),
            mutable: true,
            in_use: false,
            size: 0,
            parents: vec!["p1".into(), "p2".into()],
            created_at: 0,
            last_used_at: None,
            usage_count: 0,
            record_type: RecordType::CacheMount,
            shared: false,
            description: "cached mount /a, \"b\"".into(),
        }
    }

    fn matches(filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        Filters::parse(&filters).unwrap().matches(&record())
    }

    #[test]
    fn one_of_several_filters_must_match_and_of_one_all_parts() {
        for yes in [
            &[][..],
            // As clients send it that have none.
            &[""],
            &["type==exec.cachemount"],
            &["type==regular", "mutable"],
            &["mutable,private"],
            &["id~=^sha256:a"],
            &["id~=/a[b]$/,mutable==true"],
            &["parents==\"p1;p2\""],
            &["description==\"cached mount /a, \\\"b\\\"\""],
            &["type!=regular"],
            &["immutable!=true"],
            &["nothing!=x"],
        ] {
            assert!(matches(yes), "{yes:?}");
        }
        for no in [
            &["type==regular"][..],
            &["mutable,shared"],
            &["inuse"],
            &["immutable"],
            &["nothing"],
            &["nothing==x"],
            &["id~=^ab"],
        ] {
            assert!(!matches(no), "{no:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_filter_in_the_text() {
        for bad in [
            "type=regular",
            "==x",
            "type==",
            "id~=(",
            "id==\"x",
            "a,,b",
            "a,",
            "id==\"\\q\"",
            "a b",
        ] {
            let error = Filters::parse(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(error.starts_with("filter "), "{bad}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z=!~,\"/|\\\\ .()\\[]{0,40}") {
            if let Ok(filters) = Filters::parse(&[text]) {
                filters.matches(&record());
            }
        }
    }
}
