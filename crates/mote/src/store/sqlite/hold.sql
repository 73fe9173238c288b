-- Version 4: what a restored backup must not do again by itself.

CREATE TABLE hold (                     -- one row while something is held: see `mote store restore --hold`
  id INTEGER PRIMARY KEY CHECK (id = 1),
  task INTEGER NOT NULL,                -- tasks.n up to here are claimed by nobody
  message INTEGER NOT NULL              -- outbox.id up to here is sent to nobody
) STRICT;
