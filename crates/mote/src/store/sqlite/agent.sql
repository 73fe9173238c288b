-- Version 3: whose store it is.

CREATE TABLE agent (                    -- one row, once an agent has opened the store
  id INTEGER PRIMARY KEY CHECK (id = 1),
  name TEXT NOT NULL                    -- as in its agent.yaml
) STRICT;
