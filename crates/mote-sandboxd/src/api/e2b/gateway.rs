//! Which requests are for a sandbox, who may send them, and the way inside.
//!
//! A sandbox is addressed by E2B's headers through any name of the daemon, or by the host name `PORT-ID.DOMAIN`. Requests
//! that are addressed to none go on to the control plane. It serves nothing itself.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::State;
use serde_json::json;
use tower::ServiceExt as _;

use super::{CODE_PORT, E2b, ENVD_PORT, ended, signature};
use crate::api::observe::Route;
use crate::api::preview;
use crate::guest::Guest;

/// A port of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) sandbox: String,
    pub(super) port: u16,
}

/// A sandbox that a request has reached, in the request's extensions.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    pub(super) sandbox: String,
    pub(super) guest: Guest,
}

/// What serves the ports that are the daemon's own.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) envd: Router,
    pub(super) code: Router,
}

/// The way into sandboxes; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    pub(super) e2b: E2b,
    pub(super) ports: Arc<Ports>,
}

/// The address in a request's headers or host name, where it has one.
pub(super) fn address(headers: &HeaderMap, uri: &Uri, domain: &str) -> Option<Address> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(sandbox) = text("e2b-sandbox-id") {
        let port = text("e2b-sandbox-port").and_then(|port| port.parse().ok()).unwrap_or(ENVD_PORT);
        return Some(Address { sandbox: sandbox.to_owned(), port });
    }
    let host = text(header::HOST.as_str()).or_else(|| uri.host())?;
    preview::target(host, domain).map(|(port, sandbox)| Address { sandbox, port })
}

/// Sends a request where it is addressed.
pub(super) async fn direct(
    axum::extract::State(gateway): axum::extract::State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let Gateway { e2b, ports } = gateway;
    let mut address = address(request.headers(), request.uri(), &e2b.api.domain);
    if address.is_none() && request.uri().path() == "/files" && signature::is_signed(request.uri()) {
        // A signed address carries no sandbox where the client goes through one gateway: its token is found by the signature.
        match signature::owner(&e2b, &request) {
            Ok(owner) => address = owner.map(|sandbox| Address { sandbox, port: ENVD_PORT }),
            Err(failure) => return super::failure::Refused(failure).into_response(),
        }
    }
    match address {
        Some(address) => reach(&e2b, &ports, address, request).await,
        None => next.run(request).await,
    }
}

/// Sends a request inside, and names the route of an answer that no pattern of the port gave.
async fn reach(e2b: &E2b, ports: &Ports, address: Address, request: Request) -> Response {
    let route = match address.port {
        ENVD_PORT if request.uri().path() == "/health" => ":49983/health",
        ENVD_PORT => ":49983",
        CODE_PORT => ":49999",
        _ => "preview",
    };
    let mut response = inside(e2b, ports, address, request).await;
    response.extensions_mut().insert(Route(route));
    response
}

async fn inside(e2b: &E2b, ports: &Ports, address: Address, mut request: Request) -> Response {
    let Address { sandbox, port } = address;
    if port == ENVD_PORT && request.uri().path() == "/health" {
        // Whether it runs is asked without a token, and does not wake it.
        return match e2b.api.sandboxes.get(&sandbox) {
            Ok(told) if told.state.is_usable() => StatusCode::NO_CONTENT.into_response(),
            Ok(told) => absent(&sandbox, &format!("it is {}", told.state)),
            Err(_) => absent(&sandbox, "it does not exist or has ended"),
        };
    }
    match e2b.api.sandboxes.get(&sandbox) {
        Ok(told) if matches!(told.state, State::Gone | State::Stopping) => {
            return absent(&sandbox, &format!("it is {}", told.state));
        }
        Ok(_) => {}
        Err(failure) => return absent(&sandbox, &failure.message),
    }
    if let Err(failure) = admit(e2b, &sandbox, port, &mut request) {
        return super::failure::Refused(failure).into_response();
    }
    if !matches!(port, ENVD_PORT | CODE_PORT) {
        return preview(e2b, &sandbox, port, request).await;
    }
    let guest = match e2b.api.sandboxes.awake(&sandbox).await {
        Ok(guest) => guest,
        Err(failure) => return unreachable(&sandbox, &failure),
    };
    let path = request.uri().path().to_owned();
    let router = if port == ENVD_PORT {
        request.extensions_mut().insert(Inside { sandbox: sandbox.clone(), guest });
        &ports.envd
    } else {
        let interpreter = e2b.interpreter.clone();
        request.extensions_mut().insert(crate::api::code::Desk { interpreter, sandbox: sandbox.clone(), guest });
        &ports.code
    };
    let response = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    if ended::is_stream(&path, &response) { ended::broken_off(e2b, &sandbox, response) } else { response }
}

