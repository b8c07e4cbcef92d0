//! Distance between peers: a TCP proxy in front of one peer's listener that delays both directions,
//! and may narrow them.
//!
//! A proxy must not hide what a network shows. While its peer is gone, nothing listens at the
//! proxy's address, so that a redial is refused as it would be by the peer's own machine; and when
//! the peer dies, its connections end at once. A frozen peer keeps its connections, as it would.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// Between looks whether the peer is there (again).
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// The most that is read at once, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;
/// What a packet takes of a chunk, and of a narrow line beside that.
const PACKET_BYTES: usize = 1_400;
const PACKET_HEADER_BYTES: usize = 52;
/// The most chunks under way in one direction; the sender waits beyond that.
const CHUNKS_UNDER_WAY: usize = 256;

/// Holds bytes on their way, as a network does that has lost a route: nothing arrives, nothing is
/// refused, and what was held arrives when the route is back.
pub trait Gate: Send + Sync {
    /// Whether bytes pass towards the peer, and back, on a connection that was dialled from this
    /// address.
    fn passes(&self, dialled_from: SocketAddr) -> [watch::Receiver<bool>; 2];
}

/// One peer's link to the others. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    delay_us: Arc<AtomicU64>,
    rates: [Arc<Rate>; 2],
    task: JoinHandle<()>,
}

/// How much passes in one direction, over all connections together.
#[derive(Default)]
struct Rate {
    /// 0 where there is no limit.
    bytes_per_s: AtomicU64,
    free_at: Mutex<Option<Instant>>,
}

impl Rate {
    /// Waits until so many bytes have passed, after those that wait already.
    async fn pass(&self, bytes: usize) {
        let bytes_per_s = self.bytes_per_s.load(Ordering::Relaxed);
        if bytes_per_s == 0 {
            return;
        }
        let mut free_at = self.free_at.lock().await;
        let takes = Duration::from_micros(bytes as u64 * 1_000_000 / bytes_per_s);
        let begin = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
        *free_at = Some(begin + takes);
        sleep_until(begin + takes).await;
    }
}

impl Proxy {
    /// Stands at `address` in front of the peer that listens, or will listen, at `peer`. Each
    /// direction takes `delay`, with the timer's resolution of about a millisecond.
    ///
    /// What passes is up to `gate`, where there is one.
    pub fn start(
        address: SocketAddr,
        peer: SocketAddr,
        delay: Duration,
        gate: Option<Arc<dyn Gate>>,
    ) -> Self {
        let (delay_us, rates) = (Arc::new(AtomicU64::new(0)), <[Arc<Rate>; 2]>::default());
        let link = Link { peer, delay_us: delay_us.clone(), rates: rates.clone(), gate };
        let task = tokio::spawn(stand(address, link));
        let proxy = Self { address, delay_us, rates, task };
        proxy.set_delay(delay);
        proxy
    }

    /// Where the others find the peer.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Moves the peer: what is sent from now on takes `delay` in each direction.
    pub fn set_delay(&self, delay: Duration) {
        let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.delay_us.store(delay_us, Ordering::Relaxed);
    }

