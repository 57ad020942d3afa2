-- On top of acme.sql: rows that break a rule (31, each is marked), beside a few that just do not.
INSERT INTO apps VALUES
    (24, 'two words'),  -- 1
    (24, 'dotted.app'),  -- 2
    (24, ''),  -- 3
    (24, '0123456789012345678901234567890123456789012345678901234567890123'),  -- 4: 64 octets
    (24, 'umläut'),  -- 5
    (0, 'nobody');  -- 6
INSERT INTO machines (id, network_id, app, address, region, process_group, state) VALUES
    ('0_a-Z', 24, 'odd', 'fdaa:0:18:a7b:7d:8:1:2', 'iad', 'app', 'started'),
    ('000000000000000000000000000000000000000000000000000000000000000', 24, 'odd', 'fdaa:0:18:a7b:7d:8:2:2', 'iad', 'app', 'started'),
    ('a.b', 24, 'odd', 'fdaa:0:18:a7b:7d:8:3:2', 'iad', 'app', 'started'),  -- 7
    ('', 24, 'odd', 'fdaa:0:18:a7b:7d:8:4:2', 'iad', 'app', 'started'),  -- 8
    ('8001', 24, 'bad app', 'fdaa:0:18:a7b:7d:8:5:2', 'iad', 'app', 'started'),  -- 9
    ('8002', 24, 'odd', 'fdaa:0:18:a7b:7d:8:6:2', '', 'app', 'started'),  -- 10
    ('8003', 24, 'odd', 'fdaa:0:18:a7b:7d:8:7:2', 'i.ad', 'app', 'started'),  -- 11
    ('8004', 24, 'odd', 'fdaa:0:18:a7b:7d:8:8:2', 'iad', '', 'started'),  -- 12
    ('8005', 24, 'odd', 'fdaa:0:18:a7b:7d:8:9:2', 'iad', 'a group', 'started'),  -- 13
    ('8006', 24, 'odd', 'fdaa:0:19:a7b:7d:8:a:2', 'iad', 'app', 'started'),  -- 14: globex's
    ('8007', 24, 'odd', 'fdab:0:18:a7b:7d:8:b:2', 'iad', 'app', 'started'),  -- 15: another prefix
    ('8008', 24, 'odd', '10.0.0.1', 'iad', 'app', 'started'),  -- 16
    ('8009', 24, 'odd', '', 'iad', 'app', 'started'),  -- 17
    ('800a', 24, 'odd', 'fdaa:0:18:a7b:7d:8:c:2/112', 'iad', 'app', 'started'),  -- 18
    ('800b', 24, 'odd', 'nowhere', 'iad', 'app', 'started'),  -- 19
    ('800c', 0, 'odd', 'fdaa::a7b:7d:8:d:2', 'iad', 'app', 'started');  -- 20
INSERT INTO machine_services (machine_id, name, protocol, port) VALUES
    ('0_a-Z', 'ok', 'tcp', 65535),
    ('0_a-Z', 'zero', 'tcp', 0),  -- 21
    ('0_a-Z', 'much', 'tcp', 65536),  -- 22
    ('0_a-Z', 'sctp', 'sctp', 80),  -- 23
    ('0_a-Z', 'a name', 'tcp', 80),  -- 24
    ('0_a-Z', '012345678901234567890123456789012345678901234567890123456789012', 'tcp', 80);  -- 25: 64 octets with its _
INSERT INTO peers (network_id, name, address, region) VALUES
    (24, 'odd-peer', 'fdaa:0:18:a7b:7d:8:e:102', ''),
    (24, 'a peer', 'fdaa:0:18:a7b:7d:8:f:102', ''),  -- 26
    (24, 'far-peer', 'fdaa:0:19:a7b:7d:8:10:102', ''),  -- 27
    (24, 'lost-peer', 'fdaa:0:18:a7b:7d:8:11:102', 'i ad');  -- 28
INSERT INTO flycasts VALUES
    (24, 'odd', 'fdaa:0:18:0:1::99'),
    (24, 'odd', 'fdaa:0:19:0:1::99'),  -- 29: not allocated on this network
    (24, 'o.dd', 'fdaa:0:18:0:1::98'),  -- 30
    (0, 'odd', 'fdaa:0:18:0:1::97');  -- 31
