//! Colours of the terminal display: blue for done, yellow, red, and what the user chose instead.

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Done,
    Canceled,
    Warning,
    Error,
    /// Live output of a step.
    Faint,
}

/// Escape sequences by what they mark; all empty without colours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Colors {
    done: String,
    canceled: String,
    warning: String,
    error: String,
    faint: String,
}

const NAMES: [(&str, &str); 16] = [
    ("black", "30"),
    ("red", "31"),
    ("green", "32"),
    ("yellow", "33"),
    ("blue", "34"),
    ("magenta", "35"),
    ("cyan", "36"),
    ("white", "37"),
    ("light-black", "90"),
    ("light-red", "91"),
    ("light-green", "92"),
    ("light-yellow", "93"),
    ("light-blue", "94"),
    ("light-magenta", "95"),
    ("light-cyan", "96"),
    ("light-white", "97"),
];

impl Default for Colors {
    fn default() -> Self {
        Colors {
            done: escape("34"),
            canceled: escape("33"),
            warning: escape("33"),
            error: escape("31"),
            faint: escape("2"),
        }
    }
}

impl Colors {
    pub fn none() -> Self {
        Colors {
            done: String::new(),
            canceled: String::new(),
            warning: String::new(),
            error: String::new(),
            faint: String::new(),
        }
    }

    /// `NO_COLOR`, when set to anything, beats `BUILDKIT_COLORS`
    /// (`run=green:error=255,0,0:cancel=...:warning=...`). The second value says what of it was not
    /// understood.
    pub fn from_variables(
        no_color: Option<&str>,
        buildkit_colors: Option<&str>,
    ) -> (Self, Vec<String>) {
        if no_color.is_some_and(|value| !value.is_empty()) {
            return (Colors::none(), Vec::new());
        }
        let mut colors = Colors::default();
        let mut notes = Vec::new();
        for field in buildkit_colors.unwrap_or_default().split(':') {
            if field.is_empty() {
                continue;
            }
            let chosen = field
                .split_once('=')
                .and_then(|(key, value)| Some((key.to_lowercase(), color(value)?)));
            let place = match &chosen {
                Some((key, _)) if key == "run" => &mut colors.done,
                Some((key, _)) if key == "cancel" => &mut colors.canceled,
                Some((key, _)) if key == "warning" => &mut colors.warning,
                Some((key, _)) if key == "error" => &mut colors.error,
                _ => {
                    notes.push(format!(
                        "BUILDKIT_COLORS: {field:?} is not understood: write run, cancel, warning or \
                         error, =, and a name like green or R,G,B"
                    ));
                    continue;
                }
            };
            if let Some((_, value)) = chosen {
                *place = value;
            }
        }
        (colors, notes)
    }

    /// What to write before and after a line.
    pub fn around(&self, paint: Paint) -> (&str, &'static str) {
        let before = match paint {
            Paint::Plain => "",
            Paint::Done => &self.done,
            Paint::Canceled => &self.canceled,
            Paint::Warning => &self.warning,
            Paint::Error => &self.error,
            Paint::Faint => &self.faint,
        };
        (before, if before.is_empty() { "" } else { "\x1b[0m" })
    }
}

fn escape(code: &str) -> String {
    format!("\x1b[{code}m")
}

fn color(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    if let Some((_, code)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Some(escape(code));
    }
    let parts: Vec<u8> = text
        .split(',')
        .map(|part| part.trim().parse().ok())
        .collect::<Option<_>>()?;
    match parts.as_slice() {
        [red, green, blue] => Some(escape(&format!("38;2;{red};{green};{blue}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_chosen_by_name_or_numbers() {
        let (colors, notes) =
            Colors::from_variables(None, Some("run=green:error=255,0,0:cancel=nope:x"));
        assert_eq!(colors.around(Paint::Done), ("\x1b[32m", "\x1b[0m"));
        assert_eq!(colors.around(Paint::Error).0, "\x1b[38;2;255;0;0m");
        assert_eq!(colors.around(Paint::Canceled).0, "\x1b[33m", "as it was");
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("cancel=nope"), "{notes:?}");
    }

    #[test]
    fn no_color_takes_all_of_them() {
        let (colors, _) = Colors::from_variables(Some("1"), Some("run=green"));
        assert_eq!(colors.around(Paint::Done), ("", ""));
        let (colors, _) = Colors::from_variables(Some(""), None);
        assert_eq!(colors, Colors::default());
    }
}
