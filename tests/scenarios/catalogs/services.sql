-- On top of acme.sql: an app with 20 machines that publish one service.
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
INSERT INTO machines (id, network_id, app, address, region, state)
SELECT printf('%014x', 0x7000 + i), 24, 'svc', printf('fdaa:0:18:a7b:7d:7:%x:2', i), 'iad', 'started' FROM n;
INSERT INTO machine_services (machine_id, name, protocol, port) SELECT id, 'many', 'tcp', 80 FROM machines WHERE app = 'svc';
