//! Dockerfiles: parsing, the syntax directive, the checks. Errors and instructions lie inside of the
//! file, and instructions follow each other.

use gateway_dockerfile::lint::{self, Config, Linter, StageChecks};
use gateway_dockerfile::parse::{self, Kind, LineRange};

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let lines = bytes.split_inclusive(|b| *b == b'\n').count().max(1) as u32;
    let inside = |l: LineRange| 1 <= l.start && l.start <= l.end && l.end <= lines;
    let parsed = parse::parse_lenient(bytes);
    assert_eq!(parse::parse(bytes).is_ok(), parsed.error.is_none());
    if let Some(location) = parsed.error.as_ref().and_then(|e| e.location) {
        assert!(inside(location), "{location:?} of {lines}");
    }
    let mut last = 0;
    for stage in &parsed.dockerfile.stages {
        let rest = stage.instructions.iter().map(|i| i.location);
        for location in std::iter::once(stage.location).chain(rest) {
            assert!(inside(location), "{location:?} of {lines}");
            assert!(location.start > last, "{location:?} after {last}");
            last = location.end;
        }
    }

    parse::detect_syntax(bytes);
    let config = Config::for_build(bytes, None).unwrap_or_default();
    let mut linter = Linter::new(config);
    match parsed.error {
        Some(_) => lint::check_broken_file(&parsed, &mut linter),
        None => lint::check_complete_file(&parsed.dockerfile, &mut linter),
    }
    for stage in &parsed.dockerfile.stages {
        let mut checks = StageChecks::default();
        for instruction in &stage.instructions {
            checks.check(instruction, false, &mut linter);
            if let Kind::Onbuild(trigger) = &instruction.kind {
                let _ = parse::parse_onbuild_trigger(&trigger.expression, instruction.location);
            }
        }
    }
    for warning in linter.warnings() {
        assert!(inside(warning.location), "{warning:?} of {lines}");
        warning.short();
    }
}
