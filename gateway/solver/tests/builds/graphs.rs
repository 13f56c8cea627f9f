//! Graphs that nobody writes by hand: as deep, as wide and as tangled as a program makes them.
//!
//! `GATEWAY_LONG_TESTS=1` makes them a hundred times larger, another number so many times; what each takes is printed.

use std::time::Instant;

use gateway_llb::{Constraints, FileActions, Mkfile, State};

use crate::Bench;

fn times() -> usize {
    let asked = std::env::var("GATEWAY_LONG_TESTS").ok();
    match asked.and_then(|text| text.parse().ok()) {
        Some(0) | None => 1,
        Some(1) => 100,
        Some(times) => times,
    }
}

fn file(name: &str) -> State {
    let options = Mkfile {
        mode: 0o644,
        data: name.as_bytes().to_vec(),
        ..Mkfile::default()
    };
    State::scratch().file(
        FileActions::new().mkfile(&format!("/{name}"), options),
        Constraints::new(),
    )
}

/// Says what was needed so far.
fn tell(what: &str, began: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!(
        "{what}: {:.1} s, at most {} of memory",
        began.elapsed().as_secs_f64(),
        peak.unwrap_or("?").trim()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_as_long_as_one_likes_is_solved() {
    let bench = Bench::new();
    let began = Instant::now();
    let file = file("a");
    let mut state = file.clone();
    let length = 1000 * times();
    for _ in 0..length {
        // One input alone would be no merge.
        state = State::merge(&[state, file.clone()], Constraints::new());
    }
    assert_eq!(bench.file(&state, "/a").await, "a");
    tell(&format!("a chain of {length}"), began);
}

/// Each rung doubles the layers, were they all kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_ladder_of_merges_does_not_grow_with_its_height() {
    let bench = Bench::new();
    let began = Instant::now();
    let (mut left, mut right) = (file("left"), file("right"));
    let height = 100 * times();
    for _ in 0..height {
        let below = [left, right];
        let turned = [below[1].clone(), below[0].clone()];
        left = State::merge(&below, Constraints::new());
        right = State::merge(&turned, Constraints::new());
    }
    let both = State::merge(&[left, right], Constraints::new());
    assert_eq!(bench.file(&both, "/left").await, "left");
    assert_eq!(bench.file(&both, "/right").await, "right");
    tell(&format!("a ladder of {height} rungs"), began);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_merge_works_up_to_what_the_kernel_takes_and_is_refused_above() {
    let bench = Bench::new();
    let began = Instant::now();
    let files: Vec<State> = (0..501).map(|number| file(&format!("f{number}"))).collect();
    let most = State::merge(&files[..500], Constraints::new());
    for name in ["f0", "f250", "f499"] {
        assert_eq!(bench.file(&most, &format!("/{name}")).await, name);
    }
    let Err(error) = bench.build(&State::merge(&files, Constraints::new())).await else {
        panic!("501 layers");
    };
    assert!(error.message.contains("a merge of 501 layers"), "{error}");
    tell("merges of 500 and 501", began);
}
