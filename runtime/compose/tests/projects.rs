//! Whole Compose files, and what they come to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bollard_stubs::models::{ContainerCreateBody, HostConfig, RestartPolicyNameEnum};
use tenantry_compose::plan::Change;
use tenantry_compose::{Condition, Files, Project, Sources, load, order};

/// Files that are only told.
struct Told(BTreeMap<PathBuf, String>);

impl Files for Told {
    fn read(&self, path: &Path) -> io::Result<String> {
        let plain: PathBuf =
            path.components().filter(|part| *part != std::path::Component::CurDir).collect();
        self.0.get(&plain).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Loads `/app/compose.yaml` and whatever stands beside it.
fn read_all(files: &[(&str, &str)], names: &[&str]) -> Result<(Project, Vec<String>), String> {
    let told = files.iter().map(|(name, text)| (Path::new("/app").join(name), (*text).to_owned()));
    let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    let environment = [("FROM_SHELL", "shell"), ("HOME", "/home/me")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let sources = Sources {
        files: &names,
        directory: Path::new("/app"),
        env_files: &[],
        environment,
        name: None,
    };
    load(&Told(told.collect()), &sources).map_err(|error| error.to_string())
}

fn read(text: &str) -> Result<Project, String> {
    read_all(&[("compose.yaml", text)], &["compose.yaml"]).map(|(project, _)| project)
}

fn container(project: &Project, name: &str) -> ContainerCreateBody {
    project.container(&project.services[name], "sha256:1", 1, false)
}

const SHOP: &str = r#"
name: shop
x-common: &common
  restart: unless-stopped
  environment: {LEVEL: debug, EMPTY: }
services:
  web:
    <<: *common
    build: {context: ./web, args: [V=1, FROM_SHELL], target: final}
    command: serve --on "port 80"
    ports: ["8080:80", {target: 53, protocol: udp, host_ip: 127.0.0.1}]
    depends_on:
      api: {condition: service_healthy}
      setup: {condition: service_completed_successfully, required: false}
    networks: {front: {aliases: [www], priority: 9}, back: }
    volumes: ["./site:/site:ro", "cache:/var/cache", /scratch]
    secrets: [token]
    configs: [{source: motd, target: /etc/motd, mode: 0440}]
    labels: {tenantry.egress: 10mbit}
  api:
    image: api:${TAG:-1}
    env_file: [api.env, {path: none.env, required: false}]
    environment: [B=own, FROM_SHELL, NOWHERE]
    healthcheck: {test: "wget -q localhost", interval: 1m30s, retries: 3}
    networks: [back]
    deploy:
      replicas: 2
      resources: {limits: {cpus: '0.5', memory: 64m, pids: 50}, reservations: {memory: 32m}}
      restart_policy: {condition: on-failure, max_attempts: 4}
    ulimits: {nofile: {soft: 10, hard: 20}, core: 0}
    stop_grace_period: 1500ms
  setup:
    image: setup
    profiles: [tools]
    network_mode: none
networks:
  front: {ipam: {config: [{subnet: 10.9.0.0/24}]}}
  back: {internal: true}
  unused: {}
volumes: {cache: , kept: {external: true, name: the-kept}}
secrets: {token: {file: ./token.txt}}
configs: {motd: {content: "hello $$"}}
"#;

fn shop() -> Project {
    let files = [("compose.yaml", SHOP), ("api.env", "A=1\nB=file\n")];
    read_all(&files, &["compose.yaml"]).unwrap().0
}

#[test]
fn a_service_becomes_what_the_engine_api_wants_of_it() {
    let project = shop();
    let web = &project.services["web"];
    let body = container(&project, "web");
    let host = body.host_config.unwrap();
    assert_eq!(body.image.as_deref(), Some("shop-web"));
    assert_eq!(body.cmd.unwrap(), ["serve", "--on", "port 80"]);
    assert_eq!(body.env.unwrap(), ["LEVEL=debug"]);
    assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::UNLESS_STOPPED));
    let ports = host.port_bindings.unwrap();
    let of = |port: &str| ports[port].as_ref().unwrap()[0].clone();
    assert_eq!(of("80/tcp").host_port.as_deref(), Some("8080"));
    assert_eq!(of("53/udp").host_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(host.binds.unwrap(), ["/app/site:/site:ro", "shop_cache:/var/cache"]);
    assert_eq!(body.volumes.unwrap(), ["/scratch"]);
    let token = &host.mounts.unwrap()[0];
    assert_eq!(token.source.as_deref(), Some("/app/token.txt"));
    assert_eq!(token.target.as_deref(), Some("/run/secrets/token"));
    assert_eq!((web.uploads[0].text.as_str(), web.uploads[0].mode), ("hello $", 0o440));
    assert_eq!(host.network_mode.as_deref(), Some("shop_front"));
    let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
    assert_eq!(endpoints["shop_front"].aliases.as_deref(), Some(&["web".into(), "www".into()][..]));
    assert_eq!(endpoints.len(), 1);
    assert_eq!(project.further_networks(web, false)[0].0, "shop_back");
    let labels = body.labels.unwrap();
    assert_eq!(labels["tenantry.egress"], "10mbit");
    assert_eq!(labels["com.docker.compose.service"], "web");
    assert_eq!(labels["com.docker.compose.container-number"], "1");
    let build = web.build.as_ref().unwrap();
    assert_eq!(build.context, "/app/web");
    assert_eq!(build.args[1], ("FROM_SHELL".into(), Some("shell".into())));
    assert_eq!(project.container_name(web, 2), "shop-web-2");
}

#[test]
fn limits_and_times_are_in_the_engine_s_units() {
    let project = shop();
    let body = container(&project, "api");
    let host = body.host_config.unwrap();
    assert_eq!(body.image.as_deref(), Some("api:1"));
    assert_eq!(body.env.unwrap(), ["A=1", "B=own", "FROM_SHELL=shell"]);
    assert_eq!(host.nano_cpus, Some(500_000_000));
    assert_eq!((host.memory, host.memory_reservation), (Some(64 << 20), Some(32 << 20)));
    assert_eq!(host.pids_limit, Some(50));
    let restart = host.restart_policy.unwrap();
    assert_eq!(restart.name, Some(RestartPolicyNameEnum::ON_FAILURE));
    assert_eq!(restart.maximum_retry_count, Some(4));
    let health = body.healthcheck.unwrap();
    assert_eq!(health.test.unwrap(), ["CMD-SHELL", "wget -q localhost"]);
    assert_eq!(health.interval, Some(90_000_000_000));
    assert_eq!(body.stop_timeout, Some(2));
    let limits = host.ulimits.unwrap();
    assert_eq!((limits[0].soft, limits[0].hard), (Some(10), Some(20)));
    assert_eq!((limits[1].soft, limits[1].hard), (Some(0), Some(0)));
    assert_eq!(project.services["api"].scale, 2);
}

#[test]
fn what_is_kept_of_the_output_is_the_engine_s_to_judge() {
    let text = "services: {web: {image: i, logging: {driver: json-file, options: {max-file: 3, \
                max-size: 10m}}}}";
    let host = container(&read(text).unwrap(), "web").host_config.unwrap();
    let config = host.log_config.unwrap();
    assert_eq!(config.typ.as_deref(), Some("json-file"));
    let options: BTreeMap<_, _> = config.config.unwrap().into_iter().collect();
    let expected = [("max-file", "3"), ("max-size", "10m")];
    assert!(options.iter().map(|(name, value)| (&name[..], &value[..])).eq(expected));
    let wrong = "services: {web: {image: i, logging: {option: {}}}}";
    assert!(read(wrong).unwrap_err().contains("option"));
}

#[test]
fn networks_and_volumes_have_their_names_on_the_host() {
    let project = shop();
    let networks: Vec<&str> = project.networks.keys().map(String::as_str).collect();
    assert_eq!(networks, ["back", "front"]);
    assert_eq!(project.networks["back"].request.internal, Some(true));
    assert_eq!(project.volumes["cache"].name, "shop_cache");
    assert!(project.volumes["kept"].external);
    assert_eq!(project.volumes["kept"].name, "the-kept");
}

#[test]
fn what_depends_on_something_comes_after_it_and_profiles_are_asked_for() {
    let all = shop().with_profiles(&["tools".into()], &[]);
    assert_eq!(order::order(&all, &[]).unwrap(), ["api", "setup", "web"]);
    assert_eq!(all.services["web"].depends_on["setup"].condition, Condition::Completed);
    let without = shop().with_profiles(&[], &[]);
    assert_eq!(order::order(&without, &["web".into()]).unwrap(), ["api", "web"]);
    assert!(!without.services["web"].depends_on.contains_key("setup"));
    let named = shop().with_profiles(&[], &["setup".into()]);
    assert!(named.services.contains_key("setup"));
    let circle = "services:\n  a: {image: i, depends_on: [b]}\n  b: {image: i, links: [a]}\n";
    let error = order::order(&read(circle).unwrap(), &[]).unwrap_err().to_string();
    assert_eq!(error, "services that wait for each other: a → b → a");
}

#[test]
fn a_service_that_no_profile_asks_for_is_still_the_file_s() {
    let without = shop().with_profiles(&[], &[]);
    assert!(!without.services.contains_key("setup"));
    assert!(without.has_service("setup") && without.has_service("web"));
    assert!(!without.has_service("gone"));
}

#[test]
fn volumes_are_asked_for_by_the_services_that_mount_them() {
    let text = "services:\n  \
                  a: {image: i, volumes: ['short:/s', './x:/x', /anonymous]}\n  \
                  b: {image: i, volumes: [{type: volume, source: long, target: /l}]}\n\
                volumes: {short: , long: {external: true}, nobody_s: {external: true}}\n";
    let project = read(text).unwrap();
    let of = |services: &[&str]| {
        let services: Vec<String> = services.iter().map(|name| (*name).to_owned()).collect();
        let of = project.volumes_of(&services);
        of.into_iter().map(|volume| volume.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(&["a"]), ["app_short"]);
    assert_eq!(of(&["b"]), ["long"]);
    assert_eq!(of(&["b", "a"]), ["long", "app_short"]);
    assert!(of(&[]).is_empty());
}

#[test]
fn who_has_another_one_s_namespaces_goes_with_it() {
    let text = "services:\n  \
                  vpn: {image: i}\n  \
                  app: {image: i, network_mode: 'service:vpn', pid: host}\n  \
                  linked: {image: i, links: [vpn]}\n  \
                  told: {image: i, depends_on: {vpn: {condition: service_started, restart: true}}}\n  \
                  after: {image: i, depends_on: [vpn], volumes_from: [app]}\n";
    let project = read(text).unwrap();
    let app = &project.services["app"];
    let with = |mode: &str| HostConfig {
        network_mode: Some(mode.into()),
        pid_mode: Some("host".into()),
        ..HostConfig::default()
    };
    let lent = |of: &str| (of == "vpn").then(|| "new".to_owned());
    assert!(!app.is_cut_off(&with("container:new"), lent));
    assert!(app.is_cut_off(&with("container:old"), lent));
    assert!(!app.is_cut_off(&with("container:old"), |_| None));
    assert!(!project.services["told"].is_cut_off(&with("p_default"), lent));
    assert!(app.shares_namespaces() && !project.services["told"].shares_namespaces());
    let restarts = |name: &str| {
        let service = &project.services[name];
        [Change::Nothing, Change::Started, Change::Made]
            .map(|change| service.restarts_with("vpn", change))
    };
    assert_eq!(restarts("app"), [false, true, true]);
    assert_eq!(restarts("linked"), [false, false, true]);
    assert_eq!(restarts("told"), [false, false, true]);
    assert_eq!(restarts("after"), [false, false, false]);
    assert!(!project.services["after"].restarts_with("app", Change::Made));
}

#[test]
fn a_container_s_hash_changes_with_what_it_is_and_not_with_how_many_there_are() {
    let hash = |text: &str| {
        let project = read(text).unwrap();
        project.hash(&project.services["a"])
    };
    let base = hash("services: {a: {image: i, environment: {A: 1, B: 2, C: 3}}}");
    assert_eq!(base, hash("services: {a: {image: i, environment: [A=1, B=2, C=3], scale: 3}}"));
    assert_ne!(base, hash("services: {a: {image: j, environment: {A: 1, B: 2, C: 3}}}"));
    assert_ne!(base, hash("services: {a: {image: i, environment: {A: 1, B: 2, C: 4}}}"));
    let on = "services: {a: {image: i, networks: [n]}}\nnetworks: {n: }\n";
    let other = "services: {a: {image: i, networks: {n: {aliases: [x]}}}}\nnetworks: {n: }\n";
    assert_ne!(hash(on), hash(other));
}

#[test]
fn later_files_say_what_is_different_and_services_extend_others() {
    let base = "services:\n  a: {image: i, ports: ['1:1'], environment: {A: 1}}\n";
    let over = "services:\n  a:\n    image: j\n    ports: ['2:2']\n    environment: [A=2, B=3]\n  \
                b: {extends: {file: sub/base.yaml, service: origin}, user: me}\n";
    let sub = "services:\n  origin: {image: o, user: other, volumes: ['./d:/d'], extends: first}\n  \
               first: {image: f, hostname: h}\n";
    let files = [("base.yaml", base), ("over.yaml", over), ("sub/base.yaml", sub)];
    let (project, _) = read_all(&files, &["base.yaml", "over.yaml"]).unwrap();
    let a = container(&project, "a");
    assert_eq!(a.image.as_deref(), Some("j"));
    assert_eq!(a.env.unwrap(), ["A=2", "B=3"]);
    assert_eq!(a.host_config.unwrap().port_bindings.unwrap().len(), 2);
    let b = container(&project, "b");
    assert_eq!((b.user.as_deref(), b.hostname.as_deref()), (Some("me"), Some("h")));
    assert_eq!(b.image.as_deref(), Some("o"));
    assert_eq!(b.host_config.unwrap().binds.unwrap(), ["/app/sub/d:/d"]);
    let circle = "services:\n  a: {image: i, extends: b}\n  b: {image: i, extends: a}\n";
    assert!(read(circle).unwrap_err().contains("in a circle"));
}

#[test]
fn an_included_file_has_its_own_directory() {
    let files = [
        (
            "compose.yaml",
            "include: [db/compose.yaml]\nservices: {web: {image: w, depends_on: [db]}}\n",
        ),
        ("db/compose.yaml", "services: {db: {image: d, build: .}}\nvolumes: {data: }\n"),
    ];
    let (project, _) = read_all(&files, &["compose.yaml"]).unwrap();
    assert_eq!(project.services["db"].build.as_ref().unwrap().context, "/app/db");
    assert!(project.volumes.contains_key("data"));
}

#[test]
fn an_included_file_s_paths_are_all_its_own() {
    let inner = "services:\n  a:\n    image: i\n    env_file: {path: a.env}\n    \
                 build: {context: ctx}\n    secrets: [k]\n    configs: [c]\n  \
                 b: {build: {target: t}}\n  c: {build: 'https://example.org/c.git'}\n\
                 secrets: {k: {file: ./k}}\nconfigs: {c: {file: ../c}}\n";
    let files = [
        ("compose.yaml", "include: [sub/compose.yaml]\nservices: {d: {image: d}}\n"),
        ("sub/compose.yaml", inner),
        ("sub/a.env", "OF=sub\n"),
        ("a.env", "OF=app\n"),
    ];
    let (project, _) = read_all(&files, &["compose.yaml"]).unwrap();
    let body = container(&project, "a");
    assert_eq!(body.env.unwrap(), ["OF=sub"]);
    let context = |name: &str| project.services[name].build.as_ref().unwrap().context.clone();
    assert_eq!(
        ["a", "b", "c"].map(context),
        ["/app/sub/ctx", "/app/sub", "https://example.org/c.git"]
    );
    let mounts = body.host_config.unwrap().mounts.unwrap();
    let sources: Vec<_> = mounts.iter().map(|mount| mount.source.as_deref().unwrap()).collect();
    assert_eq!(sources, ["/app/sub/k", "/app/sub/../c"]);
}

#[test]
fn a_file_that_many_services_extend_is_one_file() {
    let many = |count: usize, file: &str| {
        let one = |n: usize| format!("  s{n}: {{extends: {{file: {file}, service: s0}}}}\n");
        format!("services:\n{}", (0..count).map(one).collect::<String>())
    };
    let base = "services: {s0: {image: base}}\n";
    let files = [
        ("compose.yaml", &*many(11, "./lib/common.yml")),
        ("lib/common.yml", &*many(9, "base.yml")),
        ("lib/base.yml", base),
    ];
    let (project, _) = read_all(&files, &["compose.yaml"]).unwrap();
    assert_eq!(project.services.len(), 11);
    assert_eq!(container(&project, "s10").image.as_deref(), Some("base"));
    let include = |name: &str| format!("include: [{name}]\nservices: {{}}\n");
    let (b, a) = (include("b.yaml"), include("a.yaml"));
    let circle = [("compose.yaml", &*a), ("a.yaml", &*b), ("b.yaml", &*a)];
    let error = read_all(&circle, &["compose.yaml"]).unwrap_err();
    assert!(error.contains("include[0]: files in a circle: a.yaml → b.yaml → a.yaml"), "{error}");
    let name = |n: usize| format!("f{n}.yaml");
    let own: Vec<(String, String)> =
        (0..101).map(|n| (name(n), format!("services: {{s{n}: {{image: i}}}}"))).collect();
    let all = include(&own.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "));
    let files: Vec<(&str, &str)> = std::iter::once(("compose.yaml", &*all))
        .chain(own.iter().map(|(name, text)| (name.as_str(), text.as_str())))
        .collect();
    let error = read_all(&files, &["compose.yaml"]).unwrap_err();
    assert!(error.contains("more than 100 files"), "{error}");
}

#[test]
fn dot_env_gives_variables_and_what_nobody_set_is_warned_of() {
    let files = [
        (".env", "TAG=2\nFROM_SHELL=file\n"),
        ("compose.yaml", "services: {a: {image: 'i:$TAG', user: '$FROM_SHELL$NOBODY'}}"),
    ];
    let (project, warnings) = read_all(&files, &["compose.yaml"]).unwrap();
    assert_eq!(container(&project, "a").image.as_deref(), Some("i:2"));
    assert_eq!(container(&project, "a").user.as_deref(), Some("shell"));
    assert_eq!(warnings, ["the variable NOBODY is not set: taken as empty"]);
    assert_eq!(project.name, "app");
}

#[test]
fn another_runtime_and_storage_are_asked_of_the_agent_which_refuses_them_by_name() {
    let text = "services: {a: {image: i, runtime: runc, storage_opt: {size: 1G}}}";
    let host = container(&read(text).unwrap(), "a").host_config.unwrap();
    assert_eq!(host.runtime.as_deref(), Some("runc"));
    assert_eq!(host.storage_opt.unwrap()["size"], "1G");
}

/// File, line, field and reason, each.
#[test]
fn a_mistake_is_told_with_its_file_line_and_field() {
    let check = |text: &str, expected: &str| {
        let error = read(text).unwrap_err();
        assert!(error.starts_with("compose.yaml:"), "{error}");
        assert!(error.contains(expected), "{text:?}: {error}");
    };
    let service = |fields: &str| format!("services:\n  web:\n    image: i\n    {fields}\n");
    check(
        &service("imgae: x"),
        "compose.yaml:4: services.web: no field is named \"imgae\": annotations, ",
    );
    check(
        &service("ports: ['99999:80']"),
        "compose.yaml:4: services.web.ports[0]: \"99999:80\" is not allowed: ",
    );
    check(&service("depends_on: [db]"), "services.web: there is no service \"db\": web");
    check(&service("networks: [x]"), "the network \"x\" is not among");
    check(&service("volumes: ['x:/y']"), "the volume \"x\" is not among");
    check(&service("volumes: ['./x:y']"), "SOURCE:/TARGET");
    check(
        &service("mem_limit: lots"),
        "services.web.mem_limit: \"lots\" is not allowed: a size such as 64m",
    );
    check(&service("restart: sometimes"), "no, always, on-failure[:N] or unless-stopped");
    check(&service("tty: maybe"), "true or false");
    check(&service("healthcheck: {interval: 5}"), "a time such as 90s");
    check(&service("healthcheck: {test: [wget]}"), "NONE, CMD or CMD-SHELL");
    check(&service("scale: -1"), "a number of containers");
    check(&service("{"), "compose.yaml:");
    check(&service("command: 'a \"b'"), "words with closed quotes");
    check(&service("depends_on: {web: }"), "cannot depend on itself");
    check(
        &service("environment: {A: [1]}"),
        "services.web.environment.A: a list is not allowed: a text",
    );
    check(
        &service("user: ${NO:?say who}"),
        "services.web.user: the variable NO is not set: say who",
    );
    check(&service("image: j"), "compose.yaml:4: the key \"image\" stands here twice");
    check("services:\n  web: {}\n", "neither image nor build");
    check("services:\n  we b: {image: i}\n", "a service's name is made of");
    check("services: [web]\n", "compose.yaml:1: services: a list is not allowed: a mapping");
    check(
        "name: Shop!\nservices: {a: {image: i}}\n",
        "compose.yaml:1: name: \"Shop!\" is not allowed",
    );
    check("volumes: {}\n", "services is missing");
    check("services: {a: {image: i}}\nnetwork: {}\n", "no field is named \"network\"");
    check(
        "services: {a: {image: i, container_name: x, scale: 2}}",
        "one name cannot be 2 containers'",
    );
    check(
        "services: {a: {image: i}}\nsecrets: {s: {external: true}}\n",
        "secrets.s.external: not supported",
    );
    check("include: [gone.yaml]\nservices: {a: {image: i}}\n", "include[0]: cannot read gone.yaml");
}
