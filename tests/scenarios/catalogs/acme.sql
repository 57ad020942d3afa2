-- Two tenants and an empty one. acme (0x18) has the documents' own machine and peer; globex (0x19) has a `web` too.
INSERT INTO organizations VALUES ('acme', 'Acme Corporation'), ('globex', 'Globex Corporation');
INSERT INTO networks VALUES (24, 'acme', 'acme'), (25, 'globex', 'globex'), (26, 'vacant', 'acme');

INSERT INTO regions VALUES
    ('ams', 'Amsterdam', 52.31, 4.76, 1),
    ('gru', 'Sao Paulo', -23.43, -46.47, 1),
    ('iad', 'Ashburn', 38.94, -77.46, 1),
    ('lhr', 'London', 51.47, -0.45, 0),  -- no machine is here
    ('nrt', 'Tokyo', 35.76, 140.39, 1),
    ('ord', 'Chicago', 41.98, -87.9, 0),
    ('syd', 'Sydney', -33.95, 151.18, 0),
    ('moon', 'Tranquility', NULL, NULL, 0);
INSERT INTO region_latency VALUES
    ('iad', 'ord', 17.5), ('iad', 'ams', 82.0), ('iad', 'gru', 115.0), ('iad', 'nrt', 160.0),
    ('ams', 'nrt', 235.0), ('nrt', 'syd', 105.0);
INSERT INTO hosts VALUES  -- the 32 host bits of an address: a7b:7d and so on
    (0x0a7b007d, 'iad-1', 'iad'), (0x0a7b007e, 'iad-2', 'iad'), (0x0a7b0081, 'ord-1', 'ord'),
    (0x0a7b0091, 'ams-1', 'ams'), (0x0a7b00a1, 'nrt-1', 'nrt'), (0x0a7b00b1, 'syd-1', 'syd'),
    (0x0a7b00c1, 'gru-1', 'gru');

INSERT INTO apps VALUES (24, 'web'), (24, 'db'), (24, 'batch'), (24, 'blog'), (25, 'web'), (25, 'secret');
INSERT INTO machines (id, network_id, app, address, region, process_group, state, skip_registration) VALUES
    ('3d8d9930b03989', 24, 'web', 'fdaa:0:18:a7b:7d:f066:b83b:2', 'iad', 'web', 'started', 0),
    ('5683d474b40d8e', 24, 'web', 'fdaa:0:18:a7b:7e:1:2:2', 'iad', 'web', 'started', 0),
    ('7811e63fd4de08', 24, 'web', 'fdaa:0:18:a7b:91:1:3:2', 'ams', 'web', 'started', 0),
    ('e2865013bd7d86', 24, 'web', 'fdaa:0:18:a7b:a1:1:4:2', 'nrt', 'web', 'started', 0),
    ('4d89696a2e7508', 24, 'web', 'fdaa:0:18:a7b:7d:1:5:2', 'iad', 'worker', 'started', 0),
    ('287444ec026748', 24, 'web', 'fdaa:0:18:a7b:b1:1:6:2', 'syd', 'worker', 'stopped', 0),
    ('683d920b195638', 24, 'web', 'fdaa:0:18:a7b:91:1:7:2', 'ams', 'worker', 'suspended', 0),
    ('9080524f610e87', 24, 'web', 'fdaa:0:18:a7b:81:1:8:2', 'ord', 'web', 'created', 0),
    ('1857705c2ee4e8', 24, 'web', 'fdaa:0:18:a7b:7e:1:9:2', 'iad', 'web', 'destroyed', 0),
    ('6e82dd75b4e987', 24, 'web', 'fdaa:0:18:a7b:7e:1:a:2', 'iad', 'release', 'started', 1),
    ('148e306c77e789', 24, 'db', 'fdaa:0:18:a7b:7d:2:1:2', 'iad', 'app', 'started', 0),
    ('32874445f04218', 24, 'db', 'fdaa:0:18:a7b:81:2:2:2', 'ord', 'app', 'started', 0),
    ('d891256b604e78', 24, 'db', 'fdaa:0:18:a7b:91:2:3:2', 'ams', 'app', 'started', 0),
    ('17811953f92389', 24, 'batch', 'fdaa:0:18:a7b:7e:3:1:2', 'iad', 'app', 'stopped', 0),
    ('2866e97a774508', 24, 'batch', 'fdaa:0:18:a7b:7e:3:2:2', 'iad', 'app', 'stopped', 0),
    ('91852d4f465483', 24, 'lonely', 'fdaa:0:18:a7b:7e:4:1:2', 'iad', 'app', 'started', 0),  -- an app without an apps row
    ('784e469c461d38', 25, 'web', 'fdaa:0:19:a7b:7d:1:1:2', 'iad', 'app', 'started', 0),
    ('90801679a10038', 25, 'web', 'fdaa:0:19:a7b:c1:1:2:2', 'gru', 'app', 'started', 0),
    ('568320eb7d968e', 25, 'secret', 'fdaa:0:19:a7b:c1:1:3:2', 'gru', 'vault', 'started', 0);

INSERT INTO machine_metadata VALUES
    ('148e306c77e789', 'role', 'Leader'),
    ('32874445f04218', 'role', 'replica'),
    ('d891256b604e78', 'role', 'Replica'),
    ('3d8d9930b03989', 'version', '1.2.3'),
    ('5683d474b40d8e', 'version', '1.2.3'),
    ('7811e63fd4de08', 'version', '1.3.0-rc.1'),
    ('e2865013bd7d86', 'Version', '1.2'),
    ('287444ec026748', 'version', '1.2.3'),
    ('287444ec026748', 'parked', 'yes'),
    ('784e469c461d38', 'tenant', 'globex');
INSERT INTO machine_services (machine_id, name, protocol, port) VALUES
    ('3d8d9930b03989', 'http', 'tcp', 8080),
    ('5683d474b40d8e', 'http', 'tcp', 8081),
    ('287444ec026748', 'http', 'tcp', 8080),
    ('287444ec026748', 'debug', 'tcp', 4000),
    ('148e306c77e789', 'postgres', 'tcp', 5432),
    ('148e306c77e789', 'dns', 'udp', 53),
    ('148e306c77e789', 'dns', 'tcp', 853),
    ('784e469c461d38', 'grpc', 'tcp', 50051);

INSERT INTO peers (network_id, name, address, region) VALUES
    (24, 'alice-laptop', 'fdaa:0:18:a7b:7d:f066:b83b:102', ''),  -- in the /112 of 3d8d9930b03989
    (24, 'bob-desktop', 'fdaa:0:18:a7b:91:9:1:102', 'gru'),
    (24, 'interactive-alice-7f3a', 'fdaa:0:18:a7b:7d:9:2:102', 'nrt'),
    (24, 'nomad', 'fdaa:0:18:ffff:1:9:3:102', ''),  -- on a host that nobody knows
    (25, 'carol-laptop', 'fdaa:0:19:a7b:c1:9:1:102', 'gru');
INSERT INTO flycasts VALUES
    (24, 'web', 'fdaa:0:18:0:1::2'),
    (24, 'web', 'fdaa:0:18:0:1::5'),
    (24, 'db', 'fdaa:0:18:0:1::3'),
    (24, 'batch', 'fdaa:0:18:0:1::4'),
    (25, 'db', 'fdaa:0:19:0:1::2');  -- acme's app, on globex's network
INSERT INTO meta VALUES ('name', 'acme and globex');
