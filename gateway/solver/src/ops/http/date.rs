//! Dates as HTTP writes them.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const CURRENT: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
/// Of C's asctime; servers must not send it any more, clients must read it.
const ASCTIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
);

pub fn parse(text: &str) -> Option<OffsetDateTime> {
    PrimitiveDateTime::parse(text, CURRENT)
        .or_else(|_| PrimitiveDateTime::parse(text, ASCTIME))
        .ok()
        .map(PrimitiveDateTime::assume_utc)
}

/// The same moment in the form of today.
pub fn normalize(text: &str) -> Option<String> {
    parse(text)?.format(CURRENT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_one_moment() {
        let current = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(parse(current).unwrap().unix_timestamp(), 784_111_777);
        assert_eq!(
            normalize("Sun Nov  6 08:49:37 1994").as_deref(),
            Some(current)
        );
        assert_eq!(normalize("yesterday"), None);
    }
}
