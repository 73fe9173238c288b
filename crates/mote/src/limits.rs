//! Every named limit of the agent service, in one file: queues, buffers, retries and payloads.
//!
//! Limits an administrator sets live in `agent.yaml` (see [`crate::config`]); these bound what no configuration may
//! exceed. It does not hold defaults of configuration fields.

use std::time::Duration;

/// Largest HTTP request body that the API accepts, bytes.
pub const REQUEST_BODY_BYTES_MAX: usize = 1 << 20;
/// Largest `agent.yaml`, bytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Largest model reply (text, reasoning and arguments together), bytes.
pub const MODEL_REPLY_BYTES_MAX: usize = 4 << 20;
/// Largest error body that is read from a model endpoint, bytes.
pub const MODEL_ERROR_BYTES_MAX: usize = 16 << 10;
/// Default bound on a tool's result, bytes; `output_max` in `agent.yaml` sets it a tool.
pub const TOOL_OUTPUT_BYTES: usize = 64 << 10;
/// Redirects that an HTTP tool follows.
pub const TOOL_REDIRECTS_MAX: usize = 5;
/// Context units (messages, or turns with their results) that a run keeps: the core's `UNITS`.
pub const CONTEXT_UNITS: usize = 128;
/// Tool calls that one assistant message may carry: the core's `CALLS`.
pub const CALLS_PER_TURN: usize = 16;
/// Commands that may wait for the store's writer; a full queue is overload (503).
pub const STORE_QUEUE: usize = 8192;
/// Commands that one group commit takes together.
pub const STORE_GROUP: usize = 512;
/// Longest that a group commit waits to become as large as the one before.
pub const STORE_LINGER_MAX: std::time::Duration = std::time::Duration::from_millis(1);
/// Journal payloads above this many bytes are kept in the blob table by content digest.
pub const STORE_INLINE_BYTES: usize = 16 << 10;
/// Reads that may wait for the store's readers; a full queue is overload (503).
pub const STORE_READ_QUEUE: usize = 1024;
/// Threads that read the store.
pub const STORE_READERS: usize = 2;
/// Stack of one of the store's threads, bytes.
pub const STORE_STACK_BYTES: usize = 512 << 10;
/// How long the store waits for another process to let go of the file, milliseconds.
pub const STORE_LOCK_WAIT_MS: u64 = 5_000;
/// Page cache of the store's writer, KiB.
pub const STORE_WRITER_CACHE_KIB: u32 = 2048;
/// Page cache of each of the store's readers, KiB.
pub const STORE_READER_CACHE_KIB: u32 = 256;
/// Prepared statements that one connection of the store keeps.
pub const STORE_STATEMENTS: usize = 64;
/// Age of a commit up to which it shows that the store can be written, so that readiness writes nothing of its own.
pub const STORE_WRITE_FRESH: Duration = Duration::from_millis(500);
/// Growth of the write-ahead log after which it is copied back into the store's file, pages of 4 KiB.
pub const STORE_WAL_PAGES: u32 = 1024;
/// Length of the write-ahead log at which it starts again from its beginning, pages of 4 KiB.
pub const STORE_WAL_PAGES_MAX: u32 = 8192;
/// Pages that one step of a backup copies.
pub const STORE_BACKUP_PAGES: i32 = 1024;
/// How long a budget window that nobody uses any more is remembered, milliseconds (400 days: longer than any window).
pub const STORE_BUDGET_KEPT_MS: u64 = 400 * 24 * 60 * 60 * 1000;
/// Entries that one page of a listing or of a journal read returns at most.
pub const PAGE_MAX: usize = 200;
/// Bytes of results or payloads after which a page ends, however few entries it has; the last one may go beyond.
pub const PAGE_BYTES: usize = 2 << 20;
/// Tasks in state `queued` above which a submission is refused as overload.
pub const QUEUED_TASKS_MAX: u64 = 200_000;
/// Labels on a task.
pub const LABELS_MAX: usize = 16;
/// Characters of a label's key or value, of a tenant, user or session name, and of a call's id, in a request.
pub const NAME_CHARS_MAX: usize = 128;
/// Bytes of a key's name and tenant in the file of keys, and of a signal's name.
pub const NAME_BYTES_MAX: usize = 128;
/// Least budget that a request may ask for, US dollars: one nano-USD.
pub const BUDGET_USD_MIN: f64 = 1e-9;
/// Largest budget that a request may ask for, US dollars: nano-USD in 64 bits hold it with room to spare.
pub const BUDGET_USD_MAX: f64 = 1e9;
/// Largest budget that a request may ask for, tokens: the largest whole number that every JSON reader keeps.
pub const BUDGET_TOKENS_MAX: u64 = (1 << 53) - 1;
/// Open tasks that a session may have for one more `POST /run` to wait for its turn.
pub const SESSION_RUNS_MAX: u64 = 16;
/// How long a token that opens one task's stream is good for.
pub const STREAM_TOKEN_TTL: Duration = Duration::from_secs(300);
/// Longest such token that is looked at, bytes.
pub const STREAM_TOKEN_BYTES_MAX: usize = 1024;
/// Refused messages after which a WebSocket is closed.
pub const SOCKET_REFUSALS_MAX: u32 = 16;
/// How long a WebSocket that was closed here waits for its client's own close.
pub const SOCKET_CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Unread inputs, and unread signals, that one task may hold.
pub const MAIL_MAX: usize = 64;
/// Unread signals that one task may hold when another comes for which it waits.
pub const MAIL_AWAITED_MAX: usize = 2 * MAIL_MAX;
/// Events that a slow subscriber to a stream may lag behind before it is told to resume from its cursor.
pub const STREAM_LAG: usize = 256;
/// Times that a task may be claimed without a commit beside others; from then on it is tried alone.
pub const CLAIMS_TOGETHER_MAX: u32 = 2;
/// Times that workers may end while they try a task alone, before it commits, until it goes to the dead letters.
pub const TRIALS_MAX: u32 = 5;
/// How long a suspected task waits for a worker that holds nothing else, milliseconds; then one that has others takes it.
pub const SUSPECT_PATIENCE_MS: u64 = 30_000;
/// Times in a row that work under way may be lost with its worker before the run fails: a model call or tools of one step.
pub const INTERRUPTIONS_MAX: u16 = 20;
/// How long such losses must go on, from the first of them, before the run fails, milliseconds: a process that dies again and
/// again for a while ends no task.
pub const INTERRUPTIONS_MS: u64 = 900_000;
/// Back-off from which on a run is given back to the store meanwhile, milliseconds.
pub const REST_MS: u32 = 5_000;
/// TLS sessions remembered for resumption, for all outgoing connections together.
pub const TLS_SESSIONS_KEPT: usize = 32;
/// Largest secret (an environment variable is bounded by the system, a file by this), bytes.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Largest JSON Schema of a tool's input, of a result or of a question's answer, bytes.
pub const SCHEMA_BYTES_MAX: usize = 128 << 10;
/// Levels that a JSON Schema may be nested.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// Steps back that one match of a schema's `pattern` may take before it counts as no match.
pub const SCHEMA_PATTERN_BACKTRACKS_MAX: usize = 100_000;
/// Largest compiled `pattern`, bytes.
pub const SCHEMA_PATTERN_BYTES_MAX: usize = 1 << 20;
/// Levels that a validated value may be nested.
pub const VALUE_DEPTH_MAX: usize = 64;
/// Violations of a schema that are reported at once.
pub const VIOLATIONS_MAX: usize = 20;
/// Longest message of one violation, bytes.
pub const VIOLATION_BYTES_MAX: usize = 400;
/// Largest arguments of one tool call, bytes of JSON.
pub const TOOL_ARGUMENTS_BYTES_MAX: usize = 256 << 10;
/// Most tools that OpenAI takes in a request.
pub const OPENAI_TOOLS_MAX: usize = 128;
/// Longest description of a tool that OpenAI takes, characters.
pub const OPENAI_DESCRIPTION_CHARS_MAX: usize = 1_024;
/// Longest name of an argument that Anthropic takes, characters.
pub const PROPERTY_NAME_CHARS_MAX: usize = 64;
/// Longest number in the arguments of a call, characters.
pub const ARGUMENT_NUMBER_BYTES_MAX: usize = 1_024;
/// How much of a key a message about arguments shows, bytes.
pub const ARGUMENT_KEY_SHOWN_BYTES: usize = 64;
/// Longest id of a call that goes back to an OpenAI-compatible endpoint, characters (OpenAI's own bound).
pub const CALL_ID_CHARS_MAX: usize = 40;
/// Longest name of a tool that goes back to a provider, characters.
pub const TOOL_NAME_CHARS_MAX: usize = 64;
/// Longest wait that the built-in tools take.
pub const WAIT_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Longest question to a person, characters.
pub const QUESTION_CHARS_MAX: usize = 8192;
/// How long an HTTP tool may take to connect: within the tool's own timeout, and certain to have sent nothing.
pub const TOOL_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection of an HTTP tool is kept.
pub const TOOL_IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// Idle connections kept for each host of HTTP tools.
pub const TOOL_IDLE_CONNECTIONS_PER_HOST: usize = 4;
/// Longest URL that an HTTP tool requests, bytes.
pub const TOOL_URL_BYTES_MAX: usize = 8192;
/// Longest `Retry-After` that is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Largest file of API keys, bytes.
pub const KEYS_FILE_BYTES_MAX: usize = 4 << 20;
/// API keys in the file.
pub const KEYS_MAX: usize = 10_000;
/// How often the file of keys is looked at for a change at most, ms.
pub const KEYS_CHECK_MS: u64 = 2_000;
/// Connections that the server holds at once; further ones wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take to send a request's head (also: how long an idle connection is kept).
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest request head, bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// How long a client may take to send a request's body.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that the bodies of requests take together while they arrive; the next one is answered with 503.
pub const BODIES_BYTES_MAX: usize = 64 << 20;
/// Event streams (SSE and WebSocket) open at once; the next one is answered with 503.
pub const STREAMS_MAX: usize = 2_048;
/// Event streams that one API key may have open at once, so that others have some too.
pub const STREAMS_PER_KEY_MAX: usize = STREAMS_MAX / 4;
/// Silence after which a stream sends a comment (SSE) or a ping (WebSocket), and reads the store again in case another
/// process moved the task.
pub const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a stream looks for the deltas of a run that has just been claimed.
pub const STREAM_ATTACH_INTERVAL: Duration = Duration::from_millis(50);
/// How many times it looks before it leaves that to the next journal event.
pub const STREAM_ATTACH_TRIES: u32 = 20;
/// Messages of one request's `input`.
pub const INPUT_MESSAGES_MAX: usize = CONTEXT_UNITS;
/// Bytes of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Bytes of an `X-Request-Id`.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Keys or addresses that the rate limiter tells apart at once; beyond it, addresses share one bucket.
pub const RATE_KEYS_MAX: usize = 10_000;
/// How long one readiness check may take.
pub const READY_CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a readiness report is answered again without asking the dependencies.
pub const READY_CACHE: Duration = Duration::from_millis(500);
/// `Retry-After` of an answer that does not know better.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Attempts to cancel a run whose client went away, while the store is overloaded.
pub const ABANDON_ATTEMPTS: u32 = 5;
/// How long the rest of a body that was refused is read, so that its sender hears the answer.
pub const BODY_REST_TIME: Duration = Duration::from_secs(5);
/// Bytes of it that are read, at most.
pub const BODY_REST_BYTES: u64 = 64 << 20;
/// How long a client may read nothing while an answer or a stream waits for it; what it reads begins this time anew.
pub const RESPONSE_WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer that the kernel takes before the client has made room for them: what a slow client must read about
/// half of within [`RESPONSE_WRITE_TIMEOUT`].
pub const RESPONSE_UNSENT_BYTES: u32 = 128 << 10;
/// Pause after a connection could not be accepted.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Times that a driver tries a commit again while the store is overloaded or locked.
pub const COMMIT_RETRIES_MAX: u32 = 6;
/// How long what a worker does beside its runs (claims, deliveries, removals) may take to end once the runs have wound down.
pub const WIND_DOWN_LOOPS: Duration = Duration::from_secs(6);
/// Bound on one delivery of an event to its sink.
pub const OUTBOX_DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Tasks that one claim takes at most.
pub const CLAIM_BATCH: usize = 64;
/// Deliveries of one outbox message before its back-off stops growing.
pub const OUTBOX_BACKOFF_DOUBLINGS: u32 = 10;
/// Outbox messages that one look takes; they are delivered one after the other.
pub const OUTBOX_BATCH: usize = 16;
/// Tasks, and idempotency keys, that one command of a retention sweep removes at most: the commits of runs wait for it.
pub const SWEEP_BATCH: usize = 250;
/// How often finished tasks past their retention are removed.
pub const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How often an idle worker looks for what other processes left: timers, mail, expired leases.
pub const WORK_POLL: Duration = Duration::from_millis(1000);
/// Held tasks up to which each renewal also looks for mail that another process left.
pub const RENEWAL_MAIL_MAX: usize = 256;
/// Largest prompt file, bytes.
pub const PROMPT_BYTES_MAX: usize = 256 << 10;
/// Deepest nesting of `agent.yaml`.
pub const CONFIG_DEPTH_MAX: usize = 64;
/// Nodes that `agent.yaml` may have, aliases expanded.
pub const CONFIG_NODES_MAX: usize = 50_000;
/// Aliases that `agent.yaml` may use.
pub const CONFIG_ALIASES_MAX: usize = 256;
/// Tools that one agent may have.
pub const TOOLS_MAX: usize = 128;
/// Fallback models that one agent may have.
pub const FALLBACKS_MAX: usize = 8;
/// Largest single event of a model's stream, bytes.
pub const MODEL_EVENT_BYTES_MAX: usize = 1 << 20;
/// Tool calls in one reply that are read at all; the runner answers those beyond [`CALLS_PER_TURN`] without performing
/// them.
pub const MODEL_REPLY_CALLS_MAX: usize = 128;
/// Characters of an endpoint's own error message that are passed on.
pub const MODEL_MESSAGE_CHARS_MAX: usize = 400;
/// Length from which a model's key is taken for a real one, and taken out of what an endpoint says, bytes.
pub const MODEL_KEY_BYTES_MIN: usize = 8;
/// How long connecting to a model endpoint may take, TLS included, milliseconds.
pub const MODEL_CONNECT_MS: u64 = 10_000;
/// Silence on a connection to a model endpoint after which TCP asks whether the other end lives, and then how often it asks
/// again, seconds.
pub const MODEL_ALIVE_PROBE_S: u64 = 15;
/// Such questions without an answer after which the connection is given up.
pub const MODEL_ALIVE_PROBES: u32 = 3;
/// How long what was sent to a model endpoint may stay without TCP's acknowledgement, seconds.
pub const MODEL_UNACKNOWLEDGED_S: u64 = 30;
/// Idle connections that are kept to one model endpoint, and for how long, seconds.
pub const MODEL_POOL_IDLE_MAX: usize = 32;
/// See [`MODEL_POOL_IDLE_MAX`].
pub const MODEL_POOL_IDLE_S: u64 = 60;
/// How long a finished stream is read on for its end, so that its connection can be used again, milliseconds.
pub const MODEL_DRAIN_MS: u64 = 20;
/// How long a stream whose reply is finished and counted is waited for, while it stays open and says no more, milliseconds.
pub const MODEL_LINGER_MS: u64 = 500;
/// How long a stream whose reply is finished is waited for to count its tokens, or to go on if the finish reason came beside a
/// piece of the reply, milliseconds.
pub const MODEL_COUNT_WAIT_MS: u64 = 3_000;
/// How long the body of an answer that is an error is waited for, milliseconds.
pub const MODEL_ERROR_WAIT_MS: u64 = 3_000;
/// Longest wait that an endpoint's `Retry-After` is believed, seconds.
pub const MODEL_RETRY_AFTER_S_MAX: u64 = 86_400;
/// Failures in a row after which an endpoint's circuit opens.
pub const BREAKER_FAILURES: u32 = 5;
/// How long a circuit stays open the first time, milliseconds; it doubles with each failed probe.
pub const BREAKER_OPEN_MS: u64 = 10_000;
/// Longest time that a circuit stays open, milliseconds.
pub const BREAKER_OPEN_MS_MAX: u64 = 300_000;
/// Largest plan of the `scripted` provider, bytes.
pub const PLAN_BYTES_MAX: u64 = 1 << 20;
/// Longest delay that a plan may ask for, milliseconds.
pub const PLAN_DELAY_MS_MAX: u64 = 60_000;
/// Largest recording that the `cassette` provider loads, bytes.
pub const CASSETTE_BYTES_MAX: u64 = 64 << 20;
/// Log lines that wait for standard output; beyond them lines are dropped and counted.
pub const LOG_QUEUE: usize = 512;
/// Bytes of log lines that are written at once.
pub const LOG_WRITE_BYTES: usize = 32 << 10;
/// Longest value of one log field, bytes.
pub const LOG_FIELD_BYTES_MAX: usize = 8 << 10;
/// Fields of one log line, its spans' included one by one.
pub const LOG_FIELDS_MAX: usize = 64;
/// How long a scrape waits for the store's counts.
pub const SCRAPE_STORE_TIMEOUT: Duration = Duration::from_millis(500);
/// Finished spans that wait for export; beyond them spans are dropped and counted.
pub const SPAN_QUEUE: usize = 2048;
/// Spans of one export.
pub const SPAN_BATCH: usize = 256;
/// How long spans are gathered before an export.
pub const SPAN_DELAY: Duration = Duration::from_secs(1);
/// Bound on one export.
pub const SPAN_EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest captured content of one span attribute, bytes.
pub const SPAN_CONTENT_BYTES_MAX: usize = 16 << 10;
/// Largest answer of a trace collector that is read, bytes.
pub const COLLECTOR_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Attempts at one export of spans.
pub const SPAN_EXPORT_ATTEMPTS: u32 = 3;
/// Pause before an export is tried again.
pub const SPAN_RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long connections may go on after the runs have wound down.
pub const CONNECTION_GRACE: Duration = Duration::from_secs(5);
/// How long a stopping process waits for its last spans and log lines.
pub const TELEMETRY_FLUSH: Duration = Duration::from_secs(3);
/// Largest `output_max` of a tool, bytes.
pub const TOOL_OUTPUT_BYTES_MAX: usize = 16 << 20;
/// How long a service that `mote run` starts may take until it is ready: the server of a model loads its weights.
pub const SERVICE_READY_TIMEOUT: Duration = Duration::from_mins(1);
/// Time between two looks at whether such a service is ready.
pub const SERVICE_READY_POLL: Duration = Duration::from_millis(50);
/// Bound on one look.
pub const SERVICE_PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of such a service's log an error shows, bytes.
pub const SERVICE_LOG_TAIL_BYTES: usize = 2_000;
/// Bound on connecting to a service from `mote task`.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound on one answer of a service to `mote task`; streams are bounded by silence instead.
pub const CLIENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence on a stream after which `mote task watch` counts it as dead: a service shows life more often.
pub const CLIENT_STREAM_SILENCE: Duration = Duration::from_secs(90);
/// Longest event that `mote task watch` reads, bytes: one with a model's whole reply fits.
pub const CLIENT_EVENT_BYTES_MAX: usize = 16 << 20;
/// Times that `mote task watch` resumes a broken stream without an event between.
pub const CLIENT_RESUMES_MAX: u32 = 5;
/// Pause before the first resumption; it doubles.
pub const CLIENT_RESUME_PAUSE: Duration = Duration::from_millis(500);
/// When an idle service gives its program text back for the first time after starting.
pub const TEXT_RELEASE_FIRST: Duration = Duration::from_secs(2);
/// How long after a look for work the text that it used is given back.
pub const TEXT_RELEASE_AFTER: Duration = Duration::from_millis(20);
/// Processor time between two looks for work up to which a service counts as idle: a look takes under a millisecond.
pub const IDLE_PROCESSOR_TIME: Duration = Duration::from_millis(5);
/// Longest command in a sandbox: the daemon's own longest time limit of code.
pub const SANDBOX_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long one attempt at a call waits for its sandbox to be made; making it goes on for the next attempt.
pub const SANDBOX_CREATE_WAIT: Duration = Duration::from_secs(60);
/// Bound on the making of a sandbox: its image may have to be fetched.
pub const SANDBOX_CREATE_TIMEOUT: Duration = Duration::from_secs(600);
/// How much longer than a command's own time limit the daemon may take to answer: it may have to resume the sandbox.
pub const SANDBOX_GRACE: Duration = Duration::from_secs(45);
/// Bound on a request to the daemon that runs nothing inside: renewal, removal, listing.
pub const SANDBOX_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer of the daemon that is read whole, bytes; beside it there is what a call's own bound lets through.
pub const SANDBOX_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Largest listing of a directory that is read, bytes.
pub const SANDBOX_LISTING_BYTES_MAX: usize = 8 << 20;
/// Longest line of what a piece of Python tells, bytes; a longer one holds a picture and is left out.
pub const SANDBOX_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Values that one piece of Python shows; further ones are counted.
pub const SANDBOX_RESULTS_MAX: usize = 32;
/// Largest file that `file_edit` changes, bytes.
pub const SANDBOX_EDIT_BYTES_MAX: usize = 8 << 20;
/// Deepest `file_list`.
pub const SANDBOX_LIST_DEPTH_MAX: u32 = 16;
/// How often sandboxes that are to be given back are looked for, beside when a task ends.
pub const SANDBOX_RELEASE_POLL: Duration = Duration::from_secs(5);
/// Sandboxes that are given back at once.
pub const SANDBOX_RELEASE_BATCH: usize = 16;
/// First pause before a removal is tried again, milliseconds; it doubles.
pub const SANDBOX_RELEASE_BACKOFF_MS: u64 = 2_000;
/// Times that the pause doubles.
pub const SANDBOX_RELEASE_DOUBLINGS: u32 = 8;
/// How long a creation whose answer was lost is looked for at the daemon before it counts as never made, milliseconds.
pub const SANDBOX_SETTLE_MS: u64 = 60_000;
/// How long a process that ends takes to give back what its last tasks worked in; the next process does the rest.
pub const SANDBOX_LAST_RELEASE: Duration = Duration::from_secs(5);
/// Shortest run of characters in a provider's sentence that counts as a quotation of the prompt and is not logged.
pub const LOG_QUOTE_CHARS_MIN: usize = 16;
/// Characters of arguments, or of what a schema refused, that an error quotes.
pub const ERROR_DETAIL_CHARS_MAX: usize = 1_000;
/// Lines a second on refused requests; what is beyond is counted in the next one.
pub const REFUSAL_LINES_PER_SECOND: u32 = 10;
/// Characters of a call's arguments, or of a question, that `mote run` and `mote task watch` show when they ask.
pub const ASK_CHARS_MAX: usize = 4_000;
/// Choices of a question that are numbered; more are shown as their schema.
pub const ASK_CHOICES_MAX: usize = 30;
/// How long a task's stream is quiet before its watcher looks what the task waits for.
pub const ASK_QUIET: Duration = Duration::from_millis(150);
