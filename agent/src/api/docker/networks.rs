//! `/networks`: made, listed, inspected, removed; containers connected and disconnected.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bollard::models::{
    Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};
use serde_json::{Map, Value, json};
use tenantry_container::{Error as EngineError, Snapshot};
use tenantry_network::{CreateNetwork, Driver, Endpoint, NetworkEvent, NetworkRecord, SixWish};

use super::super::Shared;
use super::filters::{FilterQuery, Filters};
use super::networking;
use crate::api::error::{ApiError, ApiResult};
use crate::api::logs::rfc3339;

/// The bridge's name on the host, as Docker's own driver has it.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MTU: &str = "com.docker.network.driver.mtu";

pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<FilterQuery>,
) -> ApiResult<Json<Vec<Value>>> {
    let allowed = ["dangling", "driver", "id", "label", "name", "scope", "type"];
    let filters = Filters::parse(query.filters.as_deref(), &allowed)?;
    let dangling = filters.flag("dangling")?;
    for kind in filters.of("type") {
        if !matches!(kind.as_str(), "custom" | "builtin") {
            return Err(ApiError::invalid("type", kind, "custom or builtin"));
        }
    }
    let containers = app.engine.list();
    let is_used = |network: &NetworkRecord| containers.iter().any(|one| is_on(one, network));
    let mut networks = app.engine.networks().list();
    networks.retain(|network| {
        let kind = if network.is_predefined() { "builtin" } else { "custom" };
        filters.any("name", |name| network.name.contains(name))
            && filters.any("id", |id| network.id.starts_with(id))
            && filters.any("driver", |driver| network.driver.as_str() == driver)
            && filters.any("scope", |scope| scope == "local")
            && filters.any("type", |wanted| wanted == kind)
            && filters.labels_fit(&network.labels)
            // Docker never counts its own among them.
            && dangling.is_none_or(|wanted| {
                wanted != (network.is_predefined() || is_used(network))
            })
    });
    Ok(Json(networks.iter().map(|network| render(network, &containers)).collect()))
}

pub async fn inspect(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let network = app.engine.networks().find(&id)?;
    Ok(Json(render(&network, &app.engine.list())))
}

pub async fn create(
    State(app): State<Shared>,
    body: Result<Json<NetworkCreateRequest>, JsonRejection>,
) -> ApiResult<Response> {
    let Json(body) = body.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    let made = app.engine.networks().create(request_of(body)?).await?;
    let answer = Json(json!({ "Id": made.id, "Warning": "" }));
    Ok((StatusCode::CREATED, answer).into_response())
}

