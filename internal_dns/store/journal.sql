-- The journal: which parts of the catalog a commit changed, so that the server re-reads only those.
--
-- `internal-dns init` adds this to schema.sql, and by it a file is *owned*: written by internal-dns. Triggers fill it
-- whoever writes. Rows are kept until the writer trims them; a reader that has missed some reads everything again.
--
-- kind      network_id  label
-- app       of the app  its name: apps, machines and what belongs to machines
-- peers     theirs      NULL
-- flycast   where       the app name
-- network   its id      NULL
-- places    NULL        NULL: regions, latency or hosts; every answer may depend on them

CREATE TABLE journal (
    revision   INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL,
    network_id INTEGER,
    label      TEXT,
    written_at REAL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)  -- Unix seconds; tells how old an answer is
);

-- How often each network changed: what `_whoami` tells, and nothing of others. Trimming keeps it. No number that is
-- the key of a rowid table, as a laxer writer may have text for a network_id, and its commit must not fail here.
CREATE TABLE network_revisions (
    network_id INTEGER NOT NULL PRIMARY KEY,
    changes    INTEGER NOT NULL
) WITHOUT ROWID;

-- Two plain statements: the conflict clause of the statement that fires a trigger would override one in here.
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

-- REPLACE deletes the row it collides with, without any DELETE trigger: its app is noted before.
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

CREATE TRIGGER regions_inserted AFTER INSERT ON regions BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER regions_updated AFTER UPDATE ON regions BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER regions_deleted AFTER DELETE ON regions BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER latency_inserted AFTER INSERT ON region_latency BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER latency_updated AFTER UPDATE ON region_latency BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER latency_deleted AFTER DELETE ON region_latency BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER hosts_inserted AFTER INSERT ON hosts BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER hosts_updated AFTER UPDATE ON hosts BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
CREATE TRIGGER hosts_deleted AFTER DELETE ON hosts BEGIN INSERT INTO journal (kind) VALUES ('places'); END;
