//! `cargo bench -p gateway-dockerfile`: how long files of 10 MB take, by their shape. Reading is to
//! take less than a second whatever the shape; the graph is built from a tenth of it.

#[path = "../tests/large/mod.rs"]
mod large;

use std::time::{Duration, Instant};

use gateway_dockerfile::{build, parse};
use gateway_frontend::testing::MockGateway;

const SIZE: usize = 10_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    println!("{:>8} {:>8}  shape", "read", "build/10");
    let small = large::shapes(SIZE / 10);
    for ((name, text), (_, part)) in large::shapes(SIZE).into_iter().zip(small) {
        let start = Instant::now();
        let parsed = parse::parse_lenient(text.as_bytes());
        let read = start.elapsed();
        drop(parsed);
        let gateway = MockGateway::new().file("dockerfile", "Dockerfile", part.as_bytes());
        let start = Instant::now();
        // Mistakes are expected of some shapes.
        let _ = runtime.block_on(build(gateway.shared()));
        println!("{} {}  {name}", seconds(read), seconds(start.elapsed()));
    }
}

fn seconds(time: Duration) -> String {
    format!("{:>7.3}s", time.as_secs_f64())
}
