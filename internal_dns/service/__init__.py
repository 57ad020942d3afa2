"""The server as a service: what systemd is told, and whether we still answer."""
