//! Many scrapes at once, one reading.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lets concurrent callers share one result. Nobody is given a result whose making began before he asked.
#[derive(Debug)]
pub struct Coalesce<T> {
    last: Mutex<Option<(Instant, T)>>,
    callers: AtomicUsize,
}

/// Counts a caller out, however its call ends.
struct Caller<'a>(&'a AtomicUsize);

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<T> Default for Coalesce<T> {
    fn default() -> Self {
        Self { last: Mutex::new(None), callers: AtomicUsize::new(0) }
    }
}

impl<T: Clone> Coalesce<T> {
    /// How many have asked and are not answered yet.
    pub fn callers(&self) -> usize {
        self.callers.load(Ordering::SeqCst)
    }

    /// The result of `make`, or of another caller's that began since this call.
    pub async fn get<F: Future<Output = T>>(&self, make: impl FnOnce() -> F) -> T {
        let asked = Instant::now();
        self.callers.fetch_add(1, Ordering::SeqCst);
        let _caller = Caller(&self.callers);
        let mut last = self.last.lock().await;
        if let Some((began, value)) = last.as_ref()
            && *began > asked
        {
            return value.clone();
        }
        let began = Instant::now();
        let value = make().await;
        *last = Some((began, value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_crowd_costs_two_readings_and_none_of_it_is_stale() {
        let (shared, made) = (Arc::new(Coalesce::default()), Arc::new(AtomicU32::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let mut tasks = Vec::new();
        for _ in 0..50 {
            let (shared, made, gate) = (Arc::clone(&shared), Arc::clone(&made), Arc::clone(&gate));
            tasks.push(tokio::spawn(async move {
                let make = || async {
                    let n = made.fetch_add(1, Ordering::SeqCst) + 1;
                    gate.acquire().await.unwrap().forget();
                    n
                };
                shared.get(make).await
            }));
        }
        while made.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // The others queue up behind the first.
        while shared.callers() < 50 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(50);
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        assert_eq!(results.iter().filter(|n| **n == 1).count(), 1, "only who began the first has it");
        assert_eq!(made.load(Ordering::SeqCst), 2);
        assert_eq!(shared.get(|| async { 99 }).await, 99, "a later one reads anew");
        assert_eq!(shared.callers(), 0);
    }
}
