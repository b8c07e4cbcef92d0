//! The manifests and the Dockerfile, read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The container that runs the program.
pub const PROGRAM: &str = "demes";
/// The file of the program's configuration.
pub const CONFIG_FILE: &str = "demes.toml";

/// What one `kubectl apply -k` would make.
pub struct Set {
    pub name: String,
    pub objects: Vec<Value>,
}

/// What the manifests run in pods, and the pods' labels.
pub struct Pods<'a> {
    pub name: &'a str,
    pub labels: &'a Value,
    pub spec: &'a Value,
}

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub fn read(name: impl AsRef<Path>) -> String {
    let name = name.as_ref();
    fs::read_to_string(name).unwrap_or_else(|error| panic!("{}: {error}", name.display()))
}

/// All files below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("there are manifests");
    let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    entries.flat_map(|entry| below(entry.unwrap().path())).collect()
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The base, which is whole without a patch; and every file of the directory that
/// `RENDERED_MANIFESTS` names, which `tests/kubernetes.sh` has made of the base and the overlays.
pub fn sets() -> Vec<Set> {
    let mut sets = vec![base()];
    if let Some(directory) = std::env::var_os("RENDERED_MANIFESTS") {
        let files = files_below(Path::new(&directory));
        assert!(files.len() > 2, "the base and two overlays are rendered");
        sets.extend(
            files.iter().map(|file| Set {
                name: file.display().to_string(),
                objects: documents(&read(file)),
            }),
        );
    }
    sets
}

/// Does what kustomize does with the base: joins its resources and names the image's version.
fn base() -> Set {
    let directory = path("k8s/base");
    let [kustomization] = &documents(&read(directory.join("kustomization.yaml")))[..] else {
        panic!("one document says what the base is made of")
    };
    let mut objects: Vec<Value> = texts(&kustomization["resources"])
        .iter()
        .flat_map(|resource| documents(&read(directory.join(resource))))
        .collect();
    let [image] = list(&kustomization["images"]) else { panic!("there is one image") };
    for container in objects.iter_mut().filter_map(containers_mut).flatten() {
        if container["image"] == image["name"] {
            container["image"] =
                format!("{}:{}", text(&image["name"]), text(&image["newTag"])).into();
        }
    }
    let [generated] = list(&kustomization["configMapGenerator"]) else { panic!("there is one") };
    assert_eq!(texts(&generated["files"]), [CONFIG_FILE]);
    objects.push(serde_json::json!({
        "kind": "ConfigMap",
        "metadata": { "name": generated["name"] },
        "data": { CONFIG_FILE: read(directory.join(CONFIG_FILE)) },
    }));
    Set { name: "k8s/base".to_owned(), objects }
}

fn containers_mut(object: &mut Value) -> Option<&mut Vec<Value>> {
    object.pointer_mut("/spec/template/spec/containers")?.as_array_mut()
}

