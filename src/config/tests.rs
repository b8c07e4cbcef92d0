//! Layers, origins, and what is refused.

use super::values::advertised;
use super::*;

fn layers() -> Layers {
    Layers {
        data_dir: "data".into(),
        remembered: None,
        file: "demes.toml".into(),
        text: None,
        variables: Vec::new(),
        flags: Vec::new(),
        login_name: "ana".into(),
    }
}

fn file(text: &str) -> Layers {
    Layers { text: Some(text.into()), ..layers() }
}

fn variables(variables: &[(&str, &str)]) -> Layers {
    let pair = |(name, text): &(&str, &str)| (name.into(), text.into());
    Layers { variables: variables.iter().map(pair).collect(), ..layers() }
}

fn error(layers: Layers) -> String {
    merge(layers).expect_err("must be refused").to_string()
}

#[test]
fn defaults_are_those_of_the_protocol_and_the_listeners() {
    let settings = merge(layers()).expect("valid");
    assert_eq!(settings.protocol, ProtocolConfig::default());
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.telemetry, telemetry::Settings::default());
    assert_eq!(settings.name, "ana");
    assert_eq!(settings.health_listen, None);
}

#[test]
fn each_layer_goes_before_the_one_below_and_says_so() {
    let origin = |layers: Layers| {
        let settings = merge(layers).expect("valid");
        let name = settings.origins.into_iter().find(|it| it.key == "peer.name");
        (settings.name, name.expect("is a key").origin)
    };
    let mut layers = layers();
    assert_eq!(origin(copy(&layers)), ("ana".into(), "default".into()));
    layers.remembered = Some("peer.name = \"Ann\"\n".into());
    assert_eq!(origin(copy(&layers)), ("Ann".into(), "data/up.toml".into()));
    layers.text = Some("[peer]\nname = \"Ben\"\n".into());
    assert_eq!(origin(copy(&layers)), ("Ben".into(), "demes.toml".into()));
    layers.variables = vec![("DEMES__PEER__NAME".into(), "Cleo".into())];
    assert_eq!(origin(copy(&layers)), ("Cleo".into(), "variable DEMES__PEER__NAME".into()));
    layers.flags = vec![Flag { key: "peer.name", flag: "--name", text: "Dan".into() }];
    assert_eq!(origin(layers), ("Dan".into(), "flag --name".into()));
}