pub async fn remove(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.networks().remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Those that no running container is on.
pub async fn prune(
    State(app): State<Shared>,
    Query(query): Query<FilterQuery>,
) -> ApiResult<Json<Value>> {
    let filters = Filters::parse(query.filters.as_deref(), &["label", "label!", "until"])?;
    let until = filters.until(jiff::Timestamp::now())?;
    let containers = app.engine.list();
    let mut removed = Vec::new();
    for network in app.engine.networks().list() {
        let created_s = (network.created_unix_ns / 1_000_000_000) as i64;
        let fits = !network.is_predefined()
            && filters.labels_fit(&network.labels)
            && until.is_none_or(|until| created_s < until)
            && !containers.iter().any(|one| is_on(one, &network));
        if !fits {
            continue;
        }
        match app.engine.networks().remove(&network.id).await {
            Ok(network) => removed.push(network.name),
            // A container came meanwhile.
            Err(error) => tracing::info!(network = network.name, %error, "not pruned"),
        }
    }
    Ok(Json(json!({ "NetworksDeleted": removed })))
}

pub async fn connect(
    State(app): State<Shared>,
    Path(id): Path<String>,
    body: Result<Json<NetworkConnectRequest>, JsonRejection>,
) -> ApiResult<StatusCode> {
    let Json(body) = body.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    let network = app.engine.networks().find(&id)?;
    if network.driver != Driver::Bridge {
        let what = "container cannot be connected to host network or to none";
        return Err(ApiError::new(StatusCode::FORBIDDEN, what));
    }
    let wish = networking::wish(&network.name, body.endpoint_config.unwrap_or_default())?;
    app.engine.connect_network(&body.container, wish).await?;
    Ok(StatusCode::OK)
}

pub async fn disconnect(
    State(app): State<Shared>,
    Path(id): Path<String>,
    body: Result<Json<NetworkDisconnectRequest>, JsonRejection>,
) -> ApiResult<StatusCode> {
    let Json(body) = body.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    let found = app.engine.networks().find(&id);
    // One that was removed is still a wish of containers that rest.
    let name = found.as_ref().map_or(id.as_str(), |network| network.name.as_str());
    let taken_off = app.engine.disconnect_network(&body.container, name).await;
    match (taken_off, found) {
        (Ok(()), _) => Ok(StatusCode::OK),
        // Neither is there such a network, nor was the container to be on it.
        (Err(EngineError::Forbidden(_)), Err(unknown)) => Err(unknown.into()),
        (Err(error), _) => Err(error.into()),
    }
}

fn request_of(body: NetworkCreateRequest) -> ApiResult<CreateNetwork> {
    let asked = [
        ("Ingress", body.ingress == Some(true)),
        ("ConfigOnly", body.config_only == Some(true)),
        (
            "ConfigFrom",
            body.config_from.is_some_and(|from| from.network.is_some_and(|n| !n.is_empty())),
        ),
        ("EnableIPv4", body.enable_ipv4 == Some(false)),
    ];
    if let Some((field, _)) = asked.into_iter().find(|(_, asked)| *asked) {
        return Err(ApiError::unsupported(field, "this"));
    }
    if let Some(driver) =
        body.driver.filter(|driver| !matches!(driver.as_str(), "" | "bridge" | "default"))
    {
        return Err(ApiError::invalid("Driver", driver, "bridge"));
    }
    if let Some(scope) = body.scope.filter(|scope| !matches!(scope.as_str(), "" | "local")) {
        return Err(ApiError::invalid("Scope", scope, "local"));
    }
    let options: BTreeMap<String, String> = body.options.unwrap_or_default().into_iter().collect();
    if let Some(other) = options.keys().find(|name| ![BRIDGE_NAME, MTU].contains(&name.as_str())) {
        return Err(ApiError::invalid("Options", other, format!("{BRIDGE_NAME}, {MTU}")));
    }
    let mtu = parsed(MTU, options.get(MTU).cloned(), "a number of bytes")?;
    let bridge = options.get(BRIDGE_NAME).filter(|name| !name.is_empty()).cloned();
    let labels = body.labels.unwrap_or_default().into_iter().collect();
    let internal = body.internal.unwrap_or(false);
    let six = body.enable_ipv6.unwrap_or(false).then(SixWish::default);
    let name = body.name;
    let plain =
        CreateNetwork { name, internal, six, mtu, bridge, labels, options, ..Default::default() };
    with_ipam(plain, body.ipam.unwrap_or_default())
}

fn with_ipam(plain: CreateNetwork, ipam: Ipam) -> ApiResult<CreateNetwork> {
    if let Some(driver) = ipam.driver.filter(|driver| !matches!(driver.as_str(), "" | "default")) {
        return Err(ApiError::invalid("IPAM.Driver", driver, "default"));
    }
    if ipam.options.is_some_and(|options| !options.is_empty()) {
        return Err(ApiError::unsupported("IPAM.Options", "this"));
    }
    // One of each family; what names no address is the first's.
    let is_six = |pool: &IpamConfig| {
        let named = [&pool.subnet, &pool.gateway, &pool.ip_range].into_iter().flatten();
        named.into_iter().any(|text| text.contains(':'))
    };
    let (sixes, fours): (Vec<_>, Vec<_>) =
        ipam.config.unwrap_or_default().into_iter().partition(is_six);
    if fours.len() > 1 || sixes.len() > 1 {
        let count = fours.len().max(sixes.len());
        return Err(ApiError::invalid("IPAM.Config", count, "one subnet of each family"));
    }
    if fours.iter().chain(&sixes).any(|pool| {
        pool.auxiliary_addresses.as_ref().is_some_and(|addresses| !addresses.is_empty())
    }) {
        return Err(ApiError::unsupported("IPAM.Config.AuxiliaryAddresses", "this"));
    }
    let four = fours.into_iter().next().unwrap_or_default();
    Ok(CreateNetwork {
        subnet: parsed("IPAM.Config.Subnet", four.subnet, "an IPv4 subnet, such as 10.5.0.0/16")?,
        range: parsed(
            "IPAM.Config.IPRange",
            four.ip_range,
            "a part of the subnet, such as 10.5.1.0/24",
        )?,
        gateway: parsed("IPAM.Config.Gateway", four.gateway, "an IPv4 address")?,
        six: match sixes.into_iter().next() {
            Some(six) => Some(with_six(plain.six, six)?),
            None => plain.six,
        },
        ..plain
    })
}

fn with_six(enabled: Option<SixWish>, pool: IpamConfig) -> ApiResult<SixWish> {
    let subnet = pool.subnet.clone().unwrap_or_default();
    if enabled.is_none() {
        let allowed = "an IPv4 subnet, or EnableIPv6 (--ipv6) as well";
        return Err(ApiError::invalid("IPAM.Config.Subnet", subnet, allowed));
    }
    if pool.ip_range.is_some_and(|range| !range.is_empty()) {
        return Err(ApiError::unsupported("IPAM.Config.IPRange", "IPv6"));
    }
    Ok(SixWish {
        subnet: parsed("IPAM.Config.Subnet", pool.subnet, "an IPv6 subnet, such as fd00:5::/64")?,
        gateway: parsed("IPAM.Config.Gateway", pool.gateway, "an IPv6 address")?,
    })
}

fn parsed<T: std::str::FromStr>(
    field: &str,
    text: Option<String>,
    allowed: &str,
) -> ApiResult<Option<T>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ApiError::invalid(field, &text, allowed))
}

