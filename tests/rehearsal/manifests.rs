//! The manifests as a cluster would get them.
//!
//! Every field that they may have is named here: one that this file does not know ends the
//! rehearsal, so that nothing is left out in silence. Fields that are read and not played have
//! `IgnoredAny` for a type.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

/// Everything of a kustomization that is rehearsed.
pub struct Manifests {
    /// What made them from the files.
    pub rendered_by: &'static str,
    pub set: StatefulSet,
    pub service: ServiceSpec,
    pub budget: BudgetSpec,
    pub policies: Vec<PolicySpec>,
    /// By name, the files of each.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Kinds and names of what there is besides.
    pub left_out: Vec<String>,
}

pub type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Object<T> {
    metadata: Metadata,
    spec: T,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatefulSet {
    #[serde(skip)]
    pub name: String,
    pub service_name: String,
    #[serde(default = "one")]
    pub replicas: usize,
    #[serde(default)]
    pub pod_management_policy: PodManagement,
    #[serde(default)]
    pub min_ready_seconds: u64,
    /// Volumes always stay here, which is what `Retain` says.
    pub persistent_volume_claim_retention_policy: Retention,
    #[serde(rename = "selector")]
    _selector: IgnoredAny,
    pub template: Template,
    pub volume_claim_templates: Vec<Claim>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
pub enum PodManagement {
    #[default]
    OrderedReady,
    Parallel,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    pub when_deleted: String,
    pub when_scaled: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub metadata: TemplateMetadata,
    pub spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateMetadata {
    pub labels: Labels,
    #[serde(rename = "annotations", default)]
    _annotations: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    #[serde(rename = "automountServiceAccountToken")]
    _automount: IgnoredAny,
    pub enable_service_links: bool,
    #[serde(default = "thirty")]
    pub termination_grace_period_seconds: u64,
    pub security_context: PodSecurity,
    #[serde(rename = "topologySpreadConstraints", default)]
    _spread: Option<IgnoredAny>,
    pub containers: Vec<Container>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSecurity {
    #[serde(default)]
    pub run_as_non_root: bool,
    pub run_as_user: u32,
    pub run_as_group: u32,
    pub fs_group: u32,
    /// Only `OnRootMismatch` is played.
    pub fs_group_change_policy: String,
    #[serde(rename = "seccompProfile", default)]
    _seccomp_profile: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    #[serde(rename = "name")]
    _name: IgnoredAny,
    #[serde(rename = "image")]
    _image: IgnoredAny,
    #[serde(rename = "imagePullPolicy", default)]
    _image_pull_policy: Option<IgnoredAny>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<Variable>,
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    pub startup_probe: Probe,
    pub readiness_probe: Probe,
    pub liveness_probe: Probe,
    pub resources: Resources,
    pub security_context: ContainerSecurity,
    pub volume_mounts: Vec<Mount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variable {
    pub name: String,
    #[serde(default)]
    pub value: String,
    pub value_from: Option<Source>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    pub field_ref: FieldRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldRef {
    pub field_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    pub name: String,
    pub container_port: u16,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub grpc: GrpcAction,
    #[serde(default)]
    pub initial_delay_seconds: u64,
    #[serde(default = "ten")]
    pub period_seconds: u64,
    #[serde(default = "one")]
    pub timeout_seconds: usize,
    #[serde(default = "three")]
    pub failure_threshold: u32,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct GrpcAction {
    pub port: u16,
    #[serde(default)]
    pub service: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    #[serde(rename = "requests", default)]
    _requests: Option<IgnoredAny>,
    #[serde(default)]
    pub limits: BTreeMap<String, String>,
}

impl Resources {
    /// How much memory the container may use, in MiB.
    pub fn memory_limit_mib(&self) -> Result<f64> {
        let limit = self.limits.get("memory").context("the container has a memory limit")?;
        let mib = limit.strip_suffix("Mi").context("the memory limit is in Mi")?;
        Ok(mib.parse()?)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerSecurity {
    pub allow_privilege_escalation: bool,
    pub read_only_root_filesystem: bool,
    pub capabilities: Capabilities,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    pub drop: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    pub name: String,
    pub mount_path: String,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    pub name: String,
    pub config_map: MapName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapName {
    pub name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    pub metadata: ClaimName,
    #[serde(rename = "spec")]
    _spec: IgnoredAny,
}

#[derive(Deserialize)]
pub struct ClaimName {
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    #[serde(skip)]
    pub name: String,
    #[serde(rename = "clusterIP")]
    _cluster_ip: IgnoredAny,
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    pub selector: Labels,
    #[serde(rename = "ports")]
    _ports: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetSpec {
    pub max_unavailable: usize,
    pub selector: Selector,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    #[serde(default)]
    match_labels: Labels,
}

impl Selector {
    pub fn selects(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    pub pod_selector: Selector,
    pub policy_types: Vec<String>,
    #[serde(default)]
    pub ingress: Vec<PolicyRule>,
    #[serde(default)]
    pub egress: Vec<PolicyRule>,
}

/// Who is at the other end is under another name in each direction.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    #[serde(default, alias = "from", alias = "to")]
    pub peers: Vec<PolicyPeer>,
    pub ports: Vec<PolicyPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyPeer {
    pub pod_selector: Selector,
    pub namespace_selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyPort {
    pub protocol: String,
    pub port: Value,
}

fn one<T: From<u8>>() -> T {
    T::from(1)
}

fn three() -> u32 {
    3
}

fn ten() -> u64 {
    10
}

fn thirty() -> u64 {
    30
}

impl Manifests {
    /// Those of a directory with a `kustomization.yaml`.
    pub fn of(directory: &Path) -> Result<Self> {
        let (rendered_by, documents) = rendered(directory)?;
        let (mut sets, mut services, mut budgets, mut policies) = (vec![], vec![], vec![], vec![]);
        let (mut config_maps, mut left_out) = (BTreeMap::new(), Vec::new());
        for document in documents {
            let kind = document["kind"].as_str().unwrap_or("nothing").to_owned();
            let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let what = || format!("{kind} {name}");
            match kind.as_str() {
                "StatefulSet" => {
                    let (name, set) = object::<StatefulSet>(document).with_context(what)?;
                    sets.push(StatefulSet { name, ..set });
                }
                "Service" if document["spec"]["clusterIP"] == "None" => {
                    let (name, service) = object::<ServiceSpec>(document).with_context(what)?;
                    services.push(ServiceSpec { name, ..service });
                }
                "PodDisruptionBudget" => {
                    budgets.push(object::<BudgetSpec>(document).with_context(what)?.1);
                }
                "NetworkPolicy" => {
                    policies.push(object::<PolicySpec>(document).with_context(what)?.1);
                }
                "ConfigMap" => {
                    let data = serde_json::from_value(document["data"].clone());
                    config_maps.insert(name.clone(), data.with_context(what)?);
                }
                _ => left_out.push(what()),
            }
        }
        let set = single(sets, "StatefulSet")?;
        let labels = &set.template.metadata.labels;
        policies.retain(|policy| policy.pod_selector.selects(labels));
        budgets.retain(|budget| budget.selector.selects(labels));
        services.retain(|service| service.name == set.service_name);
        let service = single(services, "headless Service of the pods")?;
        let budget = single(budgets, "PodDisruptionBudget of the pods")?;
        let all = Self { rendered_by, set, service, budget, policies, config_maps, left_out };
        all.can_be_played()?;
        Ok(all)
    }

    /// What is not played must not be asked for.
    fn can_be_played(&self) -> Result<()> {
        let (pod, container) = (self.pod(), self.container());
        ensure!(pod.containers.len() == 1, "a pod has one container");
        ensure!(!pod.enable_service_links, "variables made from services are not played");
        ensure!(pod.security_context.fs_group_change_policy == "OnRootMismatch");
        ensure!(pod.security_context.run_as_non_root && pod.security_context.run_as_user != 0);
        ensure!(!container.security_context.allow_privilege_escalation);
        ensure!(container.security_context.read_only_root_filesystem);
        ensure!(container.security_context.capabilities.drop == ["ALL"]);
        let retention = &self.set.persistent_volume_claim_retention_policy;
        ensure!(retention.when_deleted == "Retain" && retention.when_scaled == "Retain");
        ensure!(
            self.service
                .selector
                .iter()
                .all(|(key, value)| { self.set.template.metadata.labels.get(key) == Some(value) })
        );
        ensure!(self.service.publish_not_ready_addresses, "names of pods that are not ready");
        Ok(())
    }

    pub fn pod(&self) -> &PodSpec {
        &self.set.template.spec
    }

    pub fn container(&self) -> &Container {
        &self.pod().containers[0]
    }

    /// The files of a volume that comes from a config map.
    pub fn files_of(&self, volume: &str) -> Result<Option<&BTreeMap<String, String>>> {
        let Some(volume) = self.pod().volumes.iter().find(|one| one.name == volume) else {
            return Ok(None);
        };
        let name = &volume.config_map.name;
        let files = self.config_maps.get(name);
        Ok(Some(files.with_context(|| format!("there is no ConfigMap {name}"))?))
    }
}

fn object<T: DeserializeOwned>(document: Value) -> Result<(String, T)> {
    let object: Object<T> = serde_json::from_value(document)?;
    Ok((object.metadata.name, object.spec))
}

fn single<T>(mut all: Vec<T>, what: &str) -> Result<T> {
    ensure!(all.len() == 1, "there are {} of: {what}", all.len());
    Ok(all.remove(0))
}

/// The documents, by the first tool that is there; without any, straight from the files.
fn rendered(directory: &Path) -> Result<(&'static str, Vec<Value>)> {
    let tools: [(&str, &[&str]); 2] =
        [("kubectl kustomize", &["kubectl", "kustomize"]), ("kustomize", &["kustomize", "build"])];
    for (name, words) in tools {
        let Ok(output) = Command::new(words[0]).args(&words[1..]).arg(directory).output() else {
            continue;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name}: {said}");
        return Ok((name, documents(std::str::from_utf8(&output.stdout)?)?));
    }
    Ok(("this test itself", straight_from(directory)?))
}

fn documents(text: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(text)?)
}

/// What a kustomization without patches and components comes to.
fn straight_from(directory: &Path) -> Result<Vec<Value>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Kustomization {
        #[serde(rename = "apiVersion")]
        _api_version: IgnoredAny,
        #[serde(rename = "kind")]
        _kind: IgnoredAny,
        #[serde(rename = "images", default)]
        _images: Option<IgnoredAny>,
        resources: Vec<String>,
        #[serde(default)]
        config_map_generator: Vec<Generator>,
    }
    #[derive(Deserialize)]
    struct Generator {
        name: String,
        files: Vec<String>,
    }
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let kustomization: Kustomization = serde_saphyr::from_str(&read("kustomization.yaml")?)
        .context("neither kubectl nor kustomize is there, and this needs one of them")?;
    let mut all = Vec::new();
    for resource in kustomization.resources {
        match directory.join(&resource) {
            path if path.is_dir() => all.extend(straight_from(&path)?),
            _ => all.extend(documents(&read(&resource)?)?),
        }
    }
    for Generator { name, files } in kustomization.config_map_generator {
        let mut data = BTreeMap::new();
        for file in files {
            if file.contains('=') {
                bail!("a renamed file needs kubectl or kustomize: {file}");
            }
            data.insert(file.clone(), read(&file)?);
        }
        all.push(json!({ "kind": "ConfigMap", "metadata": { "name": name }, "data": data }));
    }
    Ok(all)
}
