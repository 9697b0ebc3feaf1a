//! One error for both APIs: a status, a sentence, and where there is one the
//! field, its value and what is allowed.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ApiError {
    #[serde(skip)]
    pub status: StatusCode,
    /// One sentence for a person; Docker's clients print it.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), field: None, value: None, allowed: None }
    }

    pub fn invalid(
        field: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        let (field, value, allowed) = (field.into(), value.to_string(), allowed.into());
        Self {
            status: StatusCode::BAD_REQUEST,
            message: format!("{field} {value:?} is not allowed: {allowed}"),
            field: Some(field),
            value: Some(value),
            allowed: Some(allowed),
        }
    }

    /// For what Docker has and this agent does not.
    pub fn unsupported(field: &str, what: &str) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(StatusCode::NOT_IMPLEMENTED, format!("{field}: {what} is not supported"))
        }
    }

    /// A fault of ours or of the kernel, not of the request.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<tenantry_container::Error> for ApiError {
    fn from(error: tenantry_container::Error) -> Self {
        use tenantry_container::Error;
        let message = error.chain();
        let on_network = error.network().map(network_status);
        match error {
            Error::NotFound { .. } | Error::NoVolume { .. } => {
                Self::new(StatusCode::NOT_FOUND, message)
            }
            // Docker's clients offer to pull on 404, which is right for an unknown image.
            Error::Image { .. } => Self::new(StatusCode::NOT_FOUND, message),
            Error::Ambiguous { .. } => Self::new(StatusCode::BAD_REQUEST, message),
            Error::Program { program, source } => {
                // Clients find their exit code, 127 or 126, by these very words.
                let why = match source.kind() {
                    std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                    std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                    _ => source.to_string(),
                };
                let message = format!("cannot execute {program} in the container: {why}");
                Self::new(StatusCode::BAD_REQUEST, message)
            }
            Error::Conflict(_) => Self::new(StatusCode::CONFLICT, message),
            Error::Invalid { field, value, allowed } => Self::invalid(field, value, allowed),
            Error::Unsupported { .. } => Self::new(StatusCode::NOT_IMPLEMENTED, message),
            Error::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, message),
            Error::Failed { .. } => {
                Self::new(on_network.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message)
            }
        }
    }
}

/// Docker's codes.
fn network_status(error: &tenantry_network::Error) -> StatusCode {
    use tenantry_network::Error;
    match error {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        Error::Ambiguous { .. } | Error::Invalid { .. } | Error::AddressOutside { .. } => {
            StatusCode::BAD_REQUEST
        }
        Error::NameTaken { .. } => StatusCode::CONFLICT,
        Error::InUse { .. }
        | Error::Predefined { .. }
        | Error::Overlap { .. }
        | Error::AddressTaken { .. }
        | Error::NoIpv6 { .. }
        | Error::Closed { .. }
        | Error::ForeignLink { .. }
        | Error::NoFreeSubnet { .. }
        | Error::TooMany { .. } => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<tenantry_network::Error> for ApiError {
    fn from(error: tenantry_network::Error) -> Self {
        match error {
            tenantry_network::Error::Invalid { field, value, allowed } => {
                Self::invalid(field, value, allowed)
            }
            error => Self::new(network_status(&error), chain(&error)),
        }
    }
}

impl From<tenantry_image::Error> for ApiError {
    fn from(error: tenantry_image::Error) -> Self {
        use tenantry_image::ErrorKind;
        let status = match error.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, chain(&error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = %self.message, "request failed");
        }
        (self.status, Json(self)).into_response()
    }
}

/// An error with all its sources in one line, each said once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
