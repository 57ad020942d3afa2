"""The examples of `--help` and of the man page, by command.

Words with [ ] ? * or & are quoted, because a shell interprets them. tests/test_cli_examples.py
parses each line with the command that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "serve": (
        "internal-dns serve --catalog /var/lib/internal-dns/catalog.db",
        "internal-dns serve --catalog catalog.db --listen '[::]:53' --upstream 9.9.9.9",
    ),
    "dev": (
        "internal-dns dev",
        "internal-dns dev --catalog catalog.db --listen '[::1]:1053'",
    ),
    "dig": (
        "internal-dns dig --as acme/iad web.internal",
        "internal-dns dig --server '[fdaa::3]:53' vms.web.internal",
        "internal-dns dig --as acme fdaa:0:18:a7b:7d:f066:b83b:2",
        "internal-dns dig -b fdaa:0:18:a7b:7d:f066:b83b:2 web.internal",
    ),
    "explain": (
        "internal-dns explain --as acme/iad top2.nearest.of.web.internal",
        "internal-dns explain --as acme --quiet web.internal AAAA",
    ),
    "watch": (
        "internal-dns watch --as acme web.internal",
        "internal-dns watch --queries --sample 100",
    ),
    "top": ("internal-dns top", "internal-dns top --once --names 5"),
    "network list": ("internal-dns network list", "internal-dns network list --routes"),
    "network show": ("internal-dns network show acme",),
    "network add": ("internal-dns network add acme --id fdaa:0:18::/48",),
    "network set": ("internal-dns network set acme --organization acme-corp",),
    "network rm": ("internal-dns network rm acme --cascade",),
    "app list": ("internal-dns app list --network acme",),
    "app show": ("internal-dns app show acme/web",),
    "app add": ("internal-dns app add acme/blog",),
    "app rm": ("internal-dns app rm acme/blog --cascade",),
    "machine list": ("internal-dns machine list --network acme --state started",),
    "machine show": ("internal-dns machine show 3d8d9930b03989",),
    "machine add": (
        "internal-dns machine add m1 --network acme --app web --region iad --state started "
        "--address fdaa:0:18:a7b:7d:1:1:2",
    ),
    "machine set": (
        "internal-dns machine set m1 --metadata role=leader --service http/tcp:8080 --wait",
    ),
    "machine start": ("internal-dns machine start m1 m2 --wait",),
    "machine stop": ("internal-dns machine stop m1 --wait",),
    "machine rm": ("internal-dns machine rm m1",),
    "peer list": ("internal-dns peer list --network acme",),
    "peer show": ("internal-dns peer show acme/alice-laptop --wireguard",),
    "peer add": ("internal-dns peer add acme/erin --address fdaa:0:18:a7b:7d:0:a:102",),
    "peer set": ("internal-dns peer set acme/erin --region ams",),
    "peer rm": ("internal-dns peer rm acme/erin",),
    "region list": ("internal-dns region list",),
    "region show": ("internal-dns region show iad",),
    "region add": ("internal-dns region add ams --name Amsterdam --latitude 52.3 --longitude 4.8",),
    "region set": ("internal-dns region set ams --gateway",),
    "region rm": ("internal-dns region rm ams",),
    "flycast list": ("internal-dns flycast list --network acme",),
    "flycast show": ("internal-dns flycast show acme/db",),
    "flycast add": ("internal-dns flycast add acme/db fdaa:0:18:0:1::4",),
    "flycast rm": ("internal-dns flycast rm acme/db fdaa:0:18:0:1::4",),
    "record list": ("internal-dns record list --network acme",),
    "record show": ("internal-dns record show acme/pg.internal",),
    "record add": (
        "internal-dns record add acme/pg.internal CNAME pg-1.provider.example",
        "internal-dns record add acme/corp.example MX 10 mail.corp.example --ttl 300",
        "internal-dns record add acme/corp.example TXT 'v=spf1 -all'",
    ),
    "record set": ("internal-dns record set acme/pg.internal CNAME pg-2.provider.example --wait",),
    "record rm": (
        "internal-dns record rm acme/pg.internal",
        "internal-dns record rm acme/corp.example MX",
    ),
    "zone list": ("internal-dns zone list --network acme",),
    "zone add": ("internal-dns zone add acme/corp.example",),
    "zone rm": ("internal-dns zone rm acme/corp.example --cascade",),
    "changes": (
        "internal-dns changes",
        "internal-dns changes --network acme --limit 5",
    ),
    "apply": (
        "internal-dns apply catalog.toml --dry-run",
        "internal-dns apply catalog.toml --wait",
        "internal-dns apply catalog.toml --to 'nats://hub.example/catalog?creds=hub.creds'",
    ),
    "diff": ("internal-dns diff catalog.toml",),
    "export": (
        "internal-dns export > catalog.toml",
        "internal-dns export --network acme --json",
    ),
    "import": (
        "docker inspect $(docker ps -aq) | internal-dns import docker - --network 24=acme",
        "internal-dns import wireguard /etc/wireguard/wg0.conf --out peers.toml",
        "internal-dns import csv machines.csv --app web --region iad",
        "internal-dns import hosts /etc/hosts --network 24=acme --zone corp.example",
        "internal-dns import zone corp.example.zone --network 24=acme --origin corp.example",
    ),
    "address": ("internal-dns address acme --host a7b:13 --for web-1",),
    "follow": (
        "internal-dns follow podman --name podman",
        "internal-dns follow docker /run/docker.sock --region iad",
        "internal-dns follow directory /etc/internal-dns/catalog.d --name git",
        "internal-dns follow postgres://db.example/platform --query machines.sql --channel machines",
        "internal-dns follow consul http://127.0.0.1:8500 --service web",
        "internal-dns follow nomad --to corrosion://127.0.0.1:8080/",
        "internal-dns follow wireguard --to 'nats://hub.example/catalog?creds=hub.creds'",
    ),
    "source list": ("internal-dns source list",),
    "source rm": ("internal-dns source rm podman",),
    "init": (
        "internal-dns init catalog.db",
        "internal-dns init --demo demo/catalog.db",
    ),
    "check": ("internal-dns check --catalog catalog.db",),
    "publish": ("internal-dns publish --to 'nats://hub.example/catalog?creds=hub.creds'",),
    "fleet status": (
        "internal-dns fleet status --source 'nats://hub.example/catalog?creds=hub.creds'",
    ),
    "fleet forget": ("internal-dns fleet forget iad-3",),
    "fleet expire": (
        "internal-dns fleet expire podman-7 --after 1h --source 'nats://hub.example/catalog'",
    ),
    "config show": ("internal-dns config show --origin",),
    "config check": ("internal-dns config check --config /etc/internal-dns/config.toml",),
    "doctor": ("internal-dns doctor", "internal-dns doctor --server '[::1]:1053'"),
    "health": ("internal-dns health", "internal-dns health --admin 127.0.0.1:9153"),
    "completion": ('eval "$(internal-dns completion bash)"',),
    "version": ("internal-dns version --json",),
}


def epilog(words: str) -> str:
    """Return the examples of a command as its help shows them; empty if it has none."""
    lines = EXAMPLES.get(words, ())
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(("\b", title, *(f"  {line}" for line in lines))) if lines else ""