fn endpoint_on<'a>(container: &'a Snapshot, network: &NetworkRecord) -> Option<&'a Endpoint> {
    let mut live = container.live.iter().flat_map(|live| live.endpoints());
    live.find(|made| made.network == network.id || made.network_name == network.name)
}

fn is_on(container: &Snapshot, network: &NetworkRecord) -> bool {
    endpoint_on(container, network).is_some()
}

fn render(network: &NetworkRecord, containers: &[Arc<Snapshot>]) -> Value {
    let mut on_it = Map::new();
    for container in containers {
        let Some(made) = endpoint_on(container, network) else { continue };
        let view = json!({
            "Name": container.record.name,
            "EndpointID": networking::endpoint_id(made),
            "MacAddress": made.mac,
            "IPv4Address": format!("{}/{}", made.address, made.prefix),
            "IPv6Address": made.six.map(|six| format!("{}/{}", six.address, six.prefix))
                .unwrap_or_default(),
        });
        on_it.insert(container.record.id.clone(), view);
    }
    let pool = network.subnet.map(|subnet| {
        let mut pool = json!({ "Subnet": subnet.to_string() });
        if let Some(gateway) = network.gateway() {
            pool["Gateway"] = gateway.to_string().into();
        }
        if let Some(range) = network.shape.range {
            pool["IPRange"] = range.to_string().into();
        }
        pool
    });
    let six = network.shape.six.map(
        |six| json!({ "Subnet": six.subnet.to_string(), "Gateway": six.gateway().to_string() }),
    );
    let mut options = network.options.clone();
    if network.name == "bridge"
        && let Some(bridge) = &network.bridge
    {
        options.insert(BRIDGE_NAME.to_owned(), bridge.clone());
        options.insert("com.docker.network.bridge.default_bridge".to_owned(), "true".to_owned());
    }
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_unix_ns),
        "Scope": "local",
        "Driver": network.driver.as_str(),
        "EnableIPv4": true,
        "EnableIPv6": six.is_some(),
        "IPAM": {
            "Driver": "default",
            "Options": null,
            "Config": pool.into_iter().chain(six).collect::<Vec<_>>(),
        },
        "Internal": network.shape.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": on_it,
        "Options": options,
        "Labels": network.labels,
    })
}

