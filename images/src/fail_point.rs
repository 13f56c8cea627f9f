//! Places where a test can kill the process: before and after every step that the store's safety
//! rests on. In a release build they are nothing.
//!
//! `GATEWAY_FAIL_POINT=NAME` kills at the first passing of the point NAME, `NAME:3` at the third;
//! `GATEWAY_FAIL_POINTS_LOG=FILE` adds the name of each point that is passed to a file.

/// Passes the point `name`, or dies there.
#[inline]
pub fn fail_point(name: &'static str) {
    #[cfg(any(debug_assertions, feature = "fail-points"))]
    armed::pass(name);
    #[cfg(not(any(debug_assertions, feature = "fail-points")))]
    let _ = name;
}

#[cfg(any(debug_assertions, feature = "fail-points"))]
mod armed {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Orders {
        name: Option<String>,
        /// Passings of the named point until the deadly one.
        left: AtomicUsize,
        log: Option<std::path::PathBuf>,
    }

    fn orders() -> &'static Orders {
        static ORDERS: OnceLock<Orders> = OnceLock::new();
        ORDERS.get_or_init(|| {
            let text = std::env::var("GATEWAY_FAIL_POINT").ok();
            let (name, count) = match text.as_deref().map(|text| text.split_once(':')) {
                Some(Some((name, count))) => (Some(name.to_owned()), count.parse().unwrap_or(1)),
                _ => (text, 1),
            };
            Orders {
                name,
                left: AtomicUsize::new(count),
                log: std::env::var_os("GATEWAY_FAIL_POINTS_LOG").map(Into::into),
            }
        })
    }

    pub fn pass(name: &'static str) {
        let orders = orders();
        if let Some(log) = &orders.log
            && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(log)
        {
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        if orders.name.as_deref() == Some(name) && orders.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            // As the kernel would: no destructor runs, no buffer is written.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            loop {
                std::thread::park();
            }
        }
    }
}