    /// Narrows both directions, each to so many bytes a second; 0 widens them again.
    pub fn set_rate(&self, bytes_per_s: u64) {
        for rate in &self.rates {
            rate.bytes_per_s.store(bytes_per_s, Ordering::Relaxed);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Link {
    peer: SocketAddr,
    delay_us: Arc<AtomicU64>,
    rates: [Arc<Rate>; 2],
    gate: Option<Arc<dyn Gate>>,
}

impl Link {
    fn passes(&self, dialled_from: SocketAddr) -> [watch::Receiver<bool>; 2] {
        match &self.gate {
            Some(gate) => gate.passes(dialled_from),
            None => [watch::channel(true).1, watch::channel(true).1],
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.peer).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::Relaxed))
    }
}

/// Listens while the peer is there, for ever.
async fn stand(address: SocketAddr, link: Link) {
    loop {
        while link.dial().await.is_err() {
            sleep(PROBE_EVERY).await;
        }
        match TcpListener::bind(address).await {
            Ok(listener) => carry_all(listener, &link).await,
            Err(_) => sleep(PROBE_EVERY).await, // still held by the listener before
        }
    }
}

/// Carries connections until the peer is gone. The listener closes first, so that whoever sees its
/// connection end is refused when it dials again.
async fn carry_all(listener: TcpListener, link: &Link) {
    let peer_gone = Arc::new(Notify::new());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((near, from)) = accepted {
                connections.spawn(carry(near, from, link.clone(), peer_gone.clone()));
            },
            Some(_) = connections.join_next() => {}
            () = peer_gone.notified() => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Carries one connection until both of its directions have ended.
async fn carry(near: TcpStream, from: SocketAddr, link: Link, peer_gone: Arc<Notify>) {
    let Ok(far) = link.dial().await else {
        peer_gone.notify_one();
        return std::future::pending().await;
    };
    if near.set_nodelay(true).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let [out_passes, back_passes] = link.passes(from);
    let [out_rate, back_rate] = &link.rates;
    let out = delayed(near_read, far_write, &link, (out_passes, out_rate), None);
    let back = delayed(far_read, near_write, &link, (back_passes, back_rate), Some(&peer_gone));
    tokio::join!(out, back);
}

/// Passes bytes on after the delay, then the end of the stream. Where the reading side is the
/// peer's, its end may mean that the peer died: then `peer_gone` is told, and the connection waits
/// to be cut.
async fn delayed(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: &Link,
    (mut passes, rate): (watch::Receiver<bool>, &Rate),
    peer_gone: Option<&Notify>,
) {
    let (chunks, mut under_way) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_UNDER_WAY);
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(length) = from.read(&mut buffer).await {
            let chunk = Bytes::copy_from_slice(&buffer[..length]);
            if length == 0 || chunks.send((Instant::now() + link.delay(), chunk)).await.is_err() {
                break;
            }
        }
        if let Some(peer_gone) = peer_gone
            && link.dial().await.is_err()
        {
            peer_gone.notify_one();
            std::future::pending::<()>().await;
        }
    };
    let write = async move {
        while let Some((due, chunk)) = under_way.recv().await {
            sleep_until(due).await;
            // An error means that nobody holds the gate any more.
            let _ = passes.wait_for(|passes| *passes).await;
            let mut written = Ok(());
            for packet in chunk.chunks(PACKET_BYTES) {
                rate.pass(packet.len() + PACKET_HEADER_BYTES).await;
                written = to.write_all(packet).await;
            }
            if written.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await; // the other side may be gone already
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A listener that sends back what it receives, and takes its connections with it when aborted.
    async fn echo(address: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        (address, task)
    }

    async fn dial(address: SocketAddr) -> TcpStream {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    #[tokio::test]
    async fn bytes_take_the_delay_each_way_and_a_dead_peer_refuses() {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (peer, server) = echo(anywhere).await;
        let address = TcpListener::bind(anywhere).await.unwrap().local_addr().unwrap();
        let proxy = Proxy::start(address, peer, Duration::from_millis(20), None);
        let story = async {
            let mut stream = dial(proxy.address()).await;
            let mut answer = [0; 5];
            let sent = Instant::now();
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"hello");
            assert!(sent.elapsed() >= Duration::from_millis(40), "{:?}", sent.elapsed());

            server.abort();
            assert!(matches!(stream.read(&mut answer).await, Ok(0) | Err(_)), "it ends");
            assert!(TcpStream::connect(address).await.is_err(), "a redial is refused");

            let (_, _server) = echo(peer).await;
            let mut stream = dial(address).await;
            stream.write_all(b"again").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"again");
        };
        tokio::time::timeout(LIMIT, story).await.expect("the story ends in time");
    }
}
