//! Create, start, wait, stop, kill, exec, remove.

use std::time::{Duration, Instant};

use tenantry_container::{
    Action, BindRequest, Error, ExecRequest, NetworkMode, State, WaitCondition,
};

use crate::house::{self, command, exec_stdio, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_and_its_exit_code_and_output_are_kept() {
    let Some(house) = house::open().await else { return };
    for (text, code, out, err) in [
        ("echo out; echo err >&2; exit 7", 7, "out\n", "err\n"),
        ("exit 0", 0, "", ""),
        ("kill -TERM $$; sleep 5", 143, "", ""),
        ("kill -KILL $$; sleep 5", 137, "", ""),
    ] {
        // A shell that is not pid 1, whom the kernel shields from its own signals.
        let text = format!("sh -c '{text}'; exit $?");
        let id = house.engine.create(script(&text)).await.unwrap();
        let waiting = {
            let (engine, id) = (house.engine.clone(), id.clone());
            tokio::spawn(async move { engine.wait(&id, WaitCondition::NextExit).await })
        };
        tokio::task::yield_now().await;
        house.engine.start(&id).await.unwrap();
        let status = waiting.await.unwrap().unwrap();
        assert_eq!(status.code, code, "{text}");
        let (stdout, stderr) = house.output(&id);
        assert_eq!(stdout, out, "{text}");
        assert!(stderr.starts_with(err), "{text}: {stderr}");
        let snapshot = house.engine.get(&id).unwrap();
        assert_eq!(snapshot.record.state, State::Exited);
        assert!(snapshot.live.is_none());
    }
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_where_and_what_it_was_asked_to_be() {
    let Some(house) = house::open().await else { return };
    let bound = tempfile::tempdir().unwrap();
    std::fs::write(bound.path().join("file"), "bound").unwrap();
    let mut request = script(
        "id -u; id -g; pwd; hostname; echo $X; cat /b/file; touch /b/x || echo ro; cat /etc/hostname; sleep 60",
    );
    request.name = Some("web".into());
    request.config.user = Some("app".into());
    request.config.working_dir = Some("/srv".into());
    request.config.hostname = Some("flat-7".into());
    request.config.env = vec!["X=y".into()];
    request.config.binds = vec![BindRequest {
        source: bound.path().display().to_string(),
        target: "/b".into(),
        read_only: true,
        propagation: Default::default(),
    }];
    let id = house.start(request).await;
    let expected = "1000\n1000\n/srv\nflat-7\ny\nboundro\nflat-7\n";
    wait_for_output(&house, &id, expected).await;
    let snapshot = house.engine.get("web").unwrap();
    assert_eq!(snapshot.record.id, id);
    let live = snapshot.live.as_ref().unwrap();
    for kind in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let theirs = format!("{kind}:[{}]", live.namespaces[kind]);
        assert_ne!(own.to_str().unwrap(), theirs, "{kind}");
    }
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", live.pid)).unwrap();
    assert!(
        cgroups.lines().all(|line| line.contains(&id) || !line.contains("memory")),
        "{cgroups}"
    );
    assert_eq!(house.registrar.registered.lock().unwrap()[&id], live.cgroup);
    assert!(matches!(house.engine.start(&id).await, Err(Error::Conflict(_))));
    assert!(matches!(house.engine.remove(&id, false).await, Err(Error::Conflict(_))));
    assert!(house.engine.get(&id[..6]).is_ok());
    assert!(matches!(house.engine.get("nobody"), Err(Error::NotFound { .. })));
    let mut twin = script("true");
    twin.name = Some("web".into());
    assert!(matches!(house.engine.create(twin).await, Err(Error::Conflict(_))));
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ignores_its_stop_signal_is_killed_after_the_grace() {
    let Some(house) = house::open().await else { return };
    let stubborn = house.start(script("trap '' TERM; while :; do sleep 0.1; done")).await;
    let begun = Instant::now();
    house.engine.stop(&stubborn, Some(Duration::from_millis(300))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let ended = house.engine.get(&stubborn).unwrap().record.ended.clone().unwrap();
    assert_eq!((ended.code, ended.signal), (137, Some(9)));

    let polite = house.start(script("trap 'exit 5' INT; while :; do sleep 0.05; done")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    house.engine.kill(&polite, 2).await.unwrap();
    let status = house.engine.wait(&polite, WaitCondition::NotRunning).await.unwrap();
    assert_eq!(status.code, 5);
    // Neither is running any more: stop is content, kill is not.
    house.engine.stop(&polite, None).await.unwrap();
    assert!(matches!(house.engine.kill(&polite, 9).await, Err(Error::Conflict(_))));
    house.engine.restart(&polite, None).await.unwrap();
    assert_eq!(house.engine.get(&polite).unwrap().record.state, State::Running);
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_inside_with_its_own_user_and_output() {
    let Some(house) = house::open().await else { return };
    let id = house.start(command(&["sleep", "60"])).await;
    let dir = tempfile::tempdir().unwrap();
    let exec = |args: &[&str], user: Option<&str>| ExecRequest {
        args: args.iter().map(ToString::to_string).collect(),
        user: user.map(str::to_owned),
        env: vec!["A=b".into()],
        working_dir: None,
    };
    let request = exec(&["sh", "-c", "id -u; id -G; echo $A $HOME; exit 3"], Some("app"));
    let handle = house.engine.exec(&id, request, exec_stdio(dir.path())).await.unwrap();
    assert!(handle.pid > 1);
    assert_eq!(handle.wait().await.unwrap().code, 3);
    assert_eq!(std::fs::read_to_string(dir.path().join("out")).unwrap(), "1000\n1000 4\nb /srv\n");

    let long = exec(&["sleep", "60"], None);
    let handle = house.engine.exec(&id, long, exec_stdio(dir.path())).await.unwrap();
    handle.signal(9).await.unwrap();
    assert_eq!(handle.wait().await.unwrap().signal, Some(9));

    let missing = house.engine.exec(&id, exec(&["fly"], None), exec_stdio(dir.path())).await;
    assert_eq!(missing.unwrap_err().exit_code(), Some(127));
    let nobody = house.engine.exec(&id, exec(&["true"], Some("x")), exec_stdio(dir.path())).await;
    assert!(matches!(nobody, Err(Error::Invalid { .. })));
    house.engine.stop(&id, Some(Duration::ZERO)).await.unwrap();
    let late = house.engine.exec(&id, exec(&["true"], None), exec_stdio(dir.path())).await;
    assert!(matches!(late, Err(Error::Conflict(_))));
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_reaches_the_program_and_ends() {
    let Some(house) = house::open().await else { return };
    let mut request = command(&["wc", "-c"]);
    request.config.open_stdin = true;
    let id = house.engine.create(request).await.unwrap();
    let stdin = house.engine.stdin(&id).unwrap().expect("the writing end");
    assert!(house.engine.stdin(&id).unwrap().is_none(), "only once");
    house.engine.start(&id).await.unwrap();
    rustix::io::write(&stdin, b"12345").unwrap();
    drop(stdin);
    let status = house.engine.wait(&id, WaitCondition::NotRunning).await.unwrap();
    assert_eq!((status.code, house.output(&id).0.trim()), (0, "5"));
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_all_run_and_nothing_is_left() {
    let Some(house) = house::open().await else { return };
    let mut events = house.engine.subscribe();
    let runs = (0..50).map(|number| {
        let engine = house.engine.clone();
        tokio::spawn(async move {
            let mut request = script(&format!("exit {}", number % 7));
            request.config.auto_remove = true;
            request.config.network = NetworkMode::Bridge;
            let id = engine.create(request).await.unwrap();
            let removed = {
                let (engine, id) = (engine.clone(), id.clone());
                tokio::spawn(async move { engine.wait(&id, WaitCondition::Removed).await })
            };
            tokio::task::yield_now().await;
            engine.start(&id).await.unwrap_or_else(|error| panic!("{}", error.chain()));
            // Awaited before or after: the status is the same.
            (number % 7, removed.await.unwrap().map(|status| status.code))
        })
    });
    for run in runs.collect::<Vec<_>>() {
        let (expected, code) = run.await.unwrap();
        assert_eq!(code.ok(), Some(expected));
    }
    assert!(house.engine.list().is_empty());
    let mut counts = std::collections::HashMap::new();
    while let Ok(event) = events.try_recv() {
        *counts.entry(event.action).or_insert(0) += 1;
    }
    for action in [Action::Create, Action::Start, Action::Die, Action::Destroy] {
        assert_eq!(counts[&action], 50, "{action:?}");
    }
    assert_eq!(house.registrar.forgotten.lock().unwrap().len(), 50);
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridged_container_has_its_address_and_keeps_it() {
    let Some(house) = house::open().await else { return };
    let mut request = script("cat /etc/hosts; sleep 60");
    request.config.network = NetworkMode::Bridge;
    let id = house.start(request).await;
    let address = |house: &house::House| {
        let live = house.engine.get(&id).unwrap().live.clone();
        live.unwrap().endpoint.unwrap().address
    };
    let first = address(&house);
    let line = format!("{first}\t{}\n", &id[..12]);
    wait_for(|| house.output(&id).0.contains(&line)).await;
    house.engine.restart(&id, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(address(&house), first);
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_namespace_maps_root_to_nobody_special() {
    let Some(house) = house::open().await else { return };
    let mut request = script("id -u; touch /made && ls -n /made | wc -l; sleep 60");
    request.config.user_namespace = true;
    let id = house.start(request).await;
    wait_for_output(&house, &id, "0\n1\n").await;
    let pid = house.engine.get(&id).unwrap().live.as_ref().unwrap().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t1879048192\t"), "{status}");
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_directory_may_be_longer_than_a_sockets_address() {
    let Some(mut house) = house::open_with_run_dir(&"long/".repeat(30)).await else { return };
    let id = house.start(command(&["sleep", "60"])).await;
    house.reopen().await;
    house.engine.stop(&id, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(house.engine.get(&id).unwrap().record.ended.as_ref().unwrap().code, 137);
    house.demolish().await;
}

pub async fn wait_for(condition: impl Fn() -> bool) {
    let patience = Instant::now() + house::PATIENCE;
    while !condition() {
        assert!(Instant::now() < patience, "it did not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for_output(house: &house::House, id: &str, expected: &str) {
    let patience = Instant::now() + house::PATIENCE;
    loop {
        let (stdout, stderr) = house.output(id);
        if stdout == expected {
            return;
        }
        assert!(Instant::now() < patience, "{stdout:?} {stderr:?}, expected {expected:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
