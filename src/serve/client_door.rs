//! The ways in for the person's own programs (L9): a socket in the data directory, which only
//! this user can open, and a listener on loopback, which every user of the machine and every page
//! in a browser reaches. There a program shows the token that lies beside the key.

use std::fs::{self, File};
use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::uri::Authority;
use http::{Request, Response};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};
use tonic::body::Body;
use tower::{Layer, Service};

use super::accept::{ACCEPT_PAUSE, accept_one};
use crate::faces::grpc::status;
use crate::peer::refusal::{Refusal, not_local, token_required};
use crate::planted::{Mistake, planted};
use crate::storage::write_private;
use crate::wire::hex;

/// The socket's file in the data directory.
pub const SOCKET_FILE: &str = "client.sock";
/// The token's file there.
pub const TOKEN_FILE: &str = "client.token";
/// The file there that says where a running peer listens on loopback.
pub const ADDRESS_FILE: &str = "client.addr";
/// What the path of a socket may have at most, in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;
const TOKEN_BYTES: usize = 32;
const PRIVATE: u32 = 0o600;

/// Reads the token of a data directory, whose lock this process has, or makes one: 64 hexadecimal
/// digits. It stays the same until its file is deleted, or others could read it.
pub fn load_token(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join(TOKEN_FILE);
    match token_of(data_dir) {
        Ok(token) if is_private(&path)? || planted(Mistake::ReadTokenKept) => return Ok(token),
        Ok(_) => tracing::warn!(path = %path.display(), "others could read the token of programs: \
            there is a new one"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "the token of programs \
            cannot be read: there is a new one"),
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let token = hex(&bytes);
    // Who has the old file open must not read the new one in it.
    remove_if_there(&path)?;
    write_private(&path, &format!("{token}\n"))?;
    Ok(token)
}

fn is_private(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

/// The token of a data directory.
pub fn token_of(data_dir: &Path) -> io::Result<String> {
    let text = fs::read_to_string(data_dir.join(TOKEN_FILE))?;
    let token = text.trim();
    let is_token = token.len() == 2 * TOKEN_BYTES && token.bytes().all(|b| b.is_ascii_hexdigit());
    let no_token = || io::Error::new(io::ErrorKind::InvalidData, "these are not 64 hex digits");
    is_token.then(|| token.to_owned()).ok_or_else(no_token)
}

/// Listens on the socket of a data directory, whose lock this process has.
pub fn bind_socket(data_dir: &Path) -> io::Result<UnixListener> {
    // One that a peer left that was killed.
    let path = data_dir.join(SOCKET_FILE);
    remove_if_there(&path)?;
    let (_dir, short) = short_path(data_dir)?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(short)?;
    // The umask says who may open it until now: nobody can connect before `listen`.
    let mode = if planted(Mistake::SocketForAll) { 0o666 } else { PRIVATE };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Connects to the socket of a data directory.
pub async fn connect_socket(data_dir: &Path) -> io::Result<UnixStream> {
    let (_dir, short) = short_path(data_dir)?;
    UnixStream::connect(short).await
}

/// The path of the socket. A long one goes through the directory, which must be open meanwhile.
fn short_path(data_dir: &Path) -> io::Result<(Option<File>, PathBuf)> {
    let path = data_dir.join(SOCKET_FILE);
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok((None, path));
    }
    let dir = File::open(data_dir)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd()));
    Ok((Some(dir), short))
}

/// A listener in plain text.
pub enum Doorway {
    Tcp(TcpListener),
    Socket(UnixListener),
}

/// A connection to it.
pub type Through = tokio_util::either::Either<TcpStream, UnixStream>;

