-- What nobody knows the cost of, tasks that are resumed, and tasks that may bring workers down.

ALTER TABLE tasks ADD COLUMN uncertain_input INTEGER NOT NULL DEFAULT 0;    -- tokens that calls of unknown cost may have used
ALTER TABLE tasks ADD COLUMN uncertain_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN uncertain_nano_usd INTEGER NOT NULL DEFAULT 0; -- and what they may have cost
ALTER TABLE tasks ADD COLUMN forfeited INTEGER NOT NULL DEFAULT 0;          -- 1: the reservation of a dead letter is booked already
ALTER TABLE tasks ADD COLUMN resumes INTEGER NOT NULL DEFAULT 0;            -- times it was resumed after it had ended
ALTER TABLE tasks ADD COLUMN trials INTEGER NOT NULL DEFAULT 0;             -- times that a worker took it up alone and did not commit

ALTER TABLE sessions ADD COLUMN uncertain_input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN uncertain_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN uncertain_nano_usd INTEGER NOT NULL DEFAULT 0;

ALTER TABLE ledger ADD COLUMN uncertain INTEGER NOT NULL DEFAULT 0;         -- 1: nobody said what it cost; this is an estimate
ALTER TABLE ledger ADD COLUMN life INTEGER NOT NULL DEFAULT 0;              -- times that the task had been run anew before

ALTER TABLE effects ADD COLUMN step INTEGER NOT NULL DEFAULT 0;             -- the model step that asked for it
ALTER TABLE effects ADD COLUMN call TEXT NOT NULL DEFAULT '';               -- the call's id, as the model gave it

CREATE INDEX tasks_suspect ON tasks (claims) WHERE claims >= 2;             -- CLAIMS_TOGETHER_MAX: tried alone
