-- On top of acme.sql: apps, regions, groups and peers called like words of the grammar.
INSERT INTO machines (id, network_id, app, address, region, state) VALUES
    ('00000000006001', 24, '_api', 'fdaa:0:18:a7b:7d:6:1:2', 'iad', 'started'),
    ('00000000006002', 24, '_apps', 'fdaa:0:18:a7b:7d:6:2:2', 'iad', 'started'),
    ('00000000006003', 24, '_dns', 'fdaa:0:18:a7b:7d:6:3:2', 'iad', 'started'),
    ('00000000006004', 24, '_instances', 'fdaa:0:18:a7b:7d:6:4:2', 'iad', 'started'),
    ('00000000006005', 24, '_page', 'fdaa:0:18:a7b:7d:6:5:2', 'iad', 'started'),
    ('00000000006006', 24, '_peer', 'fdaa:0:18:a7b:7d:6:6:2', 'iad', 'started'),
    ('00000000006007', 24, '_whoami', 'fdaa:0:18:a7b:7d:6:7:2', 'iad', 'started'),
    ('00000000006008', 24, 'all', 'fdaa:0:18:a7b:7d:6:8:2', 'iad', 'started'),
    ('00000000006009', 24, 'global', 'fdaa:0:18:a7b:7d:6:9:2', 'iad', 'started'),
    ('0000000000600a', 24, 'of', 'fdaa:0:18:a7b:7d:6:a:2', 'iad', 'started'),
    ('0000000000600b', 24, 'process', 'fdaa:0:18:a7b:7d:6:b:2', 'iad', 'started'),
    ('0000000000600c', 24, 'regions', 'fdaa:0:18:a7b:7d:6:c:2', 'iad', 'started'),
    ('0000000000600d', 24, 'top3', 'fdaa:0:18:a7b:7d:6:d:2', 'iad', 'started'),
    ('0000000000600e', 24, 'vm', 'fdaa:0:18:a7b:7d:6:e:2', 'iad', 'started'),
    ('0000000000600f', 24, 'vms', 'fdaa:0:18:a7b:7d:6:f:2', 'vms', 'started'),
    ('00000000006010', 24, 'vms', 'fdaa:0:18:a7b:7d:6:10:2', 'global', 'started');
INSERT INTO peers (network_id, name, address, region) VALUES (24, '_apps', 'fdaa:0:18:a7b:7d:6:12:102', '');
