-- Version 1. Times are milliseconds since the Unix epoch; money is nano-USD (1e-9 USD). docs/store.md explains it.

CREATE TABLE tasks (
  n INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of submission
  id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL,                 -- '' is the default tenant
  user TEXT,
  session TEXT,                         -- its tasks run one at a time
  labels TEXT NOT NULL,                 -- JSON object of strings
  status TEXT NOT NULL,                 -- queued | running | waiting | completed | failed | cancelled
  due_at INTEGER,                       -- when it may be claimed (running: the lease's end); NULL: not by time
  worker TEXT,                          -- who holds the lease, while running
  epoch INTEGER NOT NULL,               -- raised by every claim; an older one cannot commit
  seq INTEGER NOT NULL,                 -- last journal entry
  claims INTEGER NOT NULL,              -- claims since the last commit
  requeues INTEGER NOT NULL DEFAULT 0,  -- times it came back from the dead letters
  request TEXT NOT NULL,                -- JSON, as accepted
  waiting TEXT,                         -- JSON: what it waits for, while waiting
  reservation TEXT,                     -- JSON: the open reservation on budgets
  result TEXT,                          -- JSON, once completed
  error_code TEXT,
  error_message TEXT,
  dead INTEGER NOT NULL DEFAULT 0,      -- 1: in the dead letters
  tokens_input INTEGER NOT NULL DEFAULT 0,
  tokens_cache_read INTEGER NOT NULL DEFAULT 0,
  tokens_cache_write INTEGER NOT NULL DEFAULT 0,
  tokens_output INTEGER NOT NULL DEFAULT 0,
  tokens_reasoning INTEGER NOT NULL DEFAULT 0,
  cost_nano_usd INTEGER NOT NULL DEFAULT 0,
  steps INTEGER NOT NULL DEFAULT 0,
  tool_calls INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  updated_at INTEGER NOT NULL,
  finished_at INTEGER,
  expires_at INTEGER
) STRICT;
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_status ON tasks (status);
CREATE INDEX tasks_tenant ON tasks (tenant) WHERE tenant <> '';
CREATE INDEX tasks_user ON tasks (tenant, user) WHERE user IS NOT NULL;
CREATE INDEX tasks_session ON tasks (tenant, session, finished_at) WHERE session IS NOT NULL;
CREATE INDEX tasks_finished ON tasks (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX tasks_dead ON tasks (dead) WHERE dead = 1;

CREATE TABLE journal (
  task TEXT NOT NULL,                   -- a task's id, or <id>.<n>: the journal before its n-th requeue
  seq INTEGER NOT NULL,                 -- from 1, without gaps
  epoch INTEGER NOT NULL,               -- the attempt that wrote it
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,                   -- model.replied, ...
  record BLOB NOT NULL,                 -- the core's event and actions
  payload TEXT,                         -- JSON that belongs to it
  blob TEXT,                            -- digest of a payload that is kept in blobs
  PRIMARY KEY (task, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
  digest TEXT PRIMARY KEY,              -- SHA-256 of the content, hexadecimal
  content TEXT NOT NULL,
  refs INTEGER NOT NULL                 -- journal entries that point here
) STRICT;

CREATE TABLE effects (
  task TEXT NOT NULL,
  key TEXT NOT NULL,                    -- idempotency key of the call
  tool TEXT NOT NULL,
  class TEXT NOT NULL,                  -- read | idempotent | write
  attempt INTEGER NOT NULL,             -- from 1
  outcome TEXT NOT NULL,                -- reserved | done | failed | unknown
  at INTEGER NOT NULL,
  PRIMARY KEY (task, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE mail (                     -- unread inputs, signals and cancels
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  task TEXT NOT NULL,
  at INTEGER NOT NULL,
  body TEXT NOT NULL                    -- JSON
) STRICT;
CREATE INDEX mail_task ON mail (task);

CREATE TABLE sessions (
  tenant TEXT NOT NULL,
  id TEXT NOT NULL,
  user TEXT,                            -- of its first task
  turns INTEGER NOT NULL DEFAULT 0,     -- finished turns
  messages INTEGER NOT NULL DEFAULT 0,  -- messages ever added; the newest are in session_messages
  tokens_input INTEGER NOT NULL DEFAULT 0,
  tokens_cache_read INTEGER NOT NULL DEFAULT 0,
  tokens_cache_write INTEGER NOT NULL DEFAULT 0,
  tokens_output INTEGER NOT NULL DEFAULT 0,
  tokens_reasoning INTEGER NOT NULL DEFAULT 0,
  cost_nano_usd INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE session_messages (
  tenant TEXT NOT NULL,
  session TEXT NOT NULL,
  n INTEGER NOT NULL,                   -- from 1
  task TEXT NOT NULL,                   -- the task whose turn it belongs to
  message TEXT NOT NULL,                -- JSON
  PRIMARY KEY (tenant, session, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
  tenant TEXT NOT NULL,
  route TEXT NOT NULL,                  -- POST /tasks, ...
  key TEXT NOT NULL,
  fingerprint BLOB NOT NULL,            -- SHA-256 of the canonical request
  task TEXT NOT NULL,                   -- the answer
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (tenant, route, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expires ON idempotency (expires_at);

CREATE TABLE budgets (
  scope TEXT NOT NULL,                  -- agent, tenant:..., session:..., user:...
  window_start INTEGER NOT NULL,        -- 0: no window
  spent_tokens INTEGER NOT NULL,
  spent_nano_usd INTEGER NOT NULL,
  reserved_tokens INTEGER NOT NULL,     -- open reservations
  reserved_nano_usd INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (scope, window_start)
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger (                   -- one row a settled model call
  id INTEGER PRIMARY KEY,
  task TEXT NOT NULL,
  step INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  user TEXT,
  session TEXT,
  labels TEXT NOT NULL,
  model TEXT NOT NULL,
  tokens_input INTEGER NOT NULL,
  tokens_cache_read INTEGER NOT NULL,
  tokens_cache_write INTEGER NOT NULL,
  tokens_output INTEGER NOT NULL,
  tokens_reasoning INTEGER NOT NULL,
  nano_usd INTEGER NOT NULL,            -- spent
  reserved_tokens INTEGER NOT NULL,     -- what had been reserved; less than spent is an overshoot
  reserved_nano_usd INTEGER NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_task ON ledger (task);

CREATE TABLE outbox (                   -- messages for sinks, not yet delivered
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  message_id TEXT NOT NULL,
  task TEXT NOT NULL,
  body TEXT NOT NULL,                   -- JSON, as sent
  due_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX outbox_due ON outbox (due_at);
CREATE INDEX outbox_task ON outbox (task);

CREATE TABLE counts (                   -- kept by every commit, so that nobody has to count
  name TEXT PRIMARY KEY,                -- queued | running | waiting | dead | outbox
  n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counts VALUES ('queued', 0), ('running', 0), ('waiting', 0), ('dead', 0), ('outbox', 0);

CREATE TABLE health (                   -- one row, written to see whether the file can be written
  id INTEGER PRIMARY KEY CHECK (id = 1),
  writes INTEGER NOT NULL
) STRICT;
INSERT INTO health VALUES (1, 0);
