//! What each operation of the native API is for, takes and answers.
//!
//! A test holds it equal to the routes, both ways.

use mote_sandbox_api::capability::Capabilities;
use mote_sandbox_api::guest::{Entry, Process};
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{
    Change, Commit, Create, CreateVolume, Exec, ExecResult, Fork, ImportImage, Outcome, Pause, PutSecret, Renew,
    Rollback, Sandbox, Secret, Snapshot, StreamEvent, StreamRequest, TakeSnapshot, Usage, Volume,
};

use super::generated::Access::{Key, Open, Token};
use super::generated::Document;
use crate::api::native::exec::Signal;
use crate::api::native::files::{At, Link, ListQuery, ReadQuery, Rename, WatchQuery, WriteQuery};
use crate::api::native::sandboxes::LogsQuery;
use crate::api::native::stored::{NamedImage, SnapshotsQuery, Told};
use crate::api::native::transfer::{ImportQuery, MEDIA_TYPE};
use crate::code::{About, Cell, NewContext};
use crate::lifecycle::journal::Line;
use crate::network::decision::Decision;

pub(super) fn all(d: &mut Document) {
    sandboxes(d);
    life(d);
    state(d);
    inside(d);
    files(d);
    code(d);
    stored(d);
    daemon(d);
}

fn sandboxes(d: &mut Document) {
    let all = "/v1/sandboxes";
    d.operation(Key, "post", all, "create_sandbox", "Makes a sandbox; with `count`, a page with an outcome each.")
        .idempotent()
        .body::<Create>()
        .answers::<Sandbox>(201);
    d.operation(Key, "get", all, "list_sandboxes", "A page of sandboxes, newest first.")
        .query("state", "States after commas: `running,paused`.")
        .query("metadata.KEY", "Only those whose metadata has this value; any number of them.")
        .query("limit", "How many, at most.")
        .query("cursor", "The `next` of the page before.")
        .answers_page::<Sandbox>(200);
    let one = "/v1/sandboxes/{id}";
    d.operation(Key, "get", one, "get_sandbox", "The sandbox.").answers::<Sandbox>(200);
    d.operation(Key, "delete", one, "remove_sandbox", "Ends the sandbox; answers when everything is given back.")
        .answers::<Sandbox>(200);
}

fn life(d: &mut Document) {
    d.operation(
        Key,
        "post",
        "/v1/sandboxes/{id}/connect",
        "connect",
        "The sandbox with its token, resumed where it was paused.",
    )
    .answers::<Sandbox>(200);
    d.operation(
        Key,
        "post",
        "/v1/sandboxes/{id}/pause",
        "pause",
        "Freezes the processes, or ends them and keeps the files.",
    )
    .body::<Pause>()
    .answers::<Sandbox>(200);
    d.operation(Key, "post", "/v1/sandboxes/{id}/resume", "resume", "Back from a pause.").answers::<Sandbox>(200);
    d.operation(Key, "post", "/v1/sandboxes/{id}/renew", "renew", "The lease runs anew; the deadline stays.")
        .body::<Renew>()
        .answers::<Sandbox>(200);
    d.operation(Key, "get", "/v1/sandboxes/{id}/usage", "usage", "What it uses now.").answers::<Usage>(200);
    d.operation(Key, "get", "/v1/sandboxes/{id}/logs", "logs", "What happened to it, newest last.")
        .queries::<LogsQuery>()
        .answers_page::<Line>(200);
    d.operation(Key, "put", "/v1/sandboxes/{id}/network", "set_network", "Another network policy, from now on.")
        .body::<Policy>()
        .answers::<Sandbox>(200);
    let decisions = "/v1/sandboxes/{id}/network/decisions";
    d.operation(Key, "get", decisions, "network_decisions", "What the network boundary decided lately.")
        .queries::<LogsQuery>()
        .answers_page::<Decision>(200);
}

