-- Version 2: the sandboxes that the agent works in.

CREATE TABLE sandboxes (
  n INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT,                          -- with session
  session TEXT,                         -- it belongs to this session, or
  task TEXT,                            -- to this task; both NULL: it is to be given back
  generation INTEGER NOT NULL,          -- from 1: how many the owner has had
  url TEXT NOT NULL,                    -- the daemon's address
  creation TEXT NOT NULL UNIQUE,        -- idempotency key of its creation
  spec TEXT NOT NULL,                   -- digest of what it is made of
  sandbox TEXT,                         -- its id at the daemon; NULL while that is not known
  reason TEXT,                          -- why the one before it is no more
  told_task TEXT,                       -- the call that tells the model that it is a fresh one
  told_call TEXT,
  python INTEGER NOT NULL DEFAULT 0,    -- 1: Python was used in it
  created_at INTEGER NOT NULL,
  release_at INTEGER,                   -- when its removal is due; NULL: it has an owner
  attempts INTEGER NOT NULL DEFAULT 0   -- removals tried in vain
) STRICT;
CREATE UNIQUE INDEX sandboxes_session ON sandboxes (tenant, session) WHERE session IS NOT NULL;
CREATE UNIQUE INDEX sandboxes_task ON sandboxes (task) WHERE task IS NOT NULL;
CREATE INDEX sandboxes_release ON sandboxes (release_at) WHERE release_at IS NOT NULL;
