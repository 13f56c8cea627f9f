//! Modes of COPY and ADD: any change leaves nothing but permission bits, an octal mode is the mode.

use gateway_solver::fs::chmod::ModeChange;

/// One run with one input.
pub fn run(text: &str) {
    let Ok(change) = ModeChange::parse(text) else {
        return;
    };
    for mode in [0, 0o644, 0o755, 0o1777, 0o7777] {
        for is_dir in [false, true] {
            let changed = change.apply(mode, is_dir);
            assert!(changed <= 0o7777, "{changed:o}");
            if let Ok(octal) = u32::from_str_radix(text, 8)
                && !text.starts_with('+')
            {
                assert_eq!(changed, octal);
            }
        }
    }
}
