"""Containers: labels say what Docker does not know, and what is no machine of a network is
noted."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from internal_dns.sources import Imported, Options, SourceError
from internal_dns.sources.docker import Containers, read, read_each

FIXTURES = Path(__file__).parent / "fixtures"
ACME = Options(networks={0x18: "acme"})
TEXT = (FIXTURES / "docker.json").read_text()


def container(**parts: Any) -> dict[str, Any]:
    networks = {"net": {"GlobalIPv6Address": "fdaa:0:18:1:1:0:1:2"}}
    return {
        "Id": "ab" * 32, "Name": "/web", "State": {"Running": True}, "Config": {"Labels": {}},
        "NetworkSettings": {"Networks": networks},
    } | parts  # fmt: skip


def test_the_document_is_the_golden_one() -> None:
    golden = tomllib.loads((FIXTURES / "docker.json.toml").read_text())
    assert read(TEXT, ACME).document == golden
    assert read(json.loads(TEXT), ACME) == read(TEXT, ACME)


def test_what_docker_does_not_give_is_noted() -> None:
    assert read(TEXT, ACME).notes == [
        "other addresses left out, a machine has one per network: "
        "shop-web-1 (2001:db8:1::2 of shop_front)",
        "exposed ports left out, neither tcp nor udp: shop-web-1 (9999/sctp)",
        "app changed, a name has at most 63 letters, digits, - and _: "
        "3d3d3d3d3d3d (Batch Jobs is now "
        "batch-jobs)",
        "region local assumed, because the source names none: 4c4c4c4c4c4c, 5b5b5b5b5b5b",
        "left out, a one-off `docker compose run`: shop-web-run-1a2b",
        "left out, no IPv6 address in fdaa::/16 (a stopped container has only a fixed one): "
        "old (none), v4only (2001:db8::7)",
        "left out, it uses the host's network and has no address of its own: hostly",
        "compose projects became one app: web from blog, shop",
        "`apply` makes a network exactly as written, so first add what this source "
        "lacks: acme, net-19",
    ]


def test_the_app_given_stands_in_for_the_name_of_a_container() -> None:
    found = read([container()], Options(app="shop")).document["networks"]["net-18"]
    assert list(found["apps"]) == ["shop"]


def test_fields_that_are_null_are_as_good_as_absent() -> None:
    config = {"Labels": None, "ExposedPorts": None}
    assert list(read([container(Config=config)]).document["networks"]["net-18"]["apps"]) == ["web"]
    assert read([container(NetworkSettings={"Networks": None})]).document == {"networks": {}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT[: len(TEXT) // 2], "it is not JSON"),
        ("", "it is not JSON"),
        ("{}", "it is not a list"),
        ('"fdaa::2"', "it is not a list"),
        ("[1]", "at `$[0]`"),
        ('[{"Id": "sha256:1", "RepoTags": []}]', "missing required field `Name`"),
        (json.dumps([container(Name=7)]), "Expected `str`, got `int` - at `$[0].Name`"),
        (json.dumps([container(), container(Config={"Labels": []})]), "at `$[1].Config.Labels`"),
        ("[" * 100_000, "it is nested too deeply"),
        (b"\xff\xfe[\0]", "its byte order mark says UTF-16, and octet 5 is not"),
        (b"[\0]\0", "it is probably UTF-16LE without a byte order mark"),
        (b"\0[\0]", "it is probably UTF-16BE without a byte order mark"),
        ('[{"Names": "a", "ID": "1"}]', "it is the output of `docker ps`"),
        (
            '{"Names": "a", "ID": "1"}\n{"Names": "b", "ID": "2"}\n',
            "it is the output of `docker ps`",
        ),
        ('{"Names": "a", "ID": "1"}', "it is the output of `docker ps`"),
        ('[{"Names": ["a"], "Id": "1"}]', "it is the output of `docker ps`"),
    ],
)
def test_input_that_is_not_a_list_of_containers_is_rejected(text: str | bytes, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why
    assert caught.value.do


def named(number: int, labels: dict[str, str] | None = None, **parts: Any) -> dict[str, Any]:
    networks = {"net": {"GlobalIPv6Address": f"fdaa:0:18:1:1:0:{number}:2"}}
    return container(
        Id=f"{number:02x}" * 32,
        Config={"Labels": labels or {}},
        NetworkSettings={"Networks": networks},
        **parts,
    )


def machines(*containers: dict[str, Any], **options: Any) -> dict[str, list[dict[str, Any]]]:
    found = read([*containers], Options(**options)).document["networks"]["net-18"]["apps"]
    return {app: members["machines"] for app, members in found.items()}


UP = {"Status": "running", "Running": True}


@pytest.mark.parametrize(
    ("state", "stands", "why"),
    [
        (UP, "started", ""),
        (UP | {"Health": {"Status": "healthy"}}, "started", ""),
        (UP | {"Health": {"Status": "none"}}, "started", ""),
        (UP | {"Health": None}, "started", ""),
        (UP | {"Health": {"Status": "starting"}}, "started", "its health check is starting"),
        (UP | {"Health": {"Status": "unhealthy"}}, "started", "its health check fails"),
        (UP | {"Healthcheck": {"Status": "unhealthy"}}, "started", "its health check fails"),
        (UP | {"Restarting": True}, "started", "it is restarting"),
        ({"Running": False, "Restarting": True}, "started", "it is restarting"),
        (UP | {"Paused": True, "Health": {"Status": "unhealthy"}}, "stopped", ""),
        ({"Running": False, "Status": "exited"}, "stopped", ""),
        ({"Running": False, "Status": "dead", "Dead": True}, "stopped", ""),
        ({"Running": False, "Status": "created"}, "stopped", ""),
    ],
)
def test_a_container_that_should_get_no_traffic_is_started_but_not_ready(
    state: dict[str, Any], stands: str, why: str
) -> None:
    imported = read([named(1, State=state)], Options(region="iad"))
    (machine,) = imported.document["networks"]["net-18"]["apps"]["web"]["machines"]
    assert (machine["state"], machine.get("ready", True)) == (stands, not why)
    assert imported.notes[:-1] == ([f"started but not ready, {why}: 010101010101"] if why else [])


def test_a_label_turns_health_checks_off() -> None:
    state = UP | {"Health": {"Status": "unhealthy"}}
    imported = read(
        [named(1, {"internal-dns.health": "ignore"}, State=state)], Options(region="iad")
    )
    assert imported.notes[:-1] == []


def test_tasks_of_a_swarm_service_are_one_app() -> None:
    labels = {"com.docker.swarm.service.name": "mail_queue", "com.docker.stack.namespace": "mail"}
    made = machines(
        named(1, labels, Name="/mail_queue.1.k3x"), named(2, labels, Name="/mail_queue.2.p0q")
    )
    assert {app: len(members) for app, members in made.items()} == {"mail_queue": 2}
    assert made["mail_queue"][0]["metadata"] == {"project": "mail"}


def test_the_name_of_a_swarm_task_gives_the_app_where_no_label_does() -> None:
    tasks = named(1, Name="/queue.1.k3x"), named(2, Name="/queue.12.p0q"), named(3, Name="/v1.2")
    assert {app: len(members) for app, members in machines(*tasks).items()} == {
        "queue": 2,
        "v1-2": 1,
    }
    assert list(machines(*tasks, app="given")) == ["given"]


def test_a_range_of_ports_is_a_service_for_each() -> None:
    exposed: dict[str, Any] = {
        "7000-7002/tcp": {},
        "53-53/udp": {},
        "9-8/tcp": {},
        "1-65535/tcp": {},
    }
    found = read([container(Config={"ExposedPorts": exposed})], Options(region="iad"))
    (machine,) = found.document["networks"]["net-18"]["apps"]["web"]["machines"]
    assert [service["name"] for service in machine["services"]] == [
        "tcp-7000", "tcp-7001", "tcp-7002", "udp-53",
    ]  # fmt: skip
    assert found.notes[:-1] == [
        "exposed ports left out, not a range of 1 to 1,000 ports: web (1-65535/tcp), web (9-8/tcp)"
    ]


def test_names_that_become_one_are_noted() -> None:
    service = "com.docker.compose.service"
    imported = read(
        [named(1, {service: "job.runner"}), named(2, {service: "Job-Runner"}),
         named(3, {service: "JOB-runner"})],
        Options(region="iad"),
    )  # fmt: skip
    assert "app names became one: job-runner from job-runner, job.runner" in imported.notes
    alike = read(
        [named(1, {service: "Cache"}), named(2, {service: "cache"})], Options(region="iad")
    )
    assert alike.notes[:-1] == []


def test_two_containers_in_one_112_are_noted() -> None:
    networks = [{"net": {"GlobalIPv6Address": f"fdaa:0:18:1:1:0:1:{n}"}} for n in (5, 6)]
    both = [
        named(n, Name=f"/c{n}") | {"NetworkSettings": {"Networks": of}}
        for n, of in enumerate(networks)
    ]
    assert read(both, Options(region="iad")).notes[0] == (
        "share a /112, which belongs to one machine: the server cannot tell them apart: "
        "000000000000 and 010101010101"
    )


def test_objects_one_a_line_are_a_list() -> None:
    lines = "\n".join(json.dumps(named(n)) for n in (1, 2))
    assert read(lines) == read([named(1), named(2)])
    assert read(json.dumps(named(1))) == read([named(1)])


def test_what_powershell_writes_is_read() -> None:
    for encoding in ("utf-16", "utf-8-sig", "utf-32"):
        assert read(json.dumps([named(1)]).encode(encoding)) == read([named(1)])
    big_endian = b"\xfe\xff" + json.dumps([named(1)]).encode("utf-16-be")
    assert read(big_endian) == read([named(1)])


def attached(*addresses: str, **parts: Any) -> dict[str, Any]:
    """A container on a network for each address."""
    networks = {f"n{i}": {"GlobalIPv6Address": one} for i, one in enumerate(addresses)}
    return container(NetworkSettings={"Networks": networks}, **parts)


def by_network(found: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    return {
        name: [
            (machine["id"], machine["address"])
            for app in network["apps"].values()
            for machine in app["machines"]
        ]
        for name, network in found["networks"].items()
    }


def test_a_container_on_several_networks_is_a_machine_on_each() -> None:
    found = read([attached("fdaa:0:1a:1:1:0:1:2", "fdaa:0:18:1:1:0:1:2", "10.0.0.7")]).document
    assert by_network(found) == {
        "net-18": [("abababababab", "fdaa:0:18:1:1:0:1:2")],
        "net-1a": [("abababababab-1a", "fdaa:0:1a:1:1:0:1:2")],
    }


def test_two_attachments_to_one_network_are_one_machine() -> None:
    imported = read([attached("fdaa:0:18:1:1:0:1:2", "fdaa:0:18:1:1:0:9:2")])
    assert by_network(imported.document) == {"net-18": [("abababababab", "fdaa:0:18:1:1:0:1:2")]}
    assert "a machine has one per network: web (fdaa:0:18:1:1:0:9:2 of n1)" in imported.notes[0]


def test_no_label_claims_another_network() -> None:
    labels = {
        "internal-dns.network": "globex",
        "internal-dns.address": "fdaa:0:19:1:1:0:1:2",
        "internal-dns.app": "globex/web",
        "internal-dns.source": "",
        "internal-dns.metadata.network_id": "25",
    }
    imported = read([container(Config={"Labels": labels})])
    assert by_network(imported.document) == {"net-18": [("abababababab", "fdaa:0:18:1:1:0:1:2")]}
    assert list(imported.document["networks"]["net-18"]["apps"]) == ["globex-web"]


def test_labels_name_services_and_metadata() -> None:
    labels = {
        "internal-dns.service.mongodb": "27017",
        "internal-dns.service.syslog": "514/udp",
        "internal-dns.service.bad": "many",
        "internal-dns.service.zero": "0",
        "internal-dns.service.": "80",
        "internal-dns.metadata.role": "primary",
        "com.docker.compose.project": "shop",
    }
    imported = read([named(1, labels)])
    (machine,) = imported.document["networks"]["net-18"]["apps"]["web"]["machines"]
    assert [(s["name"], s["protocol"], s["port"]) for s in machine["services"]] == [
        ("mongodb", "tcp", 27017),
        ("syslog", "udp", 514),
    ]
    assert machine["metadata"] == {"project": "shop", "role": "primary"}
    assert any("service labels left out" in note and "web (bad)" in note for note in imported.notes)


# ── one by one, for `follow` ──────────────────────────────────────────────────────────────────────


def each(*containers: Any) -> Containers:
    named_each = [
        (one.get("Id", "?") if isinstance(one, dict) else "ef" * 32, one) for one in containers
    ]
    return read_each(named_each, Options())


def test_a_malformed_container_keeps_no_other_out() -> None:
    found = each(named(1), {"Id": "cd" * 32, "Name": 7}, "no container", named(2))
    assert by_network(found.imported.document)["net-18"] == [
        ("010101010101", "fdaa:0:18:1:1:0:1:2"),
        ("020202020202", "fdaa:0:18:1:1:0:2:2"),
    ]
    assert found.malformed == {"cdcdcdcdcdcd", "efefefefefef"}


def test_a_container_that_exits_and_loses_its_address_is_known_as_stopped() -> None:
    found = each(attached("", State={"Running": False}), named(1))
    assert found.stopped == {"abababababab"}
    assert found.idents == {"abababababab": [], "010101010101": ["010101010101"]}
    assert found.skipped == 1


def test_a_container_on_the_host_network_is_skipped_and_counted() -> None:
    found = each(attached(HostConfig={"NetworkMode": "host"}), attached("10.0.0.9"))
    assert (found.skipped, found.stopped) == (2, frozenset())


def test_nothing_at_all_has_no_advice_for_apply() -> None:
    assert each().imported == Imported({"networks": {}}, [])
