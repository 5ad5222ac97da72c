//! Metrics and health over HTTP, on a thread of its own: a slow scrape never meets a core.
//!
//! ```text
//! GET /metrics   Prometheus text           GET /livez, /readyz   200 `ok`, or 503 with the reason
//! ```
//!
//! What is told comes from a [`Snapshot`], asked on a helper thread and waited for within a limit:
//! a core that hangs makes one answer fail and holds no other request.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tracing::warn;

/// Connections served at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// Snapshots taken at a time.
const SNAPSHOTS_MAX: usize = 4;
/// How long a connection may take for the head of a request, also for the first and the next.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a snapshot may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection lives, whatever it does.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// How long requests in flight are waited for at the end.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// A pause after a failed accept: out of descriptors, most likely.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The format of Prometheus, version 0.0.4.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the server tells about itself; asked from a thread that may wait.
pub(crate) trait Snapshot: Send + Sync {
    /// All metrics, as Prometheus text.
    fn metrics(&self) -> String;

    /// Whether the process works at all.
    ///
    /// # Errors
    /// Why it should be restarted.
    fn live(&self) -> Result<(), String>;

    /// Whether it takes requests.
    ///
    /// # Errors
    /// Why it should get none now.
    fn ready(&self) -> Result<(), String>;
}

/// The admin server as it runs; dropping it stops it.
pub(crate) struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens on the address and serves from a new thread.
    ///
    /// # Errors
    /// When the address cannot be had, or no thread.
    pub(crate) fn start(address: SocketAddr, snapshot: Arc<dyn Snapshot>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread()
            .max_blocking_threads(SNAPSHOTS_MAX)
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(serve(listener, router(snapshot), stopped));
            // A snapshot that hangs must not hold the end of the process.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("catena-admin".to_owned()).spawn(serve)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the port it was given.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets requests in flight end for a moment, and returns.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the admin thread ended in a panic");
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.end();
    }
}

fn router(snapshot: Arc<dyn Snapshot>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(snapshot)
}

type Source = State<Arc<dyn Snapshot>>;

async fn metrics(State(source): Source) -> Response {
    match ask(move || source.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(late) => late,
    }
}

async fn livez(State(source): Source) -> Response {
    ask(move || source.live()).await.map_or_else(|late| late, health)
}

async fn readyz(State(source): Source) -> Response {
    ask(move || source.ready()).await.map_or_else(|late| late, health)
}

fn health(health: Result<(), String>) -> Response {
    match health {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// The answer of a question that may wait, or a response that says why there is none.
async fn ask<T: Send + 'static>(
    question: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Response> {
    let failed = |reason: &'static str| (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    match timeout(ANSWER_WITHIN, tokio::task::spawn_blocking(question)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(failed("the server could not tell\n")),
        Err(_) => Err(failed("a core did not answer in time\n")),
    }
}

async fn serve(listener: TcpListener, router: Router, mut stopped: oneshot::Receiver<()>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime takes it");
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("nobody closes it");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            next = next => next,
            _ = &mut stopped => break,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, router.clone(), &graceful, slot));
            }
            Err(error) => {
                warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    drop(listener);
    if timeout(STOP_WITHIN, graceful.shutdown()).await.is_err() {
        warn!("admin requests in flight were cut off");
    }
}

fn connection(
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
    slot: OwnedSemaphorePermit,
) -> impl Future<Output = ()> + Send + use<> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let service = TowerToHyperService::new(router);
    let served = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
    async move {
        // How a connection of a scraper ends, and whether in an error, is of no interest.
        let _ = timeout(CONNECTION_LIFE, served).await;
        drop(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::atomic::{AtomicBool, Ordering},
        time::Instant,
    };

    use super::*;

    #[derive(Default)]
    struct Fake {
        ill: AtomicBool,
        /// Metrics are not told before this is over.
        slow: AtomicBool,
        asked: AtomicBool,
    }

    impl Fake {
        fn wait_until_asked(&self) {
            while !self.asked.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Snapshot for Fake {
        fn metrics(&self) -> String {
            self.asked.store(true, Ordering::SeqCst);
            while self.slow.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            "catena_up 1\n".to_owned()
        }

        fn live(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), String> {
            let ill = self.ill.load(Ordering::SeqCst);
            if ill { Err("the disk is full".to_owned()) } else { Ok(()) }
        }
    }

    fn start() -> (Admin, Arc<Fake>) {
        let fake = Arc::new(Fake::default());
        let source = Arc::clone(&fake) as Arc<dyn Snapshot>;
        (Admin::start("127.0.0.1:0".parse().unwrap(), source).unwrap(), fake)
    }

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: catena\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn metrics_are_prometheus_text() {
        let (admin, _) = start();
        let response = get(admin.address(), "/metrics");
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(response.ends_with("\r\n\r\ncatena_up 1\n"), "{response}");
    }

    #[test]
    fn health_is_a_status_with_its_reason() {
        let (admin, fake) = start();
        assert!(get(admin.address(), "/livez").ends_with("\r\n\r\nok\n"));
        assert!(get(admin.address(), "/readyz").starts_with("HTTP/1.1 200 "));
        fake.ill.store(true, Ordering::SeqCst);
        let response = get(admin.address(), "/readyz");
        assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        assert!(response.ends_with("\r\n\r\nthe disk is full\n"), "{response}");
        assert!(get(admin.address(), "/livez").starts_with("HTTP/1.1 200 "));
        assert!(get(admin.address(), "/nothing").starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn a_slow_snapshot_does_not_hold_the_health_checks() {
        let (admin, fake) = start();
        fake.slow.store(true, Ordering::SeqCst);
        let address = admin.address();
        let scrape = thread::spawn(move || get(address, "/metrics"));
        fake.wait_until_asked();
        assert!(get(address, "/livez").ends_with("ok\n"));
        assert!(!scrape.is_finished());
        fake.slow.store(false, Ordering::SeqCst);
        assert!(scrape.join().unwrap().ends_with("catena_up 1\n"));
    }

    #[test]
    fn a_stop_lets_the_request_in_flight_end_and_closes_idle_connections() {
        let (admin, fake) = start();
        fake.slow.store(true, Ordering::SeqCst);
        let address = admin.address();
        let mut idle = TcpStream::connect(address).unwrap();
        let scrape = thread::spawn(move || get(address, "/metrics"));
        fake.wait_until_asked();
        let ends = thread::spawn(move || {
            // So that the stop has begun.
            thread::sleep(Duration::from_millis(100));
            fake.slow.store(false, Ordering::SeqCst);
        });
        let started = Instant::now();
        admin.stop();
        ends.join().unwrap();
        assert!(started.elapsed() < STOP_WITHIN);
        assert!(scrape.join().unwrap().ends_with("catena_up 1\n"));
        assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn connections_beyond_the_bound_wait_until_idle_ones_are_cut_off() {
        let (admin, _) = start();
        let idle: Vec<TcpStream> =
            (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(admin.address()).unwrap()).collect();
        let started = Instant::now();
        assert!(get(admin.address(), "/livez").ends_with("ok\n"));
        assert!(started.elapsed() >= HEAD_WITHIN - Duration::from_millis(500));
        drop(idle);
    }
}