fn state(d: &mut Document) {
    d.operation(Key, "post", "/v1/sandboxes/{id}/snapshots", "take_snapshot", "A live snapshot of the filesystem.")
        .idempotent()
        .body::<TakeSnapshot>()
        .answers::<Snapshot>(201);
    let rollback = "Back to a snapshot under the same id; processes end.";
    d.operation(Key, "post", "/v1/sandboxes/{id}/rollback", "rollback", rollback)
        .body::<Rollback>()
        .answers::<Sandbox>(200);
    d.operation(
        Key,
        "post",
        "/v1/sandboxes/{id}/fork",
        "fork",
        "New sandboxes with the filesystem of this one, an outcome each.",
    )
    .idempotent()
    .body::<Fork>()
    .answers_page::<Outcome>(201);
    d.operation(Key, "get", "/v1/sandboxes/{id}/diff", "diff", "What differs from the image.")
        .answers_page::<Change>(200);
    d.operation(Key, "post", "/v1/sandboxes/{id}/commit", "commit", "An image of what is there now.")
        .idempotent()
        .body::<Commit>()
        .answers_fields(201, &["image", "name"]);
}

fn inside(d: &mut Document) {
    d.operation(
        Token,
        "post",
        "/v1/sandboxes/{id}/exec",
        "exec",
        "Runs one process to its end and gathers its output.",
    )
    .body::<Exec>()
    .answers::<ExecResult>(200);
    let stream = "A process over a WebSocket: the request's schema is that of the client's text messages, the answer's that of the \
                  server's. Binary messages are input, and output with its stream in the first byte.";
    d.operation(Token, "get", "/v1/sandboxes/{id}/stream", "stream", stream)
        .body::<StreamRequest>()
        .answers::<StreamEvent>(101);
    d.operation(Token, "get", "/v1/sandboxes/{id}/processes", "processes", "What was started and lives.")
        .answers_page::<Process>(200);
    let signal = "/v1/sandboxes/{id}/processes/{pid}/signal";
    d.operation(Token, "post", signal, "signal", "Sends a signal to a process and its group.")
        .body::<Signal>()
        .answers_fields(200, &["pid", "signal"]);
    let ports = [
        ("/v1/sandboxes/{id}/ports/{port}", "preview_port"),
        ("/v1/sandboxes/{id}/ports/{port}/", "preview_root"),
        ("/v1/sandboxes/{id}/ports/{port}/{rest}", "preview"),
    ];
    for (path, id) in ports {
        for (method, id) in [
            ("get", id.to_owned()),
            ("put", format!("{id}_put")),
            ("post", format!("{id}_post")),
            ("delete", format!("{id}_delete")),
            ("patch", format!("{id}_patch")),
            ("options", format!("{id}_options")),
        ] {
            let summary = "The answer of what listens on the port inside, whatever the method.";
            d.operation(Key, method, path, id.leak(), summary).answers_as(200, "*/*");
        }
    }
}

fn files(d: &mut Document) {
    let files = "/v1/sandboxes/{id}/files";
    d.operation(Token, "get", files, "read_file", "The bytes of a file.")
        .queries::<ReadQuery>()
        .answers_as(200, "application/octet-stream");
    d.operation(Token, "put", files, "write_file", "The body becomes the file, whole or not at all.")
        .queries::<WriteQuery>()
        .bytes("application/octet-stream")
        .answers::<Entry>(200);
    d.operation(Token, "delete", files, "remove_file", "Removes a file, or a directory with all it holds.")
        .queries::<At>()
        .answers_fields(200, &["removed"]);
    d.operation(Token, "get", "/v1/sandboxes/{id}/files/stat", "stat", "What stands at a path.")
        .queries::<At>()
        .answers::<Entry>(200);
    d.operation(
        Token,
        "get",
        "/v1/sandboxes/{id}/files/list",
        "list_files",
        "What a directory holds, `depth` levels deep.",
    )
    .queries::<ListQuery>()
    .answers_page::<Entry>(200);
    d.operation(
        Token,
        "post",
        "/v1/sandboxes/{id}/files/directory",
        "make_directory",
        "Makes a directory and those above it.",
    )
    .body::<At>()
    .answers::<Entry>(201);
    d.operation(
        Token,
        "post",
        "/v1/sandboxes/{id}/files/move",
        "move_file",
        "Gives a file or a directory another path.",
    )
    .body::<Rename>()
    .answers::<Entry>(200);
    d.operation(Token, "post", "/v1/sandboxes/{id}/files/link", "make_link", "Makes a symbolic link.")
        .body::<Link>()
        .answers::<Entry>(201);
    d.operation(
        Token,
        "get",
        "/v1/sandboxes/{id}/files/watch",
        "watch_files",
        "Changes below a directory, as server-sent events.",
    )
    .queries::<WatchQuery>()
    .answers_as(200, "text/event-stream");
}

