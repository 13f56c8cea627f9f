//! Here-documents: `<<NAME` words and their bodies.

/// Drop the leading tabs of each line.
pub fn chomp(content: &str) -> String {
    content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}
