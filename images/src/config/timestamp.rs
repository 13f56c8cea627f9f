//! Times in image configs: RFC 3339 with as many digits as are needed, as Go writes them.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ConfigError;

/// A point in time with the offset in which it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Seconds since 1970 (a source date epoch). `None` outside the years 1 to 9999.
    pub fn from_unix(seconds: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(seconds)
            .ok()
            .filter(|t| (1..=9999).contains(&t.year()))
            .map(Timestamp)
    }

    pub fn unix(&self) -> i64 {
        self.0.unix_timestamp()
    }

    /// Cut to whole seconds, in UTC: the form of annotations.
    pub fn to_seconds(self) -> Self {
        let utc = self.0.to_offset(time::UtcOffset::UTC);
        Timestamp(utc.replace_nanosecond(0).unwrap_or(utc))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Timestamp(time.into())
    }
}

impl FromStr for Timestamp {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(Timestamp)
            .map_err(|_| ConfigError::Time(text.to_owned()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.0;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        )?;
        if t.nanosecond() != 0 {
            let digits = format!("{:09}", t.nanosecond());
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        let (hours, minutes, _) = t.offset().as_hms();
        if (hours, minutes) == (0, 0) {
            return f.write_str("Z");
        }
        let sign = if hours < 0 || minutes < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", hours.abs(), minutes.abs())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_gos_form() {
        for (given, written) in [
            ("2020-09-13T12:26:40Z", "2020-09-13T12:26:40Z"),
            ("2020-09-13T12:26:40.100Z", "2020-09-13T12:26:40.1Z"),
            (
                "2020-09-13T12:26:40.123456789+02:30",
                "2020-09-13T12:26:40.123456789+02:30",
            ),
            ("2020-09-13T12:26:40-07:00", "2020-09-13T12:26:40-07:00"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(given.parse::<Timestamp>().unwrap().to_string(), written);
        }
        assert_eq!(
            Timestamp::from_unix(1600000000).unwrap().to_string(),
            "2020-09-13T12:26:40Z"
        );
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