fn code(d: &mut Document) {
    d.operation(Token, "get", "/v1/sandboxes/{id}/code/health", "code_health", "Contexts can be asked for.")
        .answers_nothing(200);
    d.operation(
        Token,
        "post",
        "/v1/sandboxes/{id}/code/execute",
        "execute_code",
        "Runs a cell; its messages as lines of JSON.",
    )
    .body::<Cell>()
    .answers_as(200, "application/x-ndjson");
    let contexts = "/v1/sandboxes/{id}/code/contexts";
    d.operation(Token, "get", contexts, "list_contexts", "The code contexts.").answers_list::<About>(200);
    d.operation(Token, "post", contexts, "create_context", "Makes a code context.")
        .body::<NewContext>()
        .answers::<About>(200);
    d.operation(Token, "delete", "/v1/sandboxes/{id}/code/contexts/{context}", "remove_context", "Ends a context.")
        .answers_nothing(204);
    let restart = "/v1/sandboxes/{id}/code/contexts/{context}/restart";
    d.operation(Token, "post", restart, "restart_context", "Begins a context anew under its id.").answers_nothing(204);
    let interrupt = "/v1/sandboxes/{id}/code/contexts/{context}/interrupt";
    d.operation(Token, "post", interrupt, "interrupt_context", "Interrupts the cell that runs.").answers_nothing(204);
}

fn stored(d: &mut Document) {
    d.operation(Key, "get", "/v1/snapshots", "list_snapshots", "Snapshots.")
        .queries::<SnapshotsQuery>()
        .answers_page::<Snapshot>(200);
    d.operation(
        Key,
        "delete",
        "/v1/snapshots/{id}",
        "remove_snapshot",
        "Removes a snapshot; what was made from it stays.",
    )
    .answers_fields(200, &["removed"]);
    d.operation(Key, "post", "/v1/snapshots", "import_snapshot", "A snapshot from a file that was exported, verified.")
        .queries::<ImportQuery>()
        .bytes(MEDIA_TYPE)
        .answers::<Snapshot>(201);
    let export =
        "The snapshot as a file that moves between hosts: its files, and what is needed to make a sandbox of it.";
    d.operation(Key, "get", "/v1/snapshots/{id}/export", "export_snapshot", export).answers_as(200, MEDIA_TYPE);
    d.operation(Key, "get", "/v1/volumes", "list_volumes", "Volumes.").answers_page::<Volume>(200);
    d.operation(Key, "post", "/v1/volumes", "create_volume", "Makes a volume.")
        .body::<CreateVolume>()
        .answers::<Volume>(201);
    d.operation(Key, "delete", "/v1/volumes/{name}", "remove_volume", "Removes a volume that no sandbox uses.")
        .answers_fields(200, &["removed"]);
    d.operation(Key, "get", "/v1/images", "list_images", "Images by name.").answers_page::<NamedImage>(200);
    d.operation(Key, "post", "/v1/images", "import_image", "Imports or pulls an image.")
        .body::<ImportImage>()
        .answers::<Told>(201);
    d.operation(Key, "delete", "/v1/images/{name}", "remove_image", "Removes an image's name.")
        .answers_fields(200, &["removed"]);
    d.operation(Key, "get", "/v1/secrets", "list_secrets", "Secrets, without their values.")
        .answers_page::<Secret>(200);
    d.operation(Key, "put", "/v1/secrets/{name}", "put_secret", "Sets a secret; its value is never answered.")
        .body::<PutSecret>()
        .answers::<Secret>(200);
    d.operation(Key, "delete", "/v1/secrets/{name}", "remove_secret", "Removes a secret.")
        .answers_fields(200, &["removed"]);
}

fn daemon(d: &mut Document) {
    d.operation(
        Key,
        "get",
        "/v1/capabilities",
        "capabilities",
        "What this host enforces, and both profiles' defaults in full.",
    )
    .answers::<Capabilities>(200);
    d.operation(Open, "get", "/health", "health", "The process answers.").answers_fields(200, &["status"]);
    d.operation(Open, "get", "/ready", "ready", "New sandboxes can be made; 503 where not.")
        .answers_fields(200, &["ready", "reason"]);
    d.operation(Open, "get", "/metrics", "metrics", "Metrics for Prometheus.").answers_as(200, "text/plain");
    d.operation(Open, "get", "/openapi.json", "openapi", "This document.").answers_fields(200, &[]);
}
