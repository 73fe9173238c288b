//! Which scope of an API key a request needs: by its route, and by what it names in its body.
//!
//! It knows no key: `access` does. Whoever shows a sandbox's own token needs no scope.

use axum::extract::MatchedPath;
use http::Method;
use http::request::Parts;
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::spec::{ImageSource, Spec};

use super::access::Holder;
use crate::image::Images;
use crate::state::Scope::{self, Admin, Sandbox, Secret, Template};

/// The scopes of which a key has to hold one for a route; none where any key will do. A route that is not known here is
/// left to keys that may do everything.
fn of_route(method: &Method, route: &str) -> &'static [Scope] {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let mut parts = route.split('/').filter(|part| !part.is_empty());
    let mut first = parts.next().unwrap_or_default();
    // E2B's own versions: `/v2/templates`.
    if matches!(first, "v1" | "v2" | "v3") {
        first = parts.next().unwrap_or_default();
    }
    match first {
        "capabilities" => &[],
        "sandboxes" if route.ends_with("/commit") => &[Template],
        "sandboxes" | "snapshots" | "volumes" | "volumecontent" | "metrics" => &[Sandbox],
        // Builds and uploads are theirs who build; what there is to start from is for everybody who starts.
        "templates" if parts.any(|part| matches!(part, "builds" | "files")) => &[Template],
        "images" | "templates" if reads => &[Sandbox, Template],
        "images" | "templates" => &[Template],
        "secrets" => &[Secret],
        _ => &[Admin],
    }
}

/// Whether a key may be used for the route that a request has reached.
///
/// # Errors
/// `forbidden`, naming the scope.
pub(super) fn check_route(holder: &Holder, parts: &Parts) -> Result<(), Failure> {
    let route = parts.extensions.get::<MatchedPath>().map_or(parts.uri.path(), MatchedPath::as_str);
    one_of(holder, of_route(&parts.method, route))
}

fn one_of(holder: &Holder, scopes: &[Scope]) -> Result<(), Failure> {
    if scopes.iter().any(|scope| holder.may(*scope).is_ok()) {
        return Ok(());
    }
    // The refusal names the first.
    scopes.first().map_or(Ok(()), |scope| holder.may(*scope))
}

/// Whether a key may bind the secrets that a policy names: what is bound leaves for the hosts that the policy names, too.
///
/// # Errors
/// `forbidden`, naming the scope and the secret.
pub(super) fn check_policy(holder: &Holder, policy: &Policy) -> Result<(), Failure> {
    policy.secrets.iter().try_for_each(|binding| holder.may_bind(&binding.secret))
}

/// Whether a key may have a sandbox made like this: its secrets bound, and its image imported where it is not there yet.
///
/// # Errors
/// `forbidden`, naming the scope.
pub(super) async fn check_spec(holder: &Holder, images: &Images, spec: &Spec) -> Result<(), Failure> {
    if let Some(policy) = &spec.network {
        check_policy(holder, policy)?;
    }
    match &spec.image {
        Some(source @ (ImageSource::Tarball(_) | ImageSource::OciLayout(_) | ImageSource::Registry(_)))
            if holder.may(Template).is_err() && !images.is_there(source).await? =>
        {
            holder.may(Template)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Scopes;

    fn holder(scopes: &[Scope]) -> Holder {
        Holder { name: "test".to_owned(), scopes: scopes.iter().copied().collect() }
    }

    #[test]
    fn a_route_needs_its_scope_and_one_that_is_not_known_needs_all() {
        let check = |method: Method, route: &str, expected: &[Scope]| {
            assert_eq!(of_route(&method, route), expected, "{method} {route}");
        };
        check(Method::POST, "/v1/sandboxes", &[Sandbox]);
        check(Method::GET, "/v1/sandboxes/{id}/ports/{port}/{*rest}", &[Sandbox]);
        check(Method::POST, "/v1/sandboxes/{id}/commit", &[Template]);
        check(Method::DELETE, "/v1/volumes/{name}", &[Sandbox]);
        check(Method::GET, "/v1/images", &[Sandbox, Template]);
        check(Method::POST, "/v1/images", &[Template]);
        check(Method::DELETE, "/templates/{id}", &[Template]);
        check(Method::POST, "/v3/templates", &[Template]);
        check(Method::GET, "/v2/templates", &[Sandbox, Template]);
        check(Method::GET, "/templates/{id}/builds/{build}/status", &[Template]);
        check(Method::PUT, "/templates/{id}/files/{hash}", &[Template]);
        for route in ["/secrets", "/v1/secrets", "/secrets/{name}", "/v1/secrets/{name}"] {
            check(Method::GET, route, &[Secret]);
            check(Method::DELETE, route, &[Secret]);
        }
        check(Method::GET, "/v1/capabilities", &[]);
        for route in ["", "/", "/v1", "/v1/keys", "/teams", "/v9/sandboxes"] {
            check(Method::GET, route, &[Admin]);
        }
    }

    #[test]
    fn one_scope_of_several_will_do_and_none_will_not() {
        let needed = of_route(&Method::GET, "/templates");
        assert!(one_of(&holder(&[Template]), needed).is_ok() && one_of(&holder(&[Sandbox]), needed).is_ok());
        assert_eq!(one_of(&holder(&[Secret]), needed).unwrap_err().context["scope"], "sandbox");
        assert!(one_of(&holder(&[Admin]), needed).is_ok() && one_of(&holder(&[]), &[]).is_ok());
    }

    #[test]
    fn a_secret_is_bound_by_who_may_bind_every_secret_or_that_one() {
        let policy: Policy = serde_json::from_value(serde_json::json!({
            "secrets": [{ "secret": "openai", "env": "KEY", "hosts": ["api.openai.com"] }]
        }))
        .unwrap();
        let allowed = |words: &[&str]| {
            let scopes: Scopes = words.iter().map(|word| word.parse::<crate::state::Grant>().unwrap()).collect();
            check_policy(&Holder { name: "test".to_owned(), scopes }, &policy)
        };
        assert!(allowed(&["sandbox", "secret"]).is_ok() && allowed(&["admin"]).is_ok());
        assert!(allowed(&["sandbox", "secret:openai"]).is_ok());
        for words in [&["sandbox", "template"][..], &["sandbox", "secret:github"], &["sandbox", "secret:open"]] {
            let refused = allowed(words).unwrap_err();
            assert_eq!((refused.context["scope"].as_str(), refused.context["secret"].as_str()), ("secret", "openai"));
        }
        // To bind one is not to set or to read the names of others.
        let named: Scopes = ["secret:openai".parse::<crate::state::Grant>().unwrap()].into_iter().collect();
        assert!(!named.hold(Secret));
    }
}