fn copy(of: &Layers) -> Layers {
    Layers {
        data_dir: of.data_dir.clone(),
        remembered: of.remembered.clone(),
        file: of.file.clone(),
        text: of.text.clone(),
        variables: of.variables.clone(),
        flags: of.flags.clone(),
        login_name: of.login_name.clone(),
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_origin_and_what_was_meant() {
    let text = error(file("[timers]\nheartbeat = 50\n"));
    assert_eq!(
        text,
        "there is no key `timers.heartbeat` (demes.toml); did you mean `timers.heartbeat_ms`?"
    );
    let text = error(variables(&[("DEMES__CLIENT__ADVERTISE", "a:1")]));
    assert!(text.contains("`client.advertise` (variable DEMES__CLIENT__ADVERTISE)"), "{text}");
    assert!(text.contains("did you mean `peer.advertise`?"), "{text}");
    assert!(error(file("peer = 3")).contains("no key `peer`"));
}

#[test]
fn what_kubernetes_makes_for_a_service_called_demes_does_not_count() {
    let settings = merge(variables(&[
        ("DEMES_PORT", "tcp://10.0.0.1:7443"),
        ("DEMES_SERVICE_HOST", "10.0.0.1"),
        ("DEMES_PORT_7443_TCP_ADDR", "10.0.0.1"),
        ("DEMES_LISTEN", "1.2.3.4:5"),
    ]));
    assert_eq!(settings.expect("valid").peer_listen.to_string(), "0.0.0.0:7443");
}

#[test]
fn text_in_variables_is_not_guessed_at() {
    for name in ["007", "true", "1e3", " x"] {
        let settings = merge(variables(&[("DEMES__PEER__NAME", name)])).expect("valid");
        assert_eq!(settings.name, name);
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_origin() {
    let text = error(file("[peer]\nlisten = 7443\n"));
    assert_eq!(
        text,
        "`peer.listen` = 7443 (demes.toml) must be an IP address and a port, as in \
         \"0.0.0.0:7443\""
    );
    let text = error(variables(&[("DEMES__LIMITS__CHATS_MAX", "many")]));
    assert_eq!(
        text,
        "`limits.chats_max` = \"many\" (variable DEMES__LIMITS__CHATS_MAX) must be a whole \
         number from 1 to 10000"
    );
    for wrong in ["name = 7", "name = \"\"", "on_stop = \"stay\"", "host_weight = -1"] {
        assert!(merge(file(&format!("[peer]\n{wrong}\n"))).is_err(), "{wrong}");
    }
    assert!(error(file("[peer\n")).contains("demes.toml is not valid TOML"));
}

#[test]
fn a_relation_between_timers_is_refused_with_the_origin() {
    let text = error(file("[timers]\nlease_ms_min = 100\n"));
    assert_eq!(
        text,
        "`timers.lease_ms_min` = 100 (demes.toml) must be at least three heartbeats (150 ms)"
    );
    let text = error(variables(&[("DEMES__LIMITS__VOTERS_MAX", "4")]));
    assert!(text.contains("(variable DEMES__LIMITS__VOTERS_MAX) must be an odd number"));
}

#[test]
fn programs_are_served_on_loopback_only() {
    assert!(error(file("[client]\nlisten = \"0.0.0.0:1\"\n")).contains("loopback"));
    assert!(merge(file("[client]\nlisten = \"[::1]:1\"\n")).is_ok());
}

#[test]
fn the_first_file_parses_to_the_defaults_with_and_without_its_comment_signs() {
    let text = default_file();
    let defaults = merge(layers()).expect("valid");
    let parsed = merge(file(&text)).expect("valid");
    assert_eq!(parsed, defaults);
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
            _ => line,
        })
        .collect();
    let mut parsed = merge(file(&uncommented.join("\n"))).expect("valid");
    assert!(parsed.origins.iter().all(|it| it.origin == "demes.toml"));
    assert_eq!(parsed.name, "me");
    parsed.name = defaults.name.clone();
    parsed.origins = defaults.origins.clone();
    assert_eq!(parsed, defaults);
}

#[test]
fn the_first_file_is_written_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("made/demes.toml");
    assert!(write_default_file(&path).expect("written"));
    fs::write(&path, "# mine\n").expect("written");
    assert!(!write_default_file(&path).expect("left alone"));
    assert_eq!(fs::read_to_string(&path).expect("read"), "# mine\n");
}

#[test]
fn a_file_without_end_is_refused_and_a_directory_that_is_none_is_left_to_others() {
    let arguments = |file: &str, data_dir: &str| Arguments {
        data_dir: Some(data_dir.into()),
        file: (!file.is_empty()).then(|| file.into()),
        flags: Vec::new(),
    };
    let endless = load(&arguments("/dev/zero", "/nowhere")).expect_err("it is refused");
    assert!(endless.to_string().contains("longer than any configuration"), "{endless}");
    assert!(load(&arguments("", "/dev/null")).is_ok(), "the data directory is another matter");
}

#[test]
fn bootstrap_chats_come_from_the_file() {
    let text = "[[bootstrap.chat]]\nname = \"team\"\nmembers = [\"a:1\", \"b:2\"]\n";
    let settings = merge(file(text)).expect("valid");
    assert_eq!(settings.bootstrap[0].members, ["a:1", "b:2"]);
    for wrong in ["name = \"team\"", "name = \"t\"\nmembers = [\"a\"]", "members = [\"a:1\"]"] {
        assert!(merge(file(&format!("[[bootstrap.chat]]\n{wrong}\n"))).is_err(), "{wrong}");
    }
    let more = format!("{text}color = 3\n");
    assert!(error(file(&more)).contains("no key `bootstrap.chat.color`"));
    assert!(error(variables(&[("DEMES__BOOTSTRAP__CHAT", "x")])).contains("in the file"));
}

#[test]
fn who_listens_everywhere_advertises_an_address_that_can_be_dialled() {
    let everywhere = "0.0.0.0:7443".parse().expect("an address");
    let address = advertised(String::new(), everywhere).expect("an address");
    assert!(address.ends_with(":7443") && !address.starts_with("0.0.0.0"), "{address}");
    let loopback = "127.0.0.1:7443".parse().expect("an address");
    assert_eq!(advertised(String::new(), loopback), None);
    assert_eq!(advertised("ana.example:1".into(), everywhere), Some("ana.example:1".into()));
}

#[test]
fn a_login_name_that_cannot_be_a_name_is_passed_over() {
    let name = |user: &'static str| login_name(move |key| (key == "USER").then(|| user.to_owned()));
    assert_eq!(name("ana"), "ana");
    assert_eq!(name(""), "me");
}

#[test]
fn a_directory_remembers_who_it_is_and_where_it_listens() {
    let directory = tempfile::tempdir().expect("a directory");
    let start = |flags: &[(&'static str, &'static str, &str)]| {
        let flag = |(key, flag, text): &(&'static str, &'static str, &str)| Flag {
            key,
            flag,
            text: (*text).to_owned(),
        };
        let flags: Vec<Flag> = flags.iter().map(flag).collect();
        let data_dir = Some(directory.path().to_owned());
        let settings = load(&Arguments { data_dir, flags: flags.clone(), file: None });
        remember(directory.path(), &flags).expect("it can be written");
        settings.expect("valid")
    };
    start(&[
        ("peer.name", "--name", "O'\"Neil"),
        ("peer.listen", "--listen", "127.0.0.1:7453"),
        ("telemetry.log_level", "--log-level", "debug"),
    ]);
    let again = start(&[("client.listen", "--client-listen", "127.0.0.1:7454")]);
    assert_eq!(again.name, "O'\"Neil");
    assert_eq!(again.peer_listen.port(), 7453);
    assert_eq!(again.telemetry.log_level, "info", "how a run logs is its own");
    let once_more = start(&[]);
    assert_eq!((once_more.peer_listen.port(), once_more.client_listen.port()), (7453, 7454));
}
