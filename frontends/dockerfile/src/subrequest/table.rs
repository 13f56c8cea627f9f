//! Text in columns, for terminals.

/// Rows whose columns are as wide as their widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
    gap: usize,
}

impl Table {
    /// An empty table with `gap` blanks between columns.
    pub fn new(gap: usize) -> Self {
        Self {
            rows: Vec::new(),
            gap,
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[&str]) {
        self.rows
            .push(cells.iter().map(|&cell| cell.to_owned()).collect());
    }

    /// The rows as lines; the last column is not padded.
    pub fn text(&self) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            for (index, cell) in row.iter().enumerate() {
                let width = cell.chars().count() + self.gap;
                match widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let last = row.len().saturating_sub(1);
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if index == last {
                    out.push_str(cell);
                } else {
                    out.push_str(&format!("{cell:<width$}"));
                }
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let mut table = super::Table::new(3);
        table.row(&["SECRET", "REQUIRED"]);
        table.row(&["a", "true"]);
        assert_eq!(table.text(), "SECRET   REQUIRED\na        true\n");
    }
}
