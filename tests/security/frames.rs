//! Bytes that are no request: too long, empty, not UTF-8, or for another kind of server.

use std::time::Duration;

use bytes::{Buf, BufMut};
use demes::wire::pb;
use http::uri::PathAndQuery;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::peer::{LUNCH, PATIENCE, Peer, assert_refused, three};
use crate::raw::{Calls, Speaker, text};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame of HTTP/2.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are short").to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// What a client begins with.
pub fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The header block of a gRPC call.
pub fn call(path: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("texts are short");
        [&[length], text.as_bytes()].concat()
    };
    // POST and http from the static table, then literals: :path, :authority, content-type and te.
    let mut block = vec![0x83, 0x86, 0x04];
    block.extend(text(path));
    block.push(0x01);
    block.extend(text("localhost"));
    block.extend([0x0f, 0x10]);
    block.extend(text("application/grpc"));
    block.push(0x00);
    block.extend([text("te"), text("trailers")].concat());
    block
}

/// The kind, flags and stream of the next frame; `None` at the end of the connection.
pub async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, u32)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

/// Says that the next message has 4 GiB, sends its beginning, and gives how the call ended.
async fn announce_too_much(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) {
    let mut bytes = greeting();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &call(path)));
    bytes.extend(frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
    stream.write_all(&bytes).await.expect("it listens");
    loop {
        let seen = timeout(PATIENCE, next_frame(&mut stream)).await.expect("in time");
        let (kind, flags, id) = seen.expect("the connection stays");
        if id == 1 && (kind == RST_STREAM || (kind == HEADERS && flags & END_STREAM != 0)) {
            return;
        }
    }
}

/// Bytes as they are.
#[derive(Default)]
struct AsIs;

impl Codec for AsIs {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsIs {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

async fn say(channel: &Channel, path: &'static str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_encoding_message_size(64 << 20);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    grpc.unary(Request::new(bytes.to_vec()), path, AsIs).await.map(tonic::Response::into_inner)
}

// R44, R45: what is too long is refused by its length, before it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_empty_or_no_text_is_refused() {
    let [ann, ben, eva] = three().await;
    let term = ann.lunch().await.term;
    let eva = Speaker::in_place_of(eva).await;
    let config = demes::crypto::tls::client_config(&eva.identity, None);
    let programs = ann.running.as_ref().expect("it runs").client_address();
    for path in ["/demes.v1.HostService/Join", "/demes.v1.ElectionService/Nominate"] {
        let stream = crate::raw::shake_hands(config.clone(), &ann.address()).await.expect("a key");
        announce_too_much(stream, path).await;
    }
    let stream = TcpStream::connect(programs).await.expect("it listens");
    announce_too_much(stream, "/demes.v1.ClientService/SendMessage").await;

    let peers = crate::raw::channel(config, &ann.address()).await.expect("a key");
    let endpoint = Endpoint::from_shared(format!("http://{programs}")).expect("an address");
    let programs = endpoint.connect().await.expect("it listens");
    for (channel, path, most) in [
        (&peers, "/demes.v1.HostService/Join", 2 << 20),
        (&peers, "/demes.v1.ElectionService/Nominate", 64 << 10),
        (&peers, "/demes.v1.PeerService/Invite", 64 << 10),
        (&programs, "/demes.v1.ClientService/SendMessage", 64 << 10),
    ] {
        let long = say(channel, path, &vec![0; most + 1]).await;
        assert_refused(long, Code::ResourceExhausted, "REQUEST_TOO_LONG");
        // Field 1 as a text or message of two bytes that are no UTF-8.
        for bytes in [&[0x0a, 2, 0xff, 0xfe][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff]] {
            let answer = say(channel, path, bytes).await;
            assert_refused(answer, Code::InvalidArgument, "REQUEST_INVALID");
        }
        let empty = say(channel, path, &[]).await.expect_err("nothing was asked");
        assert!(matches!(empty.code(), Code::InvalidArgument | Code::NotFound), "{empty:?}");
    }
    let unknown = say(&peers, "/demes.v1.HostService/Nothing", &[]).await;
    assert_refused(unknown, Code::Unimplemented, "");
    // The person's own service is not there for other peers.
    let theirs = say(&peers, "/demes.v1.ClientService/GetPeer", &[]).await;
    assert_refused(theirs, Code::Unimplemented, "");
    // A batch beyond the limit of a stream's message ends that stream.
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    let mut long = eva.submission(term, 1, text(&"x".repeat(8_000)), None);
    long.submissions = vec![long.submissions[0].clone(); 300];
    let answer = calls.submit(long).await.expect_err("too much");
    assert!(matches!(answer.code(), Code::OutOfRange | Code::Unknown), "{answer:?}");
    ben.says(LUNCH, "read").await;
    assert_eq!(ann.texts().await, ["read"]);
}

/// Any page that a browser shows can reach loopback, and speaks HTTP/1.1 there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_gets_nothing_from_the_listener_for_programs() {
    let ann = Peer::start("Ann").await;
    ann.create(LUNCH, Vec::new()).await.expect("a chat");
    let address = ann.running.as_ref().expect("it runs").client_address();
    let head = format!("Host: {address}\r\nOrigin: https://example.org\r\n");
    let rebound = "Host: example.org\r\nOrigin: http://example.org\r\n".to_owned();
    for head in [head, rebound] {
        for request in [
            format!("GET / HTTP/1.1\r\n{head}\r\n"),
            format!(
                "OPTIONS /demes.v1.ClientService/ListChats HTTP/1.1\r\n{head}\
                     Access-Control-Request-Method: POST\r\n\r\n"
            ),
            format!(
                "POST /demes.v1.ClientService/ListChats HTTP/1.1\r\n{head}\
                     Content-Type: application/grpc-web+proto\r\n\
                     Content-Length: 5\r\n\r\n\0\0\0\0\0"
            ),
        ] {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            // A server that keeps the connection has answered by then.
            let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
            assert!(!answer.contains(LUNCH), "{answer}");
            assert!(!answer.to_lowercase().contains("access-control-allow"), "{answer}");
        }
    }
    let request = pb::ListChatsRequest {};
    let chats = ann.client.clone().list_chats(request).await.expect("native calls work");
    assert_eq!(chats.into_inner().chats.len(), 1);
}
