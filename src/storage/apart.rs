//! Waiting for a disk where others must not wait.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does something that waits for a disk, or for a lock under which somebody does. Where the
/// caller's thread has other tasks too, as those that run the chats do, another thread goes on with
/// them: a slow disk holds up nobody but who asked for something of it (R24).
pub fn apart<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::Duration;

    use super::*;

    /// Longer than any thread needs to get its turn.
    const LIMIT: Duration = Duration::from_secs(20);

    /// More slow writes at one time, and waits for the lock that they hold, than the runtime has
    /// threads of its own.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_for_the_disk_holds_up_nobody_else() {
        let lock = Arc::new(Mutex::new(()));
        let (disk_is_done, disk) = mpsc::channel::<()>();
        let disk = Arc::new(Mutex::new(disk));
        let (begun, mut all_begun) = tokio::sync::mpsc::unbounded_channel();
        let writes: Vec<_> = (0..8)
            .map(|_| {
                let (lock, disk, begun) = (Arc::clone(&lock), Arc::clone(&disk), begun.clone());
                tokio::spawn(async move {
                    begun.send(()).expect("the test waits");
                    apart(|| {
                        let _held = lock.lock().expect("nobody panics");
                        disk.lock().expect("nobody panics").recv_timeout(LIMIT)
                    })
                })
            })
            .collect();
        for _ in 0..8 {
            all_begun.recv().await.expect("each begins");
        }
        // The loop is such a task: it runs while all of them wait.
        tokio::spawn(async move {
            for _ in 0..8 {
                disk_is_done.send(()).expect("they wait");
            }
        });
        for write in writes {
            write.await.expect("it ends").expect("before the limit");
        }
    }
}
