//! The network policies, as rules of the router: what they do not allow is dropped, silently.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::machine::Machine;
use crate::manifests::{Labels, Manifests, PolicyPort, PolicyRule};
use crate::sandbox::run;

/// The machines of pods have addresses of this block, the name server and the stranger of others.
pub const PODS: [u8; 2] = [10, 77];
pub const DNS: [u8; 2] = [10, 78];
const STRANGERS: [u8; 2] = [10, 79];
/// How long a connection is tried that must not come to be.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who may be at the ends of a connection.
struct Party {
    addresses: String,
    labels: Labels,
    /// Whether it is in the pods' namespace.
    at_home: bool,
}

impl Party {
    fn of(block: [u8; 2], labels: &[(&str, &str)], at_home: bool) -> Self {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let addresses = format!("{}.{}.0.0/16", block[0], block[1]);
        Self { addresses, labels: labels.iter().map(owned).collect(), at_home }
    }
}

/// Lets through what the policies allow from and to pods, and nothing else.
pub fn enforce(manifests: &Manifests) -> Result<()> {
    let pods = Party {
        labels: manifests.set.template.metadata.labels.clone(),
        ..Party::of(PODS, &[], true)
    };
    let dns = Party::of(DNS, &[("k8s-app", "kube-dns")], false);
    let stranger = Party::of(STRANGERS, &[("app.kubernetes.io/name", "stranger")], true);
    // A node is no pod: only rules without a `from` let it in.
    let node = Party { addresses: "0.0.0.0/0".into(), labels: Labels::new(), at_home: false };
    for policy in &manifests.policies {
        ensure!(policy.policy_types == ["Ingress", "Egress"], "both directions have a policy");
    }
    let allowed = |ingress: bool, other: &Party| -> Result<Vec<(String, u16)>> {
        let mut ports = Vec::new();
        for policy in &manifests.policies {
            let rules = if ingress { &policy.ingress } else { &policy.egress };
            for rule in rules.iter().filter(|rule| is_for(rule, other)) {
                for port in &rule.ports {
                    ports.push(numbered(port, manifests)?);
                }
            }
        }
        Ok(ports)
    };
    let mut rules = Vec::new();
    for other in [&pods, &dns, &stranger, &node] {
        let among_pods = std::ptr::eq(other, &pods);
        for port in allowed(true, other)? {
            if !among_pods || allowed(false, other)?.contains(&port) {
                rules.push((&other.addresses, &pods.addresses, port));
            }
        }
        if !among_pods && other.addresses != node.addresses {
            for port in allowed(false, other)? {
                rules.push((&pods.addresses, &other.addresses, port));
            }
        }
    }
    for (from, to, (protocol, port)) in rules {
        let port = port.to_string();
        // The kernel takes a rule for everybody for one that is there already, if a narrower one of
        // the same preference is.
        let preference = if *from == node.addresses { "101" } else { "100" };
        for way in [[from, to, "dport"], [to, from, "sport"]] {
            let [from, to, end] = way;
            let what = ["rule", "add", "pref", preference, "from", from, "to", to];
            let which = ["ipproto", &protocol, end, &port, "lookup", "main"];
            run("ip", &[&what[..], &which].concat())?;
        }
    }
    run("ip", &["rule", "add", "pref", "200", "from", &pods.addresses, "blackhole"])?;
    run("ip", &["rule", "add", "pref", "200", "to", &pods.addresses, "blackhole"])
}

fn is_for(rule: &PolicyRule, other: &Party) -> bool {
    rule.peers.is_empty()
        || rule.peers.iter().any(|peer| match &peer.namespace_selector {
            // Namespaces are told apart by no label here: only a selector of all of them fits.
            Some(namespaces) => {
                namespaces.selects(&Labels::new()) && peer.pod_selector.selects(&other.labels)
            }
            // Nodes are in no namespace, and have no labels that a pod selector could mean.
            None => other.at_home && peer.pod_selector.selects(&other.labels),
        })
}

fn numbered(port: &PolicyPort, manifests: &Manifests) -> Result<(String, u16)> {
    let number = match (port.port.as_u64(), port.port.as_str()) {
        (Some(number), _) => u16::try_from(number)?,
        (None, name) => {
            let named = manifests.container().ports.iter().find(|one| Some(&*one.name) == name);
            named
                .with_context(|| format!("no container has the port {}", port.port))?
                .container_port
        }
    };
    Ok((port.protocol.to_lowercase(), number))
}

/// Somebody else in the same namespace.
pub struct Stranger(Machine);

impl Stranger {
    pub fn start() -> Result<Self> {
        Ok(Self(Machine::start(STRANGERS)?))
    }

    /// Whether this port of a pod lets it in.
    pub async fn reaches(&self, pod: Ipv4Addr, port: u16) -> Result<bool> {
        let dialled = async move { reaches(SocketAddr::from((pod, port))).await };
        Ok(self.0.runtime().spawn(dialled).await?)
    }

    /// Whether a pod can dial it, who listens.
    pub async fn is_reached_from(&self, pod: &Machine) -> Result<bool> {
        let address = SocketAddr::from((self.0.ip(), 80));
        let listener = self.0.runtime().spawn(TcpListener::bind(address)).await??;
        let reached = pod.runtime().spawn(reaches(address)).await?;
        drop(listener);
        Ok(reached)
    }
}

async fn reaches(address: SocketAddr) -> bool {
    matches!(timeout(PATIENCE, TcpStream::connect(address)).await, Ok(Ok(_)))
}
