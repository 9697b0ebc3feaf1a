//! `tenantry connections`: whom a container talks to over TCP.

use clap::Args;

use super::Target;
use super::table;
use crate::api::native::connections::{Connections, Destination};

#[derive(Debug, Args)]
pub struct ConnectionsFlags {
    /// Name, id or its beginning.
    container: String,
    /// Print the agent's answer as it is.
    #[arg(long)]
    json: bool,
}

pub async fn connections(target: &Target, flags: ConnectionsFlags) -> anyhow::Result<()> {
    let path = format!("/v1/containers/{}/connections", flags.container);
    let answer: Connections = target.native().get(&path).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    print!("{}", render(&answer.destinations));
    println!("{} open", answer.open);
    Ok(())
}

fn render(destinations: &[Destination]) -> String {
    let header = ["DIRECTION", "ADDRESS", "PORT", "CONNECTIONS", "FAILURES", "SENT", "RECEIVED"];
    let rows: Vec<Vec<String>> = destinations
        .iter()
        .map(|one| {
            vec![
                one.direction.clone(),
                one.address.clone(),
                if one.port == 0 { "-".into() } else { one.port.to_string() },
                one.connections.to_string(),
                one.failures.to_string(),
                table::bytes(one.sent_bytes),
                table::bytes(one.received_bytes),
            ]
        })
        .collect();
    table::render(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_destination() {
        let one = Destination {
            direction: "outgoing".into(),
            address: "10.0.0.1".into(),
            port: 5432,
            connections: 3,
            sent_bytes: 2048,
            ..Destination::default()
        };
        let text = render(&[one]);
        assert_eq!(text.lines().count(), 2);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["outgoing", "10.0.0.1", "5432", "3", "0", "2.0", "KiB", "0", "B"]);
    }
}
