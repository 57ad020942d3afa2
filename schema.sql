-- The catalog: everything the server answers from, in one SQLite file per host.
--
-- Other programs write this file too (a gossiping SQLite such as Corrosion, a shell), so its tables
-- and columns are a contract. They use only what such engines accept: CREATE TABLE and CREATE
-- INDEX, a primary key of NOT NULL columns, and a DEFAULT on every NOT NULL column; no UNIQUE
-- index, FOREIGN KEY, CHECK, generated column, view or trigger. New versions only add tables and
-- columns.
--
-- Flags are 0 or 1, times are Unix seconds, addresses are RFC 5952 text. The fields of an address:
--   prefix (16 bits, fdaa) . network (32) . host (32) . machine (32) . free (16)

CREATE TABLE organizations (
    slug TEXT NOT NULL DEFAULT '' PRIMARY KEY,
    name TEXT NOT NULL DEFAULT ''
);

-- id: the 32 network bits as an integer; 0 is reserved.
CREATE TABLE networks (
    id           INTEGER NOT NULL DEFAULT 0 PRIMARY KEY,
    name         TEXT NOT NULL DEFAULT '',
    organization TEXT NOT NULL DEFAULT ''
);

-- An app exists if it has a row here or a machine; its name is unique within a network only.
CREATE TABLE apps (
    network_id INTEGER NOT NULL DEFAULT 0,
    name       TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (network_id, name)
);

-- Answered while state = 'started' and skip_registration = 0. ready = 0: left out of every set of addresses that has a
-- ready machine. name: <name>.vm.<app>.internal answers as <id>.vm does; several machines may share one. source: the
-- live source that owns the row, and alone changes it; '' for rows that people and `apply` write.
CREATE TABLE machines (
    id                TEXT NOT NULL DEFAULT '' PRIMARY KEY,
    network_id        INTEGER NOT NULL DEFAULT 0,
    app               TEXT NOT NULL DEFAULT '',
    address           TEXT NOT NULL DEFAULT '',
    region            TEXT NOT NULL DEFAULT '',
    process_group     TEXT NOT NULL DEFAULT 'app',
    state             TEXT NOT NULL DEFAULT 'created',
    skip_registration INTEGER NOT NULL DEFAULT 0,
    updated_at        INTEGER NOT NULL DEFAULT 0,
    ready             INTEGER NOT NULL DEFAULT 1,
    name              TEXT NOT NULL DEFAULT '',
    source            TEXT NOT NULL DEFAULT ''
);
CREATE INDEX machines_by_app ON machines (network_id, app);

CREATE TABLE machine_metadata (
    machine_id TEXT NOT NULL DEFAULT '',
    key        TEXT NOT NULL DEFAULT '',
    value      TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (machine_id, key)
);

-- protocol: 'tcp' or 'udp'. Answered as SRV at _<name>._<protocol>.<app>.internal, with priority and weight (0 to
-- 65535).
CREATE TABLE machine_services (
    machine_id TEXT NOT NULL DEFAULT '',
    name       TEXT NOT NULL DEFAULT '',
    protocol   TEXT NOT NULL DEFAULT 'tcp',
    port       INTEGER NOT NULL DEFAULT 0,
    priority   INTEGER NOT NULL DEFAULT 0,
    weight     INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (machine_id, name, protocol)
);

-- WireGuard peers; each owns the /120 of its address. region '': the region of its host. source: as of machines.
CREATE TABLE peers (
    network_id INTEGER NOT NULL DEFAULT 0,
    name       TEXT NOT NULL DEFAULT '',
    address    TEXT NOT NULL DEFAULT '',
    region     TEXT NOT NULL DEFAULT '',
    source     TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (network_id, name)
);

-- network_id: the network of the address; the app may belong to another network.
CREATE TABLE flycasts (
    network_id INTEGER NOT NULL DEFAULT 0,
    app        TEXT NOT NULL DEFAULT '',
    address    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (network_id, app, address)
);

-- Records of a network's own, in .internal and in its zones: docs/names.md. name: the owner in
-- presentation form, lower-case, without the last dot. type: A, AAAA, CNAME, ALIAS, TXT, MX, SRV,
-- CAA, HTTPS, SVCB; in zones PTR too. value: in presentation form. ttl: seconds, at most 86400.
CREATE TABLE records (
    network_id INTEGER NOT NULL DEFAULT 0,
    name       TEXT NOT NULL DEFAULT '',
    type       TEXT NOT NULL DEFAULT '',
    value      TEXT NOT NULL DEFAULT '',
    ttl        INTEGER NOT NULL DEFAULT 5,
    PRIMARY KEY (network_id, name, type, value)
);

-- Private zones: for this network alone all names in them are answered from its records.
CREATE TABLE zones (
    network_id INTEGER NOT NULL DEFAULT 0,
    name       TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (network_id, name)
);

-- latitude and longitude in degrees, NULL when unknown; gateway: WireGuard peers may connect there.
CREATE TABLE regions (
    code      TEXT NOT NULL DEFAULT '' PRIMARY KEY,
    name      TEXT NOT NULL DEFAULT '',
    latitude  REAL,
    longitude REAL,
    gateway   INTEGER NOT NULL DEFAULT 0
);

-- Measured round trips; they override the great-circle estimate.
CREATE TABLE region_latency (
    from_region  TEXT NOT NULL DEFAULT '',
    to_region    TEXT NOT NULL DEFAULT '',
    milliseconds REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (from_region, to_region)
);

-- id: the 32 host bits as an integer.
CREATE TABLE hosts (
    id     INTEGER NOT NULL DEFAULT 0 PRIMARY KEY,
    name   TEXT NOT NULL DEFAULT '',
    region TEXT NOT NULL DEFAULT ''
);

CREATE TABLE meta (
    key   TEXT NOT NULL DEFAULT '' PRIMARY KEY,
    value TEXT NOT NULL DEFAULT ''
);
