-- The journal: which parts of the catalog a commit changed, so that the server re-reads only those.
--
-- `internal-dns init` adds this to schema.sql. A file with a journal is *owned*: internal-dns is
-- its writer. Triggers fill the journal whoever writes. The writer trims old entries; a reader that
-- has missed some reads the whole file.
--
-- kind      network_id      label
-- app       of the app      its name: apps, machines, and metadata and services of machines
-- peers     of the peers    NULL
-- flycast   of the address  the app name
-- record    of the record   the name of its owner
-- zone      of the zone     its name
-- network   its id          NULL
-- places    NULL            NULL: regions, latency or hosts; any answer may depend on them

CREATE TABLE journal (
    revision   INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL,
    network_id INTEGER,
    label      TEXT,
    -- Unix seconds; the propagation metric counts from it.
    written_at REAL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
);

-- Changes per network: the revision in `_whoami`, which reveals nothing about other networks.
-- Trimming keeps it. WITHOUT ROWID, because a laxer writer may store text as network_id, which a
-- rowid cannot hold, and its commit must not fail here.
CREATE TABLE network_revisions (
    network_id INTEGER NOT NULL PRIMARY KEY,
    changes    INTEGER NOT NULL
) WITHOUT ROWID;

-- Two plain statements: the conflict clause of the statement that fires the trigger would override
-- an upsert here.
CREATE TRIGGER journal_counted AFTER INSERT ON journal WHEN NEW.network_id IS NOT NULL BEGIN
    INSERT INTO network_revisions SELECT NEW.network_id, 0
    WHERE NOT EXISTS (SELECT 1 FROM network_revisions WHERE network_id = NEW.network_id);
    UPDATE network_revisions SET changes = changes + 1 WHERE network_id = NEW.network_id;
END;

CREATE TRIGGER networks_inserted AFTER INSERT ON networks BEGIN
    INSERT INTO journal (kind, network_id) VALUES ('network', NEW.id);
END;
CREATE TRIGGER networks_updated AFTER UPDATE ON networks BEGIN
    INSERT INTO journal (kind, network_id) VALUES ('network', OLD.id);
    INSERT INTO journal (kind, network_id) SELECT 'network', NEW.id WHERE NEW.id IS NOT OLD.id;
END;
CREATE TRIGGER networks_deleted AFTER DELETE ON networks BEGIN
    INSERT INTO journal (kind, network_id) VALUES ('network', OLD.id);
END;

CREATE TRIGGER apps_inserted AFTER INSERT ON apps BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('app', NEW.network_id, NEW.name);
END;
CREATE TRIGGER apps_updated AFTER UPDATE ON apps BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('app', OLD.network_id, OLD.name);
    INSERT INTO journal (kind, network_id, label) VALUES ('app', NEW.network_id, NEW.name);
END;
CREATE TRIGGER apps_deleted AFTER DELETE ON apps BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('app', OLD.network_id, OLD.name);
END;

-- REPLACE deletes the conflicting row without a DELETE trigger: its app is recorded first.
CREATE TRIGGER machines_replaced BEFORE INSERT ON machines BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id = NEW.id;
END;
CREATE TRIGGER machines_overwritten BEFORE UPDATE OF id ON machines BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id = NEW.id AND NEW.id IS NOT OLD.id;
END;
CREATE TRIGGER machines_inserted AFTER INSERT ON machines BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('app', NEW.network_id, NEW.app);
END;
CREATE TRIGGER machines_updated AFTER UPDATE ON machines BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('app', NEW.network_id, NEW.app);
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', OLD.network_id, OLD.app WHERE (OLD.network_id, OLD.app) IS NOT (NEW.network_id, NEW.app);
END;
CREATE TRIGGER machines_deleted AFTER DELETE ON machines BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('app', OLD.network_id, OLD.app);
END;

CREATE TRIGGER machine_metadata_inserted AFTER INSERT ON machine_metadata BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id = NEW.machine_id;
END;
CREATE TRIGGER machine_metadata_updated AFTER UPDATE ON machine_metadata BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id IN (OLD.machine_id, NEW.machine_id);
END;
CREATE TRIGGER machine_metadata_deleted AFTER DELETE ON machine_metadata BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id = OLD.machine_id;
END;

CREATE TRIGGER machine_services_inserted AFTER INSERT ON machine_services BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id = NEW.machine_id;
END;
CREATE TRIGGER machine_services_updated AFTER UPDATE ON machine_services BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id IN (OLD.machine_id, NEW.machine_id);
END;
CREATE TRIGGER machine_services_deleted AFTER DELETE ON machine_services BEGIN
    INSERT INTO journal (kind, network_id, label)
    SELECT 'app', network_id, app FROM machines WHERE id = OLD.machine_id;
END;

CREATE TRIGGER peers_inserted AFTER INSERT ON peers BEGIN
    INSERT INTO journal (kind, network_id) VALUES ('peers', NEW.network_id);
END;
CREATE TRIGGER peers_updated AFTER UPDATE ON peers BEGIN
    INSERT INTO journal (kind, network_id) VALUES ('peers', OLD.network_id);
    INSERT INTO journal (kind, network_id) SELECT 'peers', NEW.network_id WHERE NEW.network_id IS NOT OLD.network_id;
END;
CREATE TRIGGER peers_deleted AFTER DELETE ON peers BEGIN
    INSERT INTO journal (kind, network_id) VALUES ('peers', OLD.network_id);
END;

CREATE TRIGGER flycasts_inserted AFTER INSERT ON flycasts BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('flycast', NEW.network_id, NEW.app);
END;
CREATE TRIGGER flycasts_updated AFTER UPDATE ON flycasts BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('flycast', OLD.network_id, OLD.app);
    INSERT INTO journal (kind, network_id, label) VALUES ('flycast', NEW.network_id, NEW.app);
END;
CREATE TRIGGER flycasts_deleted AFTER DELETE ON flycasts BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('flycast', OLD.network_id, OLD.app);
END;

CREATE TRIGGER records_inserted AFTER INSERT ON records BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('record', NEW.network_id, NEW.name);
END;
CREATE TRIGGER records_updated AFTER UPDATE ON records BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('record', NEW.network_id, NEW.name);
    INSERT INTO journal (kind, network_id, label)
    SELECT 'record', OLD.network_id, OLD.name WHERE (OLD.network_id, OLD.name) IS NOT (NEW.network_id, NEW.name);
END;
CREATE TRIGGER records_deleted AFTER DELETE ON records BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('record', OLD.network_id, OLD.name);
END;

CREATE TRIGGER zones_inserted AFTER INSERT ON zones BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('zone', NEW.network_id, NEW.name);
END;
CREATE TRIGGER zones_updated AFTER UPDATE ON zones BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('zone', OLD.network_id, OLD.name);
    INSERT INTO journal (kind, network_id, label) VALUES ('zone', NEW.network_id, NEW.name);
END;
CREATE TRIGGER zones_deleted AFTER DELETE ON zones BEGIN
    INSERT INTO journal (kind, network_id, label) VALUES ('zone', OLD.network_id, OLD.name);
END;

CREATE TRIGGER regions_inserted AFTER INSERT ON regions BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER regions_updated AFTER UPDATE ON regions BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER regions_deleted AFTER DELETE ON regions BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER latency_inserted AFTER INSERT ON region_latency BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER latency_updated AFTER UPDATE ON region_latency BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER latency_deleted AFTER DELETE ON region_latency BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER hosts_inserted AFTER INSERT ON hosts BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER hosts_updated AFTER UPDATE ON hosts BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER hosts_deleted AFTER DELETE ON hosts BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