/// A preview. E2B's names for the token and the address are the gateway's: what runs inside sees neither. By host name, too,
/// it fails in E2B's shapes: whoever asks for a page reads the status and the message.
async fn preview(e2b: &E2b, sandbox: &str, port: u16, mut request: Request) -> Response {
    let headers = request.headers_mut();
    if let Some(token) = headers.remove("e2b-traffic-access-token") {
        headers.insert(preview::TOKEN_HEADER, token);
    }
    for name in ["e2b-sandbox-id", "e2b-sandbox-port"] {
        headers.remove(name);
    }
    match preview::preview(&e2b.api, sandbox, port, request).await {
        Ok(response) => response,
        Err(failure) if matches!(failure.code, Code::Forbidden | Code::Exhausted) => {
            super::failure::Refused(failure).into_response()
        }
        Err(failure)
            if failure.code == Code::NotFound && failure.context.get("kind").is_none_or(|kind| kind != "sandbox") =>
        {
            let message = "The sandbox is running but port is not open";
            let why = &failure.message;
            let body = json!({ "sandboxId": sandbox, "message": message, "port": port, "code": 502, "reason": why });
            (StatusCode::BAD_GATEWAY, axum::Json(body)).into_response()
        }
        Err(failure) => unreachable(sandbox, &failure),
    }
}

/// Who may use a port: the data plane needs the sandbox's token, the code interpreter that or the traffic token (E2B's SDK
/// sends only the latter for contexts), previews what the sandbox's policy says.
fn admit(e2b: &E2b, sandbox: &str, port: u16, request: &mut Request) -> Result<(), Failure> {
    let vault = e2b.api.sandboxes.store().vault();
    let holds = |header: &str, purpose: &str| {
        let presented = request.headers().get(header).and_then(|value| value.to_str().ok());
        presented.is_some_and(|token| vault.is_token(purpose, sandbox, token))
    };
    let access = holds("x-access-token", "access");
    let traffic = holds("e2b-traffic-access-token", "traffic");
    let refusal =
        |what: &str| Failure::new(Code::Unauthenticated, format!("the request carries no {what} of the sandbox"));
    match port {
        ENVD_PORT if request.uri().path() == "/files" && signature::is_signed(request.uri()) => {
            let granted = signature::check(e2b, sandbox, request)?;
            request.extensions_mut().insert(granted);
            Ok(())
        }
        ENVD_PORT => access.then_some(()).ok_or_else(|| refusal("access token (X-Access-Token)")),
        CODE_PORT => (access || traffic)
            .then_some(())
            .ok_or_else(|| refusal("access or traffic token (E2B-Traffic-Access-Token)")),
        // A preview is the policy's matter.
        _ => Ok(()),
    }
}

/// E2B's answer for a sandbox that is not there, or sleeps, in its own words: the SDKs look for them.
fn absent(sandbox: &str, why: &str) -> Response {
    let body = json!({ "sandboxId": sandbox, "message": "The sandbox was not found", "code": 502, "reason": why });
    (StatusCode::BAD_GATEWAY, axum::Json(body)).into_response()
}

fn unreachable(sandbox: &str, failure: &Failure) -> Response {
    match failure.code {
        Code::NotFound | Code::Gone | Code::IllegalTransition => absent(sandbox, &failure.message),
        _ => {
            let body = json!({ "sandboxId": sandbox, "message": failure.message, "code": 502 });
            (StatusCode::BAD_GATEWAY, axum::Json(body)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Option<(String, u16)> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        address(&headers, &Uri::from_static("/files"), "box.example").map(|address| (address.sandbox, address.port))
    }

    #[test]
    fn a_sandbox_is_addressed_by_headers_or_by_host() {
        assert_eq!(of(&[("e2b-sandbox-id", "sbx"), ("e2b-sandbox-port", "49999")]), Some(("sbx".into(), 49999)));
        assert_eq!(of(&[("e2b-sandbox-id", "sbx")]), Some(("sbx".into(), ENVD_PORT)));
        assert_eq!(of(&[("host", "3000-sbx.box.example:8443")]), Some(("sbx".into(), 3000)));
        assert_eq!(of(&[("host", "3000-sbx.BOX.example")]), Some(("sbx".into(), 3000)));
    }

    #[test]
    fn other_names_are_the_control_plane() {
        for host in [
            "api.box.example",
            "box.example",
            "3000-sbx.other.example",
            "x-sbx.box.example",
            "1.2.3.4:80",
            "3000-a.b.box.example",
            "3000-sbxbox.example",
        ] {
            assert_eq!(of(&[("host", host)]), None, "{host}");
        }
    }
}
