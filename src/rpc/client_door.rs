//! The doors for the person's own programs: a socket in the data directory, which only this user can
//! open, and a listener on loopback, which every user of the machine and every page in a browser
//! reaches. There a program shows the token that lies beside the key.

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
use http::{Request, Response};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::server::accept_one;
use super::status::{not_local, token_required};
use super::visit::Visitor;
use crate::storage::write_private;
use crate::wire::hex;

/// The socket's file in the data directory.
pub const SOCKET_FILE: &str = "client.sock";
/// The token's file there.
pub const TOKEN_FILE: &str = "client.token";
/// What the path of a socket may have at most, in bytes.
const SOCKET_PATH_MAX: usize = 107;
const TOKEN_BYTES: usize = 32;

/// Reads the token of a data directory, or makes one: 64 hexadecimal digits. It stays the same until
/// its file is deleted.
pub fn load_token(data_dir: &Path) -> io::Result<String> {
    if let Some(token) = token_of(data_dir) {
        return Ok(token);
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let token = hex(&bytes);
    write_private(&data_dir.join(TOKEN_FILE), &format!("{token}\n"))?;
    Ok(token)
}

/// The token of a data directory, if it has one.
pub fn token_of(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(data_dir.join(TOKEN_FILE)).ok()?;
    let token = text.trim();
    let is_token = token.len() == 2 * TOKEN_BYTES && token.bytes().all(|b| b.is_ascii_hexdigit());
    is_token.then(|| token.to_owned())
}

/// Listens on the socket of a data directory, whose lock this process has.
pub fn bind_socket(data_dir: &Path) -> io::Result<UnixListener> {
    let path = data_dir.join(SOCKET_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_dir, short) = short_path(data_dir)?;
    let listener = UnixListener::bind(short)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
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
                    Err(_) => tokio::time::sleep(super::server::ACCEPT_PAUSE).await,
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
    fn refuses<B>(&self, request: &Request<B>) -> Option<Status> {
        // A page in a browser can make it send requests here: they name the page, or a host that
        // the page's owner has given this machine's address.
        let host = request.uri().authority().map(|authority| authority.host());
        let host = host.or_else(|| {
            let host = request.headers().get(HOST)?.to_str().ok()?;
            Some(host.rsplit_once(':').map_or(host, |(host, _)| host))
        });
        if request.headers().contains_key(ORIGIN) || !host.is_some_and(is_local) {
            return Some(not_local());
        }
        let wanted = self.token.as_ref()?;
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
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Asks for the pass of a connection before anything of a request is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassLayer;

/// A service behind it.
#[derive(Clone, Debug)]
pub struct Passed<S>(S);

impl<S> Layer<S> for PassLayer {
    type Service = Passed<S>;
    fn layer(&self, inner: S) -> Passed<S> {
        Passed(inner)
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
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pass = request.extensions().get::<Visitor>().and_then(|it| it.pass.clone());
        match pass.and_then(|pass: Arc<Pass>| pass.refuses(&request)) {
            Some(refusal) => Either::Right(ready(Ok(refusal.into_http()))),
            None => Either::Left(self.0.call(request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::status::reason_of;

    fn refusal(pass: &Pass, authority: &str, headers: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::get(format!("http://{authority}/demes.v1.ClientService/Feed"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let refusal = pass.refuses(&request.body(()).expect("a request"))?;
        reason_of(&refusal).map(|reason| reason.name())
    }

    #[test]
    fn who_has_no_token_or_comes_from_a_page_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let token = load_token(dir.path()).expect("made");
        assert_eq!(load_token(dir.path()).expect("read"), token);
        let pass = Pass::new(Some(&token));
        let right = format!("Bearer {token}");
        let authorized = ("authorization", right.as_str());
        for host in ["127.0.0.1:7444", "localhost:1", "[::1]:7444", "LOCALHOST", "127.9.9.9"] {
            assert_eq!(refusal(&pass, host, &[authorized]), None, "{host}");
        }
        for host in ["page.example:7444", "10.0.0.1:7444", "localhost.example"] {
            assert_eq!(refusal(&pass, host, &[authorized]), Some("NOT_LOCAL"), "{host}");
        }
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
                assert_eq!(mode, 0o600);
                let (connected, accepted) = tokio::join!(connect_socket(dir), listener.accept());
                assert!(connected.is_ok() && accepted.is_ok());
            }
        }
    }
}