impl Doorway {
    /// Waits for a connection, and says from where it comes.
    pub async fn accept(&self) -> (Through, IpAddr) {
        match self {
            Self::Tcp(listener) => {
                let (tcp, address) = accept_one(listener).await;
                (Through::Left(tcp), address)
            }
            Self::Socket(listener) => loop {
                match listener.accept().await {
                    Ok((socket, _)) => {
                        break (Through::Right(socket), Ipv4Addr::LOCALHOST.into());
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            },
        }
    }
}

/// What a program must show on loopback.
pub struct Pass {
    /// The token's hash: to compare hashes tells nobody how much of a guess is right.
    token: Option<[u8; 32]>,
}

impl Pass {
    /// With the token, or without where none is asked for.
    pub fn new(token: Option<&str>) -> Self {
        Self { token: token.map(|token| Sha256::digest(token).into()) }
    }

    /// Why a request is refused, if it is.
    fn refuses<B>(&self, request: &Request<B>) -> Option<Refusal> {
        // L9: a page in a browser can make it send requests here: they name the page, or a host
        // that the page's owner has given this machine's address.
        let mut hosts = request.headers().get_all(HOST).iter().map(|host| {
            let host = Authority::try_from(host.as_bytes());
            host.is_ok_and(|host| is_local(host.host()))
        });
        let authority = request.uri().authority().map(|authority| is_local(authority.host()));
        let is_local = authority.or_else(|| hosts.next()).unwrap_or(false) && hosts.all(|it| it);
        let is_local = is_local || planted(Mistake::HostUnchecked);
        let has_origin = request.headers().contains_key(ORIGIN);
        if (has_origin && !planted(Mistake::OriginUnchecked)) || !is_local {
            return Some(not_local());
        }
        let wanted = self.token.as_ref().filter(|_| !planted(Mistake::TokenUnchecked))?;
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let is_right = given.is_some_and(|(_, token)| {
            let hash: [u8; 32] = Sha256::digest(token.trim()).into();
            hash == *wanted
        });
        (!is_right).then(token_required)
    }
}

fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Asks for a pass before anything of a request is read, where one is asked for.
#[derive(Clone)]
pub struct PassLayer(pub Option<Arc<Pass>>);

/// A service behind it.
#[derive(Clone)]
pub struct Passed<S> {
    inner: S,
    pass: Option<Arc<Pass>>,
}

impl<S> Layer<S> for PassLayer {
    type Service = Passed<S>;
    fn layer(&self, inner: S) -> Passed<S> {
        Passed { inner, pass: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Passed<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.pass.as_ref().and_then(|pass| pass.refuses(&request)) {
            Some(refusal) => Either::Right(ready(Ok(status::response(refusal)))),
            None => Either::Left(self.inner.call(request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pass: &Pass, authority: &str, headers: &[(&str, &str)]) -> Option<&'static str> {
        let path = "/demes.v1.ClientService/Feed";
        let mut request = match authority {
            "" => Request::get(path),
            authority => Request::get(format!("http://{authority}{path}")),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let refusal = pass.refuses(&request.body(()).expect("a request"))?;
        Some(refusal.reason.name())
    }

    #[test]
    fn who_has_no_token_or_comes_from_a_page_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let token = load_token(dir.path()).expect("made");
        assert_eq!(load_token(dir.path()).expect("read"), token);
        let pass = Pass::new(Some(&token));
        let right = format!("Bearer {token}");
        let authorized = ("authorization", right.as_str());
        let near = ["127.0.0.1:7444", "localhost:1", "[::1]:7444", "LOCALHOST", "127.9.9.9"];
        let far =
            ["page.example:7444", "10.0.0.1:7444", "localhost.example", "localhost@a.example"];
        for host in near {
            assert_eq!(refusal(&pass, host, &[authorized]), None, "{host}");
            assert_eq!(refusal(&pass, "", &[authorized, ("host", host)]), None, "{host}");
        }
        for host in far {
            let refused = Some("NOT_LOCAL");
            assert_eq!(refusal(&pass, host, &[authorized]), refused, "{host}");
            // Both may be there, and name two.
            for other in ["", "localhost"] {
                let headers = [authorized, ("host", host)];
                assert_eq!(refusal(&pass, other, &headers), refused, "{host}, {other}");
            }
            let twice = [authorized, ("host", "localhost"), ("host", host)];
            assert_eq!(refusal(&pass, "", &twice), refused, "{host}");
        }
        assert_eq!(refusal(&pass, "", &[authorized]), Some("NOT_LOCAL"));
        let origin = ("origin", "http://localhost:7444");
        assert_eq!(refusal(&pass, "localhost", &[authorized, origin]), Some("NOT_LOCAL"));
        let wrong = format!("Bearer {}", "0".repeat(64));
        for given in ["", "Bearer", "Bearer ", &wrong, &token, &format!("Basic {token}")] {
            let headers = [("authorization", given)];
            assert_eq!(refusal(&pass, "localhost", &headers), Some("TOKEN_REQUIRED"), "{given}");
        }
        assert_eq!(refusal(&pass, "localhost", &[]), Some("TOKEN_REQUIRED"));
        let open = Pass::new(None);
        assert_eq!(refusal(&open, "localhost", &[]), None);
        assert_eq!(refusal(&open, "localhost", &[origin]), Some("NOT_LOCAL"));
    }

    #[test]
    fn a_token_that_cannot_be_relied_on_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(TOKEN_FILE);
        let mode = |path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let set = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        let mut seen = vec![load_token(dir.path()).expect("made")];
        // What others could read may be known to them; one of them may have it open still.
        for wide in [0o640, 0o604, 0o620] {
            set(wide);
            let mut open = fs::File::open(&path).expect("there");
            seen.push(load_token(dir.path()).expect("made"));
            let mut read = String::new();
            io::Read::read_to_string(&mut open, &mut read).expect("read");
            assert_eq!(read.trim(), seen[seen.len() - 2]);
            assert_eq!(mode(&path), PRIVATE);
        }
        for text in ["", "\n", "secret", &"g".repeat(64), &"0".repeat(63), "\u{0}"] {
            fs::write(&path, text).expect("written");
            assert_eq!(token_of(dir.path()).expect_err(text).kind(), io::ErrorKind::InvalidData);
            seen.push(load_token(dir.path()).expect("made"));
        }
        fs::write(&path, [0xff; 64]).expect("written");
        seen.push(load_token(dir.path()).expect("made"));
        // The owner's own right is taken: the directory is theirs all the same.
        set(0);
        let last = load_token(dir.path()).expect("read by root, or made");
        set(PRIVATE);
        assert_eq!(token_of(dir.path()).expect("there"), last);
        let different: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(different.len(), seen.len());
        fs::remove_file(&path).expect("there");
        fs::create_dir(&path).expect("made");
        assert!(load_token(dir.path()).is_err());
    }

    #[tokio::test]
    async fn the_socket_is_its_users_alone_however_long_its_path_is() {
        let root = tempfile::tempdir().expect("a directory");
        let long = root.path().join("a".repeat(120));
        fs::create_dir(&long).expect("made");
        for dir in [root.path(), &long] {
            // A second start finds what the first has left.
            for _ in 0..2 {
                let listener = bind_socket(dir).expect("it listens");
                let path = dir.join(SOCKET_FILE);
                let mode = fs::metadata(path).expect("there").permissions().mode() & 0o777;
                assert_eq!(mode, PRIVATE);
                let (connected, accepted) = tokio::join!(connect_socket(dir), listener.accept());
                assert!(connected.is_ok() && accepted.is_ok());
            }
        }
    }
}