impl Set {
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|object| object["kind"] == kind).collect()
    }

    pub fn one(&self, kind: &str, name: &str) -> &Value {
        let found = self.all(kind).into_iter().find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{} has a {kind} called {name}", self.name))
    }

    pub fn pods<'a>(&'a self) -> Vec<Pods<'a>> {
        let of_object = |object: &'a Value| {
            let template = &object["spec"]["template"];
            let (labels, spec) = (&template["metadata"]["labels"], &template["spec"]);
            spec.is_object().then(|| Pods { name: name(object), labels, spec })
        };
        self.objects.iter().filter_map(of_object).collect()
    }

    /// The pods that a selector finds; there must be some.
    pub fn selected(&self, selector: &Value) -> Vec<Pods<'_>> {
        let wanted = selector.as_object().expect("a selector has labels");
        assert!(!wanted.is_empty(), "{}: a selector finds everything", self.name);
        let mut found = self.pods();
        found.retain(|pods| wanted.iter().all(|(label, value)| pods.labels[label] == *value));
        assert!(!found.is_empty(), "{}: {selector} finds no pod", self.name);
        found
    }

    pub fn stateful_set(&self) -> &Value {
        self.one("StatefulSet", PROGRAM)
    }

    pub fn peers(&self) -> Pods<'_> {
        let template = &self.stateful_set()["spec"]["template"];
        Pods { name: PROGRAM, labels: &template["metadata"]["labels"], spec: &template["spec"] }
    }

    /// The container that runs the program.
    pub fn program(&self) -> &Value {
        let peers = self.peers();
        let mut containers = list(&peers.spec["containers"]).iter();
        containers.find(|container| container["name"] == PROGRAM).expect("the program runs there")
    }

    /// The text of the pods' configuration.
    pub fn configuration(&self) -> &str {
        let peers = self.peers();
        let [_, config] = list(&self.program()["volumeMounts"]) else { panic!("two volumes") };
        let mut volumes = list(&peers.spec["volumes"]).iter();
        let volume = volumes.find(|volume| volume["name"] == config["name"]).expect("it is there");
        let object = self.one("ConfigMap", text(&volume["configMap"]["name"]));
        text(&object["data"][CONFIG_FILE])
    }

    /// The variables of the program in the pod of that ordinal.
    pub fn variables(&self, ordinal: usize) -> Vec<(String, String)> {
        let pod = format!("{PROGRAM}-{ordinal}");
        let mut known: Vec<(String, String)> = Vec::new();
        for variable in list(&self.program()["env"]) {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => pod.clone(),
                Some(other) => panic!("what is {other}?"),
                // Only what stands before it is put in, as Kubernetes does.
                None => {
                    known.iter().fold(text(&variable["value"]).to_owned(), |text, (name, value)| {
                        text.replace(&format!("$({name})"), value)
                    })
                }
            };
            assert!(!value.contains("$("), "{value}");
            known.push((text(&variable["name"]).to_owned(), value));
        }
        known
    }
}

impl Pods<'_> {
    /// The port of that name or number; one of the containers must have it.
    pub fn port(&self, wanted: &Value) -> u64 {
        let containers = list(&self.spec["containers"]).iter();
        let mut ports = containers.flat_map(|container| list(&container["ports"]));
        let is_it = |port: &&Value| port["name"] == *wanted || port["containerPort"] == *wanted;
        let port = ports.find(is_it);
        let port = port.unwrap_or_else(|| panic!("{} has no port {wanted}", self.name));
        port["containerPort"].as_u64().expect("a port is a number")
    }

    /// The pods must have every port that a policy's rule names.
    pub fn check_ports(&self, ports: &Value) {
        for port in list(ports) {
            assert!(self.port(&port["port"]) > 0);
        }
    }
}

pub fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

/// The items of a list; a list that is absent has none.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}

/// The Dockerfile's instructions: the word and what follows it, on one line.
pub struct Dockerfile(Vec<(String, String)>);

impl Dockerfile {
    pub fn load() -> Self {
        let text = read(path("Dockerfile"));
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let joined = lines.join("\n").replace("\\\n", " ");
        let split = |line: &str| {
            let (word, rest) = line.trim().split_once(' ')?;
            Some((word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
        };
        Self(joined.lines().filter_map(split).collect())
    }

    pub fn all(&self, word: &str) -> Vec<&str> {
        self.0.iter().filter(|(it, _)| it == word).map(|(_, rest)| &**rest).collect()
    }

    /// The last instruction of that word, which counts in the image.
    pub fn last(&self, word: &str) -> &str {
        self.all(word).pop().unwrap_or_else(|| panic!("the Dockerfile has no {word}"))
    }

    /// The command after that word, in the form `["a", "b"]`, after options.
    pub fn command(&self, word: &str) -> Vec<String> {
        let last = self.last(word);
        let list = &last[last.find('[').expect("commands are lists: no shell is there")..];
        serde_json::from_str(list).unwrap_or_else(|error| panic!("{word} {list}: {error}"))
    }

    /// A variable of the image, or the default of an argument: `NAME=VALUE` after that word.
    pub fn value(&self, word: &str, name: &str) -> &str {
        let mut pairs = self.all(word).into_iter().flat_map(|rest| rest.split(' '));
        let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("the Dockerfile has no {word} {name}=…"))
    }
}
