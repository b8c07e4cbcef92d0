//! One container: the program in a file system, a user and a process tree of its own, in the
//! network of its pod.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use demes::cli::demo::peer::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::image::Image;
use crate::machine::Machine;
use crate::manifests::Manifests;
use crate::names::DOMAIN;

/// How long it may take until the program's process is there.
const SPAWN_LIMIT: Duration = Duration::from_secs(10);
/// Where the tools are that make a container.
const TOOLS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the system's C library is: a distroless image has it too, and hardly more.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

/// What containers are made from.
pub struct Recipe {
    pub manifests: Manifests,
    pub image: Image,
    /// The program under test, which stands for the one in the image.
    pub binary: PathBuf,
    /// Pods and volumes are below it.
    pub root: PathBuf,
    pub name_server: String,
}

/// A running container.
pub struct Container {
    /// The command around it.
    outer: Child,
    /// The program, in the run's process namespace.
    pid: Pid,
}

impl Recipe {
    pub fn name(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.manifests.set.name)
    }

    /// A pod's volume for a claim; made as storage provisioners do when it is not there.
    pub fn volume(&self, ordinal: usize, claim: &str) -> Result<PathBuf> {
        let path = self.root.join("volumes").join(format!("{claim}-{}", self.name(ordinal)));
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Where the pod's peer keeps everything, on the volume.
    pub fn data_dir(&self, ordinal: usize) -> Result<PathBuf> {
        let claims = &self.manifests.set.volume_claim_templates;
        self.volume(ordinal, &claims.first().context("the pods have a volume")?.metadata.name)
    }

    /// What the pod has written, over all its containers.
    pub fn log(&self, ordinal: usize) -> PathBuf {
        self.root.join(format!("{}.log", self.name(ordinal)))
    }

    fn variables(&self, ordinal: usize) -> Result<Vec<(String, String)>> {
        // As container runtimes do for a user that the image does not know.
        let mut all = vec![("HOME".to_owned(), "/".to_owned())];
        all.extend(self.image.env.iter().cloned());
        all.push(("HOSTNAME".into(), self.name(ordinal)));
        // Every pod gets these, whatever it asks for.
        all.push(("KUBERNETES_SERVICE_HOST".into(), "10.96.0.1".into()));
        all.push(("KUBERNETES_SERVICE_PORT".into(), "443".into()));
        all.push(("KUBERNETES_PORT".into(), "tcp://10.96.0.1:443".into()));
        let from_image = all.len();
        for variable in &self.manifests.container().env {
            let mut value = match &variable.value_from {
                Some(source) => match source.field_ref.field_path.as_str() {
                    "metadata.name" => self.name(ordinal),
                    path => bail!("the rehearsal does not know the field {path}"),
                },
                None => variable.value.clone(),
            };
            for (name, earlier) in &all[from_image..] {
                value = value.replace(&format!("$({name})"), earlier);
            }
            ensure!(!value.contains("$("), "{} refers to what is not defined", variable.name);
            all.push((variable.name.clone(), value));
        }
        Ok(all)
    }

    fn words(&self) -> Vec<String> {
        let container = self.manifests.container();
        let command = match container.command.is_empty() {
            true => &self.image.entrypoint,
            false => &container.command,
        };
        [command.clone(), container.args.clone()].concat()
    }

    /// What the kubelet writes for a pod: the files that names are resolved by.
    fn write_etc(&self, ordinal: usize, ip: &str, pod: &Path) -> Result<PathBuf> {
        let etc = pod.join("etc");
        fs::create_dir_all(&etc)?;
        let (name, service) = (self.name(ordinal), &self.manifests.service.name);
        let hosts = format!("127.0.0.1 localhost\n{ip} {name}.{service}.{DOMAIN} {name}\n");
        fs::write(etc.join("hosts"), hosts)?;
        let (_, cluster) = DOMAIN.split_once('.').context("a domain has parts")?;
        let (_, top) = cluster.split_once('.').context("a domain has parts")?;
        let server = &self.name_server;
        let search = format!("nameserver {server}\nsearch {DOMAIN} {cluster} {top}\n");
        fs::write(etc.join("resolv.conf"), search + "options ndots:5\n")?;
        fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n")?;
        Ok(etc)
    }

    /// The shell's script that makes the container's file system and then becomes the program.
    fn script(&self, ordinal: usize, ip: &str) -> Result<String> {
        let pod = self.root.join("pods").join(format!("{}-{ip}", self.name(ordinal)));
        let root = pod.join("root");
        fs::create_dir_all(&root)?;
        let etc = self.write_etc(ordinal, ip, &pod)?;
        let (root, etc) = (root.display(), etc.display());
        let mut script = format!(
            "set -e\nmount --make-rprivate /\nmount -t tmpfs -o mode=755,size=4m none {root}\n\
             cp -r {etc} {root}/etc\nmkdir {root}/proc {root}/dev\nmount -t proc none {root}/proc\n"
        );
        let mut bind = |from: &Path, to: &str, read_only: bool| {
            let (from, option) = (from.display(), if read_only { "-o ro" } else { "-o rw" });
            let make = match Path::new(&from.to_string()).is_dir() {
                true => format!("mkdir -p {root}{to}"),
                false => format!("mkdir -p $(dirname {root}{to})\ntouch {root}{to}"),
            };
            script += &format!("{make}\nmount --bind {option} {from} {root}{to}\n");
        };
        for library in LIBRARIES.iter().filter(|path| Path::new(path).is_dir()) {
            bind(Path::new(library), library, true);
        }
        for device in ["/dev/null", "/dev/urandom"] {
            bind(Path::new(device), device, false);
        }
        bind(&self.binary, &self.image.program, true);
        for mount in &self.manifests.container().volume_mounts {
            let from = match self.manifests.files_of(&mount.name)? {
                Some(files) => {
                    let directory = pod.join(&mount.name);
                    fs::create_dir_all(&directory)?;
                    for (name, text) in files {
                        fs::write(directory.join(name), text)?;
                    }
                    directory
                }
                None => self.claimed(ordinal, &mount.name)?,
            };
            bind(&from, &mount.mount_path, mount.read_only);
        }
        let security = &self.manifests.pod().security_context;
        let (user, group) = (security.run_as_user, security.run_as_group);
        // The program finds what is on the image's path, where these tools need not be.
        script += &format!(
            "mount -o remount,ro {root}\nsetpriv=$(command -v setpriv)\n\
             unshare=$(command -v unshare)\nexport PATH=\"$IMAGE_PATH\"\nunset IMAGE_PATH\n\
             exec $setpriv --no-new-privs $unshare --root={root} --wd=/ --setgid={group} \
             --setuid={user} -- \"$@\"\n"
        );
        Ok(script)
    }

    /// The volume, with the group that the pod asks for, as `OnRootMismatch` makes it.
    fn claimed(&self, ordinal: usize, name: &str) -> Result<PathBuf> {
        let claims = &self.manifests.set.volume_claim_templates;
        ensure!(claims.iter().any(|claim| claim.metadata.name == name), "no volume {name}");
        let volume = self.volume(ordinal, name)?;
        let group = self.manifests.pod().security_context.fs_group;
        let seen = fs::metadata(&volume)?;
        const GROUP_MAY: u32 = 0o2070;
        if seen.gid() != group || seen.mode() & GROUP_MAY != GROUP_MAY {
            let inside = fs::read_dir(&volume)?.count();
            ensure!(inside == 0, "the group of a volume in use changed: all files would be opened");
            chown(&volume, None, Some(group))?;
            fs::set_permissions(&volume, fs::Permissions::from_mode(seen.mode() | GROUP_MAY))?;
        }
        Ok(volume)
    }

    /// Starts the container of a pod on its machine.
    pub async fn start(&self, ordinal: usize, machine: &Machine) -> Result<Container> {
        let script = self.script(ordinal, &machine.ip().to_string())?;
        let log = File::options().create(true).append(true).open(self.log(ordinal))?;
        let variables: BTreeMap<_, _> = self.variables(ordinal)?.into_iter().collect();
        let path = variables.get("PATH").context("a program is found on a path")?.clone();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script, "container"])
            .args(self.words())
            .env_clear()
            .envs(variables)
            .env("PATH", TOOLS)
            .env("IMAGE_PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let spawned = machine.runtime().spawn(async move { command.spawn() }).await?;
        let outer = spawned.context("unshare cannot be run")?;
        let id = outer.id().context("it has just been started")?;
        let pid = until(SPAWN_LIMIT, "a container's process", || async move {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        Ok(Container { outer, pid: Pid::from_raw(pid.await?) })
    }
}

impl Container {
    /// Its process, as this run sees it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.outer.wait().await?)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid, signal)?)
    }
}
