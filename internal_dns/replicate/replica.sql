-- The state of a follower, stored beside the catalog and written in the same transactions. A file gets these tables when
-- it first follows a bucket. A row in `replica` marks the file as a replica, which only its follower may write.

CREATE TABLE IF NOT EXISTS replica (
    source   TEXT NOT NULL,     -- the address of the bucket, without secrets
    stream   TEXT NOT NULL,     -- identity of the stream; a recreated stream has another
    revision INTEGER NOT NULL,  -- everything up to this revision is in the file
    at       REAL NOT NULL      -- Unix seconds of the last change
);

-- Every key received from the bucket, so that an older message never overwrites a newer one.
-- state: row; gone (deleted, and its tombstone may be delivered again); bad (quarantined); floor
CREATE TABLE IF NOT EXISTS replica_rows (
    key      TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    state    TEXT NOT NULL
) WITHOUT ROWID;

-- Messages that were not applied, and why. The row of such a key stays unchanged.
CREATE TABLE IF NOT EXISTS replica_quarantine (
    key      TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    why      TEXT NOT NULL
) WITHOUT ROWID;
