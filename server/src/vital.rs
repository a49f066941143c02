//! Tasks without which the server would hang instead of serve.

/// What the process ends with after a bug, as the programs of BSD do (EX_SOFTWARE).
const EXIT_BUG: i32 = 70;

/// Held by such a task while it runs. If it panics, the process ends: what started the server starts it again, and clients see
/// their connections close, where threads that wait for a task that is gone are noticed by nobody.
pub(crate) struct Vital(pub(crate) &'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "a bug ended a task that the server cannot do without; the server ends");
            std::process::exit(EXIT_BUG);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Whether the process is the one that is to end.
    const CHILD: &str = "LEASEHOLD_TEST_VITAL_CHILD";

    /// A task that holds a [`Vital`] panics, where the runtime would keep the panic to itself.
    fn end_by_panic() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let vital = tokio::spawn(async {
                let _vital = Vital("child");
                tokio::task::yield_now().await;
                panic!("the bug that the test wants");
            });
            let _ = vital.await;
        });
    }

    #[test]
    fn a_panic_in_a_vital_task_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            return end_by_panic();
        }
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "vital::tests::a_panic_in_a_vital_task_ends_the_process"])
            .env(CHILD, "1")
            .output()
            .expect("it runs");
        assert_eq!(child.status.code(), Some(EXIT_BUG), "{}", String::from_utf8_lossy(&child.stderr));
    }
}
