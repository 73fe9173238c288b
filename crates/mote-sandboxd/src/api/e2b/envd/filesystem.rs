//! `filesystem.Filesystem`: files, directories and watches.
//!
//! Every operation is carried out inside, in the name of the user that the request names and, as by `envd`, with the rights of
//! the sandbox's root.

use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use futures_util::stream;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{EntryKind, EventKind, FileTarget, Rights};
use serde::Deserialize;
use serde_json::{Value, json};

use super::connect::{self, Messages};
use super::{entry, wording};
use crate::api::e2b::E2b;
use crate::api::e2b::gateway::Inside;
use crate::guest::Guest;

#[derive(Deserialize, Default)]
#[serde(default)]
struct At {
    path: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Between {
    source: String,
    destination: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListDir {
    path: String,
    depth: u32,
}

/// A directory to watch.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Watch {
    path: String,
    recursive: bool,
    include_entry: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ByWatcher {
    watcher_id: String,
}

/// A call of the service.
pub(super) async fn call(
    State(e2b): State<E2b>,
    Extension(inside): Extension<Inside>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let is_stream = match connect::is_stream(request.headers()) {
        Ok(is_stream) => is_stream,
        Err(response) => return *response,
    };
    if method == "WatchDir" && is_stream {
        return watch_dir(&inside, request).await;
    }
    let outcome = match (method.as_str(), is_stream) {
        ("CreateWatcher", false) => create_watcher(&e2b, &inside, request).await,
        ("GetWatcherEvents", false) => {
            let chosen: Result<ByWatcher, _> = connect::unary(request).await;
            match chosen {
                Ok(chosen) => e2b.watchers.take(&inside.sandbox, &chosen.watcher_id).await,
                Err(failure) => Err(failure),
            }
        }
        ("RemoveWatcher", false) => {
            let chosen: Result<ByWatcher, _> = connect::unary(request).await;
            chosen.and_then(|chosen| e2b.watchers.remove(&inside.sandbox, &chosen.watcher_id))
        }
        (method, false) => unary(&inside.guest, method, request).await,
        (method, true) => return connect::stream_of_one(Err(unknown(method))),
    };
    connect::answer(outcome)
}

fn unknown(method: &str) -> Failure {
    Failure::unsupported(&format!("filesystem.Filesystem/{method}"), "there is no such procedure")
}

/// Where a request's user means; the home where nothing is said.
fn target(user: Option<String>, path: String) -> FileTarget {
    let path = if path.is_empty() { "~".to_owned() } else { path };
    FileTarget::new(path, user).with(Rights::Root)
}

async fn unary(guest: &Guest, method: &str, request: Request) -> Result<Value, Failure> {
    let user = connect::user(request.headers())?;
    match method {
        "Stat" => {
            let At { path } = connect::unary(request).await?;
            let found = guest.stat(target(user, path)).await.map_err(wording::stat)?;
            Ok(json!({ "entry": entry::info(&found) }))
        }
        "MakeDir" => {
            let At { path } = connect::unary(request).await?;
            let target = target(user, path);
            match guest.make_directory(target.clone()).await {
                Ok(made) => Ok(json!({ "entry": entry::info(&made) })),
                Err(failure) if failure.code == Code::Conflict => {
                    let there = guest.stat(target).await;
                    let is_folder = there.is_ok_and(|there| there.kind == EntryKind::Directory);
                    Err(wording::make(failure, is_folder))
                }
                Err(failure) => Err(wording::make(failure, false)),
            }
        }
        "Move" => {
            let Between { source, destination } = connect::unary(request).await?;
            if destination.is_empty() {
                return Err(Failure::invalid("destination", "no path is given"));
            }
            let moved = guest.rename(target(user, source), destination.clone()).await;
            let moved = moved.map_err(|failure| wording::rename(failure, &destination))?;
            Ok(json!({ "entry": entry::info(&moved) }))
        }
        "Remove" => {
            let At { path } = connect::unary(request).await?;
            match guest.remove(target(user, path)).await {
                // What is not there need not be removed: so `envd` has it.
                Err(failure) if failure.code == Code::NotFound && !failure.context.contains_key("kind") => {
                    Ok(json!({}))
                }
                outcome => outcome.map(|()| json!({})).map_err(wording::remove),
            }
        }
        "ListDir" => {
            let ListDir { path, depth } = connect::unary(request).await?;
            let entries = guest.list(target(user, path), depth.max(1)).await.map_err(wording::list)?;
            Ok(json!({ "entries": entries.iter().map(entry::info).collect::<Vec<_>>() }))
        }
        method => Err(unknown(method)),
    }
}

/// An event in JSON; nothing for what `envd` does not tell of.
pub(super) async fn event(
    guest: &Guest,
    watched: &FileTarget,
    include_entry: bool,
    name: String,
    kind: EventKind,
) -> Option<Result<Value, Failure>> {
    let word = match kind {
        EventKind::Create => "EVENT_TYPE_CREATE",
        EventKind::Write => "EVENT_TYPE_WRITE",
        EventKind::Remove => "EVENT_TYPE_REMOVE",
        EventKind::Rename => "EVENT_TYPE_RENAME",
        EventKind::Chmod => "EVENT_TYPE_CHMOD",
        EventKind::Overflow => {
            return Some(Err(Failure::new(Code::Exhausted, "events were lost: more came than the queue holds")));
        }
    };
    // `envd` tells nothing of the watched directory itself.
    if name.is_empty() {
        return None;
    }
    let mut told = json!({ "name": name, "type": word });
    if include_entry && kind != EventKind::Remove {
        let path = format!("{}/{name}", watched.path.to_string().trim_end_matches('/'));
        // It may be gone again: the event is told all the same.
        if let Ok(found) = guest.stat(FileTarget { path: path.into(), ..watched.clone() }).await {
            told["entry"] = entry::info(&found);
        }
    }
    Some(Ok(told))
}

async fn watch_dir(inside: &Inside, request: Request) -> Response {
    let Inside { sandbox, guest } = inside.clone();
    let headers = request.headers().clone();
    let keepalive = connect::keepalive(&headers);
    let beginning = async {
        let (user, deadline) = (connect::user(&headers)?, connect::deadline(&headers)?);
        let Watch { path, recursive, include_entry } = Messages::of(request).only().await?;
        let watched = target(user, path);
        let watching = guest.watch(watched.clone(), recursive).await.map_err(wording::watch)?;
        Ok((watching, watched, include_entry, deadline))
    };
    let (watching, watched, include_entry, deadline) = match beginning.await {
        Ok(begun) => begun,
        Err(failure) => return connect::stream_of_one(Err(failure)),
    };
    let deadline = deadline.and_then(|deadline| tokio::time::Instant::now().checked_add(deadline));
    let events = stream::unfold(Some((watching, guest, watched, sandbox)), move |state| async move {
        let (mut watching, guest, watched, sandbox) = state?;
        loop {
            let expired = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                next = watching.next_event() => next,
                () = tokio::time::sleep(keepalive) => {
                    return Some((Ok(json!({ "keepalive": {} })), Some((watching, guest, watched, sandbox))));
                }
                () = expired => Err(wording::expired()),
            };
            match next {
                Ok(Some((name, kind))) => match event(&guest, &watched, include_entry, name, kind).await {
                    Some(Ok(told)) => {
                        return Some((Ok(json!({ "filesystem": told })), Some((watching, guest, watched, sandbox))));
                    }
                    Some(Err(failure)) => return Some((Err(failure), None)),
                    None => {}
                },
                Ok(None) => return None,
                Err(failure) => return Some((Err(wording::stream(failure, &sandbox)), None)),
            }
        }
    });
    let started = stream::once(std::future::ready(Ok(json!({ "start": {} }))));
    connect::stream(futures_util::StreamExt::chain(started, events))
}

async fn create_watcher(e2b: &E2b, inside: &Inside, request: Request) -> Result<Value, Failure> {
    let user = connect::user(request.headers())?;
    let Watch { path, recursive, include_entry } = connect::unary(request).await?;
    let watched = target(user, path);
    let watching = inside.guest.watch(watched.clone(), recursive).await.map_err(wording::watch)?;
    let id = e2b.watchers.add(inside, watching, watched, include_entry)?;
    Ok(json!({ "watcherId": id }))
}
