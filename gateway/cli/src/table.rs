//! Tables for people. Where they go into a file or a program they have all that is known; on a terminal that is too
//! narrow for that, columns are cut, and some left out, so that no line of them is wrapped.

use std::io::IsTerminal as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Between two columns.
const GAP: usize = 2;

/// A column and how wide it is.
pub struct Column {
    pub head: &'static str,
    pub full: usize,
    /// What must be left of it.
    pub least: usize,
    /// It can be left out.
    pub droppable: bool,
}

impl Column {
    pub fn of(head: &'static str, full: usize) -> Column {
        Column {
            head,
            full,
            least: full,
            droppable: false,
        }
    }

    pub fn down_to(mut self, least: usize) -> Column {
        self.least = least.min(self.full);
        self
    }

    pub fn or_none(mut self) -> Column {
        self.droppable = true;
        self
    }
}

/// The columns of the terminal that stdout is, if it is one.
pub fn terminal() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The width of each column; `None` for one that is left out.
pub struct Layout(Vec<Option<usize>>);

impl Layout {
    /// The columns to cut first stand first in `order`.
    pub fn fit(columns: &[Column], order: &[usize], terminal: Option<usize>) -> Layout {
        let mut widths: Vec<Option<usize>> = columns.iter().map(|c| Some(c.full)).collect();
        let Some(room) = terminal else {
            return Layout(widths);
        };
        let total = |widths: &[Option<usize>]| {
            let there: Vec<usize> = widths.iter().flatten().copied().collect();
            there.iter().sum::<usize>() + GAP * there.len().saturating_sub(1)
        };
        for &index in order {
            let over = total(&widths).saturating_sub(room);
            if let (Some(Some(width)), Some(column)) = (widths.get_mut(index), columns.get(index)) {
                *width -= over.min(width.saturating_sub(column.least));
            }
        }
        for index in (0..columns.len()).rev() {
            let is_droppable = columns.get(index).is_some_and(|column| column.droppable);
            if is_droppable && total(&widths) > room {
                widths[index] = None;
            }
        }
        // What the lost ones took is given back.
        for &index in order.iter().rev() {
            let left = room.saturating_sub(total(&widths));
            if let (Some(Some(width)), Some(column)) = (widths.get_mut(index), columns.get(index)) {
                *width = (*width + left).min(column.full);
            }
        }
        Layout(widths)
    }

    pub fn head(&self, columns: &[Column]) -> String {
        let cells: Vec<String> = columns.iter().map(|c| c.head.to_owned()).collect();
        self.line(&cells)
    }

    pub fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        let there = cells.iter().zip(&self.0);
        for (cell, width) in there.filter_map(|(cell, width)| Some((cell, (*width)?))) {
            if !line.is_empty() {
                line.push_str(&" ".repeat(GAP));
            }
            let cell = cut(cell, width);
            line.push_str(&cell);
            line.push_str(&" ".repeat(width.saturating_sub(cell.width())));
        }
        let mut line = line.trim_end().to_owned();
        line.push('\n');
        line
    }
}

/// The beginning of a text, as much of it as fits.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let fits = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used < width
    });
    fits.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(terminal: Option<usize>) -> String {
        let columns = [
            Column::of("NAME", 25).down_to(10),
            Column::of("DIGEST", 30).down_to(12).or_none(),
            Column::of("      SIZE", 10),
            Column::of("CREATED", 10).or_none(),
        ];
        let layout = Layout::fit(&columns, &[1, 0], terminal);
        let cells = [
            "docker.io/me/日本語アプリ",
            "sha256:0123456789abcdef0123456",
            "   12.35MB",
            "2026-11-22",
        ];
        layout.head(&columns) + &layout.line(&cells.map(str::to_owned))
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        insta::assert_snapshot!(shown(None), @r"
        NAME                       DIGEST                                SIZE  CREATED
        docker.io/me/日本語アプリ  sha256:0123456789abcdef0123456     12.35MB  2026-11-22
        ");
        for columns in 24..90 {
            for line in shown(Some(columns)).lines() {
                assert!(line.width() <= columns, "{columns}: {line}");
            }
        }
        insta::assert_snapshot!(shown(Some(60)), @r"
        NAME                    DIGEST              SIZE  CREATED
        docker.io/me/日本語ア…  sha256:0123…     12.35MB  2026-11-22
        ");
        insta::assert_snapshot!(shown(Some(40)), @r"
        NAME            DIGEST              SIZE
        docker.io/me/…  sha256:0123…     12.35MB
        ");
        insta::assert_snapshot!(shown(Some(24)), @r"
        NAME                SIZE
        docker.io/m…     12.35MB
        ");
    }
}
