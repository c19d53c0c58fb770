//! Places for lookups: a bounded number, and whoever has asked last is served first. Those who have waited for long have
//! mostly given up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// From so many on those who have given up are taken out.
const WAITING_KEPT: usize = 1024;

/// The places; cheap to clone.
#[derive(Clone)]
pub(super) struct Places(Arc<Mutex<Taken>>);

struct Taken {
    free: usize,
    /// The one that came last is at the end.
    waiting: Vec<oneshot::Sender<Place>>,
}

/// A place, which is given on when it is dropped.
pub(super) struct Place(Option<Places>);

impl Places {
    pub fn new(many: usize) -> Places {
        Places(Arc::new(Mutex::new(Taken { free: many, waiting: Vec::new() })))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place that is free now.
    pub fn free(&self) -> Option<Place> {
        let mut taken = self.taken();
        taken.free = taken.free.checked_sub(1)?;
        Some(Place(Some(self.clone())))
    }

    /// A place, and whether it was waited for; none: not within this time.
    pub async fn take(&self, wait_max: Duration) -> Option<(Place, bool)> {
        if let Some(place) = self.free() {
            return Some((place, false));
        }
        let (give, given) = oneshot::channel();
        {
            let waiting = &mut self.taken().waiting;
            if waiting.len() >= WAITING_KEPT {
                waiting.retain(|waiting| !waiting.is_closed());
            }
            waiting.push(give);
        }
        let given = tokio::time::timeout(wait_max, given).await.ok()?;
        Some((given.ok()?, true))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(places) = self.0.take() else { return };
        loop {
            let next = {
                let mut taken = places.taken();
                let next = taken.waiting.pop();
                if next.is_none() {
                    taken.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Place(Some(places.clone()))) {
                Ok(()) => return,
                // It has given up; the place must not be given on from within here a second time.
                Err(mut place) => drop(place.0.take()),
            }
        }
    }
}