pub fn render_event(event: &NetworkEvent) -> Value {
    let mut attributes = json!({ "name": event.name, "type": event.driver.as_str() });
    if let Some(container) = &event.container {
        attributes["container"] = container.as_str().into();
    }
    json!({
        "Type": "network",
        "Action": event.action.as_str(),
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": "local",
        "time": event.unix_ns / 1_000_000_000,
        "timeNano": event.unix_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> ApiResult<CreateNetwork> {
        request_of(serde_json::from_value(body).unwrap())
    }

    #[test]
    fn what_docker_network_create_sends_becomes_a_request() {
        let request = parse(json!({
            "Name": "web", "Driver": "bridge", "Scope": "", "Internal": true, "Attachable": false,
            "EnableIPv6": false, "Options": {}, "Labels": { "a": "b" },
            "IPAM": { "Driver": "default", "Options": {}, "Config": [
                { "Subnet": "10.5.0.0/16", "IPRange": "10.5.1.0/24", "Gateway": "10.5.0.9" },
            ] },
        }))
        .unwrap();
        assert_eq!(request.name, "web");
        assert!(request.internal && request.labels["a"] == "b");
        assert_eq!(request.subnet.unwrap().to_string(), "10.5.0.0/16");
        assert_eq!(request.range.unwrap().to_string(), "10.5.1.0/24");
        assert_eq!(request.gateway.unwrap().to_string(), "10.5.0.9");
        assert_eq!(parse(json!({ "Name": "x" })).unwrap().subnet, None);
    }

    fn six(pool: Value) -> Value {
        json!({ "Name": "x", "EnableIPv6": true, "IPAM": { "Config": [pool] } })
    }

    #[test]
    fn ipv6_is_drawn_where_no_subnet_is_named_and_stands_beside_ipv4() {
        let drawn = parse(json!({ "Name": "x", "EnableIPv6": true })).unwrap();
        assert_eq!((drawn.six, drawn.subnet), (Some(SixWish::default()), None));
        let named = parse(six(json!({ "Subnet": "fd00:5::/64", "Gateway": "fd00:5::9" }))).unwrap();
        let wish = named.six.unwrap();
        assert_eq!(wish.subnet.unwrap().to_string(), "fd00:5::/64");
        assert_eq!(wish.gateway.unwrap().to_string(), "fd00:5::9");
        assert_eq!(named.subnet, None);
        assert_eq!(parse(json!({ "Name": "x" })).unwrap().six, None);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (body, field) in [
            (json!({ "Name": "x", "Driver": "overlay" }), "Driver"),
            (
                json!({ "Name": "x", "IPAM": { "Config": [{ "Subnet": "fd00:5::/64" }] } }),
                "EnableIPv6",
            ),
            (six(json!({ "Subnet": "fd00:5::1/64" })), "Subnet"),
            (six(json!({ "Subnet": "fd00:5::/64", "IPRange": "fd00:5::/80" })), "IPRange"),
            (json!({ "Name": "x", "Options": { "mtu": "9000" } }), "Options"),
            (json!({ "Name": "x", "Options": { MTU: "large" } }), "driver.mtu"),
            (json!({ "Name": "x", "IPAM": { "Config": [{ "Subnet": "10.5.0.1/16" }] } }), "Subnet"),
            (json!({ "Name": "x", "IPAM": { "Config": [{}, {}] } }), "IPAM.Config"),
            (json!({ "Name": "x", "IPAM": { "Driver": "dhcp" } }), "IPAM.Driver"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.message.contains(field), "{}", error.message);
        }
    }
}
