-- Version 6: listing by date, deleting one task, and secrets that the processes of one store share.

CREATE INDEX tasks_created ON tasks (created_at);

ALTER TABLE ledger ADD COLUMN deleted_at INTEGER; -- when its task was deleted; the row then names no user, session or label
CREATE INDEX ledger_deleted ON ledger (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE secrets (                  -- made by the first process that needs one
  name TEXT PRIMARY KEY,                -- what it is for
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
