//! The cluster's name server: the pods' names under the headless service, and their addresses of
//! the moment. It is a machine of its own, and answers as a cluster's does: what it does not know
//! does not exist, and it learns of a change a little later.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;
use tokio::time::sleep;

use crate::machine::Machine;

/// The namespace that is played, as its names end.
pub const DOMAIN: &str = "chat.svc.cluster.local";
/// How long a cluster takes to tell its name server of a pod that came or went.
const LAG: Duration = Duration::from_millis(500);
const TTL_SECONDS: u32 = 5;
const PORT: u16 = 53;

/// Answers until it is dropped.
pub struct Names {
    addresses: Arc<Mutex<BTreeMap<String, Ipv4Addr>>>,
    asked: Arc<AtomicU64>,
    machine: Machine,
}

impl Names {
    pub async fn start(block: [u8; 2]) -> Result<Self> {
        let machine = Machine::start(block)?;
        let address = SocketAddr::from((machine.ip(), PORT));
        let socket = machine.runtime().spawn(UdpSocket::bind(address)).await??;
        let addresses = Arc::new(Mutex::new(BTreeMap::new()));
        let asked = Arc::new(AtomicU64::new(0));
        machine.runtime().spawn(answer(socket, addresses.clone(), asked.clone()));
        Ok(Self { addresses, asked, machine })
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.machine.ip()
    }

    /// How many questions came.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// The address of a name is another one, or there is none any more.
    pub fn set(&self, name: &str, address: Option<Ipv4Addr>) {
        let (addresses, name) = (self.addresses.clone(), format!("{name}.{DOMAIN}"));
        tokio::spawn(async move {
            sleep(LAG).await;
            let mut addresses = addresses.lock().unwrap_or_else(PoisonError::into_inner);
            match address {
                Some(address) => addresses.insert(name, address),
                None => addresses.remove(&name),
            }
        });
    }
}

async fn answer(
    socket: UdpSocket,
    addresses: Arc<Mutex<BTreeMap<String, Ipv4Addr>>>,
    asked: Arc<AtomicU64>,
) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        asked.fetch_add(1, Ordering::Relaxed);
        let reply = {
            let addresses = addresses.lock().unwrap_or_else(PoisonError::into_inner);
            reply_to(&buffer[..length], &addresses)
        };
        if let Some(reply) = reply {
            let _ = socket.send_to(&reply, from).await; // who is gone asks no more
        }
    }
}

fn reply_to(question: &[u8], addresses: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let question = Packet::parse(question).ok()?;
    let mut reply = question.clone().into_reply();
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    let asked = question.questions.first()?;
    let name = asked.qname.to_string().to_lowercase();
    match addresses.get(&name) {
        None => *reply.rcode_mut() = RCODE::NameError,
        Some(address) if asked.qtype == QTYPE::TYPE(TYPE::A) => {
            let data = RData::A(A { address: u32::from(*address) });
            let record = ResourceRecord::new(asked.qname.clone(), CLASS::IN, TTL_SECONDS, data);
            reply.answers.push(record);
        }
        Some(_) => {} // it exists, and has no other addresses
    }
    reply.build_bytes_vec().ok()
}
