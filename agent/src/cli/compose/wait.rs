//! Waits until what a service depends on is far enough.

use std::time::Duration;

use anyhow::Context as _;
use bollard::Docker;
use bollard::models::{ContainerState, ContainerStateStatusEnum, HealthStatusEnum};
use bollard::query_parameters as query;
use futures_util::StreamExt as _;
use tenantry_compose::Condition;

/// Between two looks at a container that is on its way.
const LOOKS: Duration = Duration::from_millis(100);

/// Until `container` is what `condition` says; an error if it cannot be any more.
pub async fn until(docker: &Docker, container: &str, condition: Condition) -> anyhow::Result<()> {
    match condition {
        Condition::Started => Ok(()),
        Condition::Completed => completed(docker, container).await,
        Condition::Healthy => loop {
            match judged(&state(docker, container).await?) {
                Verdict::Well => return Ok(()),
                Verdict::Waiting => tokio::time::sleep(LOOKS).await,
                Verdict::Lost(why) => anyhow::bail!("{container} {why}"),
            }
        },
    }
}

async fn completed(docker: &Docker, container: &str) -> anyhow::Result<()> {
    loop {
        let state = state(docker, container).await?;
        if let Some(code) = ended(&state) {
            anyhow::ensure!(code == 0, "{container} did not complete: it exited with code {code}");
            return Ok(());
        }
        if state.running == Some(true) {
            // Its answer says that one run ended; whether it was the last one, the state says.
            let options = query::WaitContainerOptionsBuilder::new().condition("not-running");
            let mut answers = docker.wait_container(container, Some(options.build()));
            let _ = answers.next().await;
        } else {
            tokio::time::sleep(LOOKS).await;
        }
    }
}

/// With which code a container ran to its end; `None` if it never ran, runs, or will run again.
fn ended(state: &ContainerState) -> Option<i64> {
    match state.status {
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => {
            Some(state.exit_code.unwrap_or_default())
        }
        _ => None,
    }
}

/// Until a container runs, and is well if it is asked about that.
pub async fn until_up(docker: &Docker, container: &str) -> anyhow::Result<()> {
    let config = docker.inspect_container(container, None::<query::InspectContainerOptions>);
    let has_health = config.await?.state.and_then(|state| state.health).is_some();
    match has_health {
        true => until(docker, container, Condition::Healthy).await,
        false => {
            let state = state(docker, container).await?;
            let code = state.exit_code.unwrap_or_default();
            anyhow::ensure!(state.running == Some(true), "{container} exited with code {code}");
            Ok(())
        }
    }
}

async fn state(docker: &Docker, container: &str) -> anyhow::Result<ContainerState> {
    let inspected =
        docker.inspect_container(container, None::<query::InspectContainerOptions>).await?;
    inspected.state.context("the agent's answer has no state")
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Well,
    Waiting,
    Lost(String),
}

fn judged(state: &ContainerState) -> Verdict {
    let health = state.health.as_ref().and_then(|health| health.status);
    if state.running != Some(true) && state.restarting != Some(true) {
        let code = state.exit_code.unwrap_or_default();
        return Verdict::Lost(format!("is not healthy: it exited with code {code}"));
    }
    match health {
        Some(HealthStatusEnum::HEALTHY) => Verdict::Well,
        Some(HealthStatusEnum::UNHEALTHY) => Verdict::Lost("is unhealthy".into()),
        Some(HealthStatusEnum::STARTING) => Verdict::Waiting,
        _ => Verdict::Lost("has no health check to wait for".into()),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::Health;

    use super::*;

    #[test]
    fn only_what_ran_and_will_not_run_again_is_over() {
        use ContainerStateStatusEnum as Status;
        let check = |status, exit_code, expected| {
            let state = ContainerState {
                status: Some(status),
                running: Some(status == Status::RUNNING),
                exit_code: Some(exit_code),
                finished_at: Some("0001-01-01T00:00:00Z".into()),
                ..ContainerState::default()
            };
            assert_eq!(ended(&state), expected, "{status}");
        };
        check(Status::CREATED, 0, None);
        check(Status::RUNNING, 0, None);
        check(Status::PAUSED, 0, None);
        check(Status::RESTARTING, 1, None);
        check(Status::EXITED, 0, Some(0));
        check(Status::EXITED, 3, Some(3));
    }

    #[test]
    fn a_container_is_waited_for_while_it_can_become_healthy() {
        let state = |running, status: Option<HealthStatusEnum>| ContainerState {
            running: Some(running),
            health: status.map(|status| Health { status: Some(status), ..Health::default() }),
            exit_code: Some(3),
            ..ContainerState::default()
        };
        assert_eq!(judged(&state(true, Some(HealthStatusEnum::HEALTHY))), Verdict::Well);
        assert_eq!(judged(&state(true, Some(HealthStatusEnum::STARTING))), Verdict::Waiting);
        let lost = |verdict: Verdict| matches!(verdict, Verdict::Lost(_));
        assert!(lost(judged(&state(true, Some(HealthStatusEnum::UNHEALTHY)))));
        assert!(lost(judged(&state(true, None))));
        let ended = judged(&state(false, Some(HealthStatusEnum::STARTING)));
        assert_eq!(ended, Verdict::Lost("is not healthy: it exited with code 3".into()));
    }
}
