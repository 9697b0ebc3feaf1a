//! Starts that fail leave nothing but the container itself, and say why.

use tenantry_container::{
    BindRequest, CreateRequest, Error, Limit, NetworkMode, RestartPolicy, State,
};

use crate::house::{self, command, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_nothing_behind() {
    let Some(house) = house::open().await else { return };
    let bridged = |args: &[&str]| {
        let mut request = command(args);
        request.config.network = NetworkMode::Bridge;
        request
    };
    let mut unbound = bridged(&["true"]);
    unbound.config.binds = vec![BindRequest {
        source: "/does/not/exist".into(),
        target: "/x".into(),
        read_only: false,
        propagation: Default::default(),
    }];
    let mut into_a_file = bridged(&["true"]);
    into_a_file.config.working_dir = Some("/etc/passwd".into());
    for (request, code, words) in [
        (bridged(&["/no/such/program"]), Some(127), "/no/such/program"),
        (bridged(&["fly"]), Some(127), "fly"),
        (bridged(&["/bin/not-executable"]), Some(126), "not-executable"),
        (unbound, None, "/does/not/exist"),
        (into_a_file, None, "/etc/passwd"),
    ] {
        let id = house.engine.create(request).await.unwrap();
        let error = house.engine.start(&id).await.expect_err(words);
        assert_eq!(error.exit_code(), code, "{}", error.chain());
        assert!(error.chain().contains(words), "{}", error.chain());
        let snapshot = house.engine.get(&id).unwrap();
        assert_eq!(snapshot.record.state, State::Created);
        assert!(snapshot.record.ended.as_ref().unwrap().error.is_some());
        house.expect_nothing_left().await;
    }
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_refused_fails_the_start_and_the_next_one_works() {
    let Some(house) = house::open().await else { return };
    let id = house.engine.create(command(&["sleep", "60"])).await.unwrap();
    *house.registrar.refuse.lock().unwrap() = true;
    let error = house.engine.start(&id).await.unwrap_err();
    assert!(error.chain().contains("no slot is free"), "{}", error.chain());
    house.expect_nothing_left().await;
    house.engine.start(&id).await.unwrap();
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_caller_goes_away_is_whole_or_nothing() {
    let Some(house) = house::open().await else { return };
    for _ in 0..5 {
        let id = house.engine.create(command(&["sleep", "60"])).await.unwrap();
        let start = house.engine.start(&id);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), start).await;
        house.engine.remove(&id, true).await.unwrap();
    }
    house.expect_nothing_left().await;
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_names_field_and_what_is_allowed_and_makes_nothing() {
    let Some(house) = house::open().await else { return };
    let refused = async |change: fn(&mut CreateRequest), field: &str| {
        let mut request = script("true");
        change(&mut request);
        match house.engine.create(request).await {
            Err(Error::Invalid { field: named, allowed, .. }) => {
                assert_eq!(named, field);
                assert!(!allowed.is_empty());
            }
            other => panic!("{field}: {other:?}"),
        }
    };
    refused(|r| r.limits.cpus = Some(Limit::Value(0.001)), "cpus").await;
    refused(|r| r.limits.cpus = Some(Limit::Value(1e9)), "cpus").await;
    refused(|r| r.limits.memory_bytes = Some(Limit::Value(4096)), "memory_bytes").await;
    refused(|r| r.limits.pids = Some(Limit::Value(0)), "pids").await;
    refused(|r| r.limits.cpuset_cpus = Some("0-99999".into()), "cpuset_cpus").await;
    refused(|r| r.limits.egress_bits_per_s = Some(Limit::Value(1 << 30)), "limits").await;
    refused(|r| r.config.user = Some("nobody-here".into()), "user").await;
    refused(|r| r.config.cap_add = vec!["FLY".into()], "cap_add").await;
    refused(
        |r| {
            r.config.auto_remove = true;
            r.config.restart = RestartPolicy::Always;
        },
        "restart policy",
    )
    .await;
    let mut request = script("true");
    request.image = "no-such-image".into();
    assert!(matches!(house.engine.create(request).await, Err(Error::Image { .. })));
    assert!(house.engine.list().is_empty());
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_containers_is_bounded_and_the_error_says_so() {
    let Some(house) = house::open().await else { return };
    for _ in 0..100 {
        let mut request = command(&["true"]);
        request.config.auto_remove = true;
        house.engine.create(request).await.unwrap();
    }
    let error = house.engine.create(command(&["true"])).await.unwrap_err();
    assert!(error.to_string().contains("max_containers"), "{error}");
    house.demolish().await;
}
