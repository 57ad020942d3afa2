-- A network of the ULA /16 fdab; the row of another /16 is left out.
INSERT INTO networks VALUES (24, 'acme', 'acme');
INSERT INTO machines (id, network_id, app, address, region, state) VALUES
    ('784e469c461d38', 24, 'web', 'fdab:0:18:a7b:7d:1:1:2', 'iad', 'started'),
    ('90801679a10038', 24, 'web', 'fdaa:0:18:a7b:7d:1:2:2', 'iad', 'started');
