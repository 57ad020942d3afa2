-- On top of acme.sql: an app whose metadata is as strange as free text allows.
INSERT INTO machines (id, network_id, app, address, region, state) VALUES
    ('00000000005001', 24, 'meta', 'fdaa:0:18:a7b:7d:5:1:2', 'iad', 'started'),
    ('00000000005002', 24, 'meta', 'fdaa:0:18:a7b:7d:5:2:2', 'iad', 'started'),
    ('00000000005003', 24, 'meta', 'fdaa:0:18:a7b:7d:5:3:2', 'iad', 'started'),
    ('00000000005004', 24, 'meta', 'fdaa:0:18:a7b:7d:5:4:2', 'iad', 'started');
INSERT INTO machine_metadata VALUES
    ('00000000005001', 'umlaut', 'ä'),
    ('00000000005001', 'team', 'Blue Ocean'),
    ('00000000005001', 'quoted', '"x"'),
    ('00000000005001', 'dotted.key', 'v'),
    ('00000000005002', 'empty', ''),
    ('00000000005002', 'long', '0123456789012345678901234567890123456789012345678901234567890123456789'),
    ('00000000005002', 'doubledot', 'a..b'),
    ('00000000005003', 'twice', 'one'),
    ('00000000005003', 'Twice', 'two'),
    ('00000000005004', 'words', 'vms.all.of'),
    ('00000000005004', 'kv', 'x'),
    ('00000000005004', '_metadata', '');
