//! `cargo bench -p gateway-dockerfile`: how many CPU seconds files of 10 MB take, by their shape. Reading
//! is to take less than one whatever the shape; the graph is built from a hundredth of it.

#[path = "../tests/large/mod.rs"]
mod large;

use gateway_dockerfile::{build, parse};
use gateway_frontend::testing::MockGateway;

const SIZE: usize = 10_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    println!("{:>8} {:>9}  shape", "read", "build/100");
    let all = |size| {
        large::shapes(size)
            .into_iter()
            .chain(large::conversions(size))
    };
    for ((name, text), (_, part)) in all(SIZE).zip(all(SIZE / 100)) {
        let start = cpu();
        let parsed = parse::parse_lenient(text.as_bytes());
        let read = cpu() - start;
        drop(parsed);
        let gateway = MockGateway::new().file("dockerfile", "Dockerfile", part.as_bytes());
        let start = cpu();
        // Mistakes are expected of some shapes.
        let _ = runtime.block_on(build(gateway.shared()));
        println!("{read:>7.3}s {:>8.3}s  {name}", cpu() - start);
    }
}

/// CPU seconds of this thread so far.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<u64>().ok());
    nanoseconds.expect("a number") as f64 / 1e9
}
