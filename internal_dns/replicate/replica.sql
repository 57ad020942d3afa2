-- What a follower keeps beside the catalog, in the same transactions: made when a file follows a bucket for the first
-- time. By `replica` the file is known to be a replica, which only its follower writes.

CREATE TABLE IF NOT EXISTS replica (
    source   TEXT NOT NULL,     -- the bucket's address, without its secrets
    stream   TEXT NOT NULL,     -- which stream that was; one that is made anew has another
    revision INTEGER NOT NULL,  -- everything up to here is in the file
    at       REAL NOT NULL      -- Unix seconds of the last change
);

-- Every key of the bucket that was seen, so that an older message never undoes a newer one.
-- state: row; gone (deleted, and its tombstone may still be told); bad (kept out); floor
CREATE TABLE IF NOT EXISTS replica_rows (
    key      TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    state    TEXT NOT NULL
) WITHOUT ROWID;

-- Messages that were kept out, and why. The row of such a key stays as it was before.
CREATE TABLE IF NOT EXISTS replica_quarantine (
    key      TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    why      TEXT NOT NULL
) WITHOUT ROWID;
