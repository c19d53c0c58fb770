use tokio::net::{TcpListener, TcpStream};

use super::super::link::Stream;
use super::*;

/// A host whose connections are accepted and then held.
struct Host {
    listener: TcpListener,
    origin: Arc<str>,
    taken: Vec<TcpStream>,
}

impl Host {
    async fn new() -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = listener.local_addr().unwrap().to_string().into();
        Host { listener, origin, taken: Vec::new() }
    }

    async fn open(&mut self, pool: &Arc<Pool>) -> Option<Link> {
        let slot = pool.slot()?;
        let stream = TcpStream::connect(&*self.origin).await.unwrap();
        self.taken.push(self.listener.accept().await.unwrap().0);
        Some(Link::over(Stream::Plain(stream), slot).await.unwrap())
    }

    async fn keep(&mut self, pool: &Arc<Pool>) {
        let link = self.open(pool).await.unwrap();
        pool.keep(&self.origin, link, None);
    }
}

fn idle(pool: &Pool) -> usize {
    let kept = pool.kept();
    assert_eq!(kept.order.len(), kept.hosts.values().map(VecDeque::len).sum::<usize>());
    kept.order.len()
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_the_one_that_was_idle_for_longest() {
    let pool = Pool::new(3, 64);
    let mut hosts = [Host::new().await, Host::new().await, Host::new().await, Host::new().await];
    for host in &mut hosts[..3] {
        host.keep(&pool).await;
    }
    let in_use = pool.take(&hosts[0].origin).unwrap();
    assert_eq!((idle(&pool), pool.open.load(Ordering::Relaxed)), (2, 3));
    hosts[3].keep(&pool).await;
    assert_eq!((idle(&pool), pool.open.load(Ordering::Relaxed)), (2, 3));
    assert!(pool.take(&hosts[1].origin).is_none(), "it was idle for longest of those that nobody used");
    let others = [pool.take(&hosts[2].origin).unwrap(), pool.take(&hosts[3].origin).unwrap()];
    assert!(pool.slot().is_none(), "all are in use");
    drop((in_use, others));
    assert_eq!(pool.open.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn of_one_host_a_bounded_number_is_kept_and_the_newest_serves_first() {
    let (pool, mut host) = (Pool::new(100, 2), Host::new().await);
    let links = [host.open(&pool).await.unwrap(), host.open(&pool).await.unwrap(), host.open(&pool).await.unwrap()];
    let opened = links.each_ref().map(Link::opened);
    for link in links {
        pool.keep(&host.origin, link, None);
    }
    assert_eq!((idle(&pool), pool.open.load(Ordering::Relaxed)), (2, 2));
    assert_eq!(pool.take(&host.origin).unwrap().opened(), opened[1]);
}

#[tokio::test]
async fn a_connection_is_not_kept_for_longer_than_the_target_says() {
    let (pool, mut host) = (Pool::new(100, 64), Host::new().await);
    for seconds in [0, 1] {
        let link = host.open(&pool).await.unwrap();
        pool.keep(&host.origin, link, Some(Duration::from_secs(seconds)));
    }
    assert_eq!(idle(&pool), 0, "it would be closed at any moment");
    let link = host.open(&pool).await.unwrap();
    pool.keep(&host.origin, link, Some(Duration::from_secs(5)));
    host.keep(&pool).await;
    let now = monotonic();
    pool.expire(now + Duration::from_secs(3));
    assert_eq!(idle(&pool), 2);
    pool.expire(now + Duration::from_secs(5));
    assert_eq!(idle(&pool), 1);
    assert!(!pool.expire(now + IDLE_MAX + Duration::from_secs(1)));
    assert_eq!((idle(&pool), pool.open.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn a_connection_that_the_target_has_closed_is_not_used_again() {
    let (pool, mut host) = (Pool::new(100, 64), Host::new().await);
    host.keep(&pool).await;
    host.taken.clear();
    let mut left = 100;
    while pool.take(&host.origin).is_some_and(|link| {
        pool.keep(&host.origin, link, None);
        true
    }) {
        left -= 1;
        assert!(left > 0, "its end is not noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pool.open.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn where_descriptors_have_run_out_the_oldest_idle_connections_are_closed() {
    let (pool, mut host) = (Pool::new(1000, 1000), Host::new().await);
    for _ in 0..2 * SHED_MIN {
        host.keep(&pool).await;
    }
    pool.shed();
    assert_eq!((idle(&pool), pool.open.load(Ordering::Relaxed)), (SHED_MIN, SHED_MIN));
}
