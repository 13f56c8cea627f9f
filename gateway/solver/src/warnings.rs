//! The warnings of one build: whoever shows them keeps them to the end, so there is an end to them.

use gateway_api::Warning;
use gateway_api::progress::VertexWarning;
use prost::Message as _;

/// How many warnings a build may have. Each frontend of this project tells no more than half of them.
const MAX_WARNINGS: usize = 20_000;

/// Bytes of all texts and places.
const MAX_TEXT: usize = 16 << 20;

/// Bytes of build files that all warnings bring along together: each may bring its whole file, for the lines that are
/// shown with it. Those beyond say where they are, without the lines.
const MAX_SOURCES: usize = 32 << 20;

/// What there was so far.
#[derive(Debug, Default)]
pub struct Warnings {
    count: usize,
    text: usize,
    sources: usize,
    /// That there are more was said.
    ended: bool,
}

impl Warnings {
    /// The warning as it is told; in the place of the first that is one too many, a word of that, and then none.
    pub fn admit(&mut self, mut warning: Warning) -> Option<VertexWarning> {
        if self.ended {
            return None;
        }
        let text = text_size(&warning);
        if self.count == MAX_WARNINGS || self.text.saturating_add(text) > MAX_TEXT {
            self.ended = true;
            let text = format!("{} warnings are shown, there are more", self.count);
            return Some(VertexWarning {
                vertex: warning.digest,
                level: 1,
                short: text.into_bytes(),
                ..VertexWarning::default()
            });
        }
        self.count += 1;
        self.text += text;
        if let Some(info) = &mut warning.info {
            let definition = info.definition.as_ref().map_or(0, |d| d.encoded_len());
            let size = info.data.len().saturating_add(definition);
            if self.sources.saturating_add(size) > MAX_SOURCES {
                info.data = Vec::new();
                info.definition = None;
            } else {
                self.sources += size;
            }
        }
        Some(VertexWarning {
            vertex: warning.digest,
            level: warning.level.max(1),
            short: warning.short,
            detail: warning.detail,
            url: warning.url,
            source_info: warning.info.as_ref().map(Into::into),
            ranges: warning.ranges.iter().map(Into::into).collect(),
        })
    }
}

/// All but the build file.
fn text_size(warning: &Warning) -> usize {
    let details = warning
        .detail
        .iter()
        .map(|line| size_of::<Vec<u8>>() + line.len());
    let named = warning
        .info
        .as_ref()
        .map_or(0, |info| info.filename.len() + info.language.len());
    warning.digest.len()
        + warning.short.len()
        + warning.url.len()
        + named
        + details.sum::<usize>()
        + size_of_val(warning.ranges.as_slice())
}

#[cfg(test)]
mod tests {
    use gateway_llb::pb;

    use super::*;

    fn with_file(bytes: usize) -> Warning {
        Warning {
            short: b"W".to_vec(),
            info: Some(pb::SourceInfo {
                filename: "f".into(),
                data: vec![b'x'; bytes],
                ..pb::SourceInfo::default()
            }),
            ranges: vec![pb::Range::default()],
            ..Warning::default()
        }
    }

    #[test]
    fn build_files_stay_away_when_there_were_enough() {
        let mut warnings = Warnings::default();
        let told: Vec<_> = (0..100)
            .filter_map(|_| warnings.admit(with_file(1 << 20)))
            .collect();
        assert_eq!(told.len(), 100);
        let info = |w: &VertexWarning| w.source_info.clone().unwrap();
        let brought = told.iter().filter(|w| !info(w).data.is_empty());
        assert_eq!(brought.count(), 32);
        assert!(
            told.iter()
                .all(|w| info(w).filename == "f" && w.ranges.len() == 1)
        );
        // A small one still has room when a large one had not.
        let mut warnings = Warnings::default();
        let large = warnings.admit(with_file(33 << 20)).unwrap();
        let small = warnings.admit(with_file(1)).unwrap();
        assert!(info(&large).data.is_empty() && !info(&small).data.is_empty());
    }

    #[test]
    fn one_word_stands_for_all_that_are_too_many() {
        let mut warnings = Warnings::default();
        let short = Warning::default();
        let told = (0..30_000).filter_map(|_| warnings.admit(short.clone()));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), MAX_WARNINGS + 1);
        let last = String::from_utf8(told.last().unwrap().short.clone()).unwrap();
        assert_eq!(last, "20000 warnings are shown, there are more");

        let long = Warning {
            detail: vec![vec![b'x'; 5 << 20]],
            ..Warning::default()
        };
        let mut warnings = Warnings::default();
        let told = (0..9).filter_map(|_| warnings.admit(long.clone()));
        assert_eq!(told.count(), 4);
    }
}
