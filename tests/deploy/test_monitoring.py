"""Dashboard and alerts use existing metrics; every alert fires when it should."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from tests.live.hosts import REPOSITORY, ask, query, serving, until
from tests.tools import requires_tool

ALERTS = REPOSITORY / "deploy" / "alerts.yaml"
DASHBOARD = REPOSITORY / "deploy" / "grafana-dashboard.json"
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
METRICS = REPOSITORY / "docs" / "metrics.md"

SCRAPED = {"job", "instance"}  # labels that Prometheus adds
# All that PromQL has and we use; what is left in an expression must be a metric.
WORDS = {
    "sum", "min", "max", "by", "rate", "increase", "changes", "deriv", "histogram_quantile",
    "label_values", "time",
}  # fmt: skip


# ── reading the files ─────────────────────────────────────────────────────────────────────────────


def alerts() -> dict[str, dict[str, str]]:
    """Each alert with its expr, summary and runbook."""
    found = {}
    for part in re.split(r"^ +- alert: ", ALERTS.read_text(), flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        said = dict(re.findall(r"^ +(summary|runbook): \"?(.*?)\"?$", body, re.MULTILINE))
        expr = re.search(r"^ +expr: (?:\|\n((?: {10}.*\n)+)|(.*))", body, re.MULTILINE)
        assert expr, name
        found[name] = {**said, "expr": " ".join((expr[1] or expr[2]).split())}
    return found


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def queries() -> Iterator[str]:
    """Every expression of the dashboard."""
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (
        v["query"]["query"] for v in dashboard()["templating"]["list"] if v["type"] == "query"
    )


def metrics_of(expr: str) -> dict[str, set[str]]:
    """The metrics of an expression, each with the labels that it is asked for."""
    expr = re.sub(r"\bby \(([^)]*)\)", "", expr)
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(
        r"([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?", re.sub(r"\[[^]]*\]", "", expr)
    ):
        if name not in WORDS and not (name == "instance" and expr.startswith("label_values")):
            found.setdefault(name, set()).update(
                re.findall(r"(\w+)\s*=", re.sub(r'"[^"]*"', "", labels))
            )
    return found


def grouped_by(expr: str) -> set[str]:
    return {
        label.strip()
        for labels in re.findall(r"\bby \(([^)]*)\)", expr)
        for label in labels.split(",")
    }


def exposed() -> dict[str, set[str]]:
    """Every series name that a server exposes, with its labels as docs/metrics.md has them."""
    rows = re.findall(
        r"^\| `((?:internal_dns|process)_[a-z_]+)` \| (\w+) \| ([^|]*)\|",
        METRICS.read_text(),
        re.MULTILINE,
    )
    found = {}
    for name, kind, labels in rows:
        known = {label for quoted in re.findall(r"`([a-z ]+)`", labels) for label in quoted.split()}
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            found[name + suffix] = known | ({"le"} if suffix == "_bucket" else set())
    return {**found, "up": set()}


@pytest.mark.parametrize("expr", [*queries(), *(alert["expr"] for alert in alerts().values())])
def test_every_metric_in_an_expression_exists_with_those_labels(expr: str) -> None:
    known = exposed()
    found = metrics_of(expr)
    assert found
    for name, labels in found.items():
        assert name in known, f"there is no metric {name}"
        assert labels <= known[name] | SCRAPED, (
            f"{name} has no label {labels - known[name] - SCRAPED}"
        )
    assert grouped_by(expr) <= SCRAPED.union(*(known[name] for name in found))


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ('sum by (a) (rate(x_total{b=~"c=d"}[5m])) / y > 0.2', {"x_total": {"b"}, "y": set()}),
        ("label_values(x_info, instance)", {"x_info": set()}),
    ],
)
def test_metrics_are_found_in_expressions(expr: str, found: dict[str, set[str]]) -> None:
    assert metrics_of(expr) == found


# ── the dashboard ─────────────────────────────────────────────────────────────────────────────────


def test_no_two_panels_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_panels_have_unique_ids_and_use_the_chosen_source_and_servers() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert (
                '{instance=~"$instance"' in target["expr"]
                or 'instance=~"$instance"}' in target["expr"]
            )


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        re.sub("_(bucket|sum|count)$", "", name) for expr in queries() for name in metrics_of(expr)
    }
    all_of_them = {
        re.sub("_(bucket|sum|count)$", "", name)
        for name in exposed()
        if name.startswith("internal_dns")
    }
    assert all_of_them == {name for name in shown if name.startswith("internal_dns")}


# ── the alerts ────────────────────────────────────────────────────────────────────────────────────


def anchors() -> dict[str, str]:
    """The sections of the runbook by the anchor that a forge gives them."""
    parts = re.split(r"^## (.*)\n", RUNBOOK.read_text(), flags=re.MULTILINE)
    return {title.lower(): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    assert anchors().keys() == {name.lower() for name in alerts()}


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_a_summary_and_a_runbook_section(name: str) -> None:
    alert = alerts()[name]
    assert len(alert["summary"]) > 20
    path, _, anchor = alert["runbook"].partition("#")
    assert REPOSITORY / path == RUNBOOK
    for part in ("**Means** ", "**See** ", "**Do** "):
        assert part in anchors()[anchor]


def one(series: str, values: str) -> dict[str, str]:
    name, _, labels = series.partition("{")
    return {"series": f'{name}{{job="internal-dns",instance="a",{labels or "}"}', "values": values}


STEADY, GROWS = "1+0x60", "0+60x60"  # 60 samples, one a minute; one a second
DROPPED = "internal_dns_receive_buffer_drops_total"
REFUSED = 'internal_dns_responses_total{rcode="REFUSED",kind="refused"}'
OWN = 'internal_dns_responses_total{rcode="%s",kind="internal"}'
SHARE = 'internal_dns_forward_outcomes_total{outcome="%s"}'
TIMED = 'internal_dns_request_duration_seconds_%s{kind="internal"}'
WITHIN = 'internal_dns_propagation_seconds_bucket{le="%s"}'
# Series that make an alert fire within the hour, and similar ones that must not.
CASES: dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]] = {
    "InternalDnsDown": ([one("up", "0+0x60")], [one("up", STEADY)]),
    "InternalDnsRestarting": (
        [one("process_start_time_seconds", "0+0x40 1 2 3 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4")],
        [one("process_start_time_seconds", "0+0x40 1 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2")],
    ),
    "InternalDnsIsolationFailure": (
        [one("internal_dns_isolation_failures_total", "0+0x50 1+0x20")],
        [one("internal_dns_isolation_failures_total", STEADY)],
    ),
    "InternalDnsErrors": (
        [one("internal_dns_errors_total", GROWS)], [one("internal_dns_errors_total", STEADY)],
    ),
    "InternalDnsCatalogUnreadable": (
        [one("internal_dns_catalog_readable", "0+0x60")],
        [one("internal_dns_catalog_readable", "1+0x59 0")],
    ),
    "InternalDnsConfigurationUnreadable": (
        [one("internal_dns_configuration_readable", "0+0x60")],
        [one("internal_dns_configuration_readable", "1+0x59 0")],
    ),
    "InternalDnsCatalogFaults": (
        [one("internal_dns_catalog_faults", STEADY)],
        [one("internal_dns_catalog_faults", "0+0x50 1+0x10")],
    ),
    "InternalDnsReplicaStale": (
        [one("internal_dns_replication_lag_seconds", "0+60x60")],
        [one("internal_dns_replication_lag_seconds", "0+0x50 20 40 50 0 0")],
    ),
    "InternalDnsReplicaKeepsOut": (
        [one("internal_dns_replication_quarantined", STEADY)],
        [one("internal_dns_replication_quarantined", "0+0x50 1+0x10")],
    ),
    "InternalDnsSourceAway": (
        [one('internal_dns_source_up{source="podman"}', "1+0x10 0+0x50")],
        [one('internal_dns_source_up{source="podman"}', "1+0x50 0 0 0 1 1 1")],
    ),
    "InternalDnsPropagationSlow": (
        [one(WITHIN % "0.5", "0+9x60"), one(WITHIN % "1.0", "0+10x60"),
         one(WITHIN % "+Inf", "0+10x60")],
        [one(WITHIN % "0.5", "0+100x60"), one(WITHIN % "1.0", "0+100x60"),
         one(WITHIN % "+Inf", "0+100x60")],
    ),
    "InternalDnsServfail": (
        [one(OWN % "SERVFAIL", "0+2x60"), one(OWN % "NOERROR", "0+98x60")],
        [one(OWN % "SERVFAIL", "0+1x60"), one(OWN % "NOERROR", "0+1000x60")],
    ),
    "InternalDnsRefusing": (
        [one(REFUSED, "0+30x60"), one(OWN % "NOERROR", "0+70x60")],
        [one(REFUSED, "0+10x60"), one(OWN % "NOERROR", "0+90x60")],
    ),
    "InternalDnsOverloaded": (
        [one(DROPPED, GROWS)], [one(DROPPED, STEADY)],
    ),
    "InternalDnsConnectionsFull": (
        [one('internal_dns_drops_total{reason="connections"}', GROWS)],
        [one('internal_dns_drops_total{reason="tcp idle"}', GROWS)],
    ),
    "InternalDnsDescriptors": (
        [one("process_open_fds", "900+0x60"), one("process_max_fds", "1024+0x60")],
        [one("process_open_fds", "800+0x60"), one("process_max_fds", "1024+0x60")],
    ),
    "InternalDnsSlow": (
        [one(TIMED % "sum", "0+3x60"), one(TIMED % "count", "0+1000x60")],
        [one(TIMED % "sum", "0+1x60"), one(TIMED % "count", "0+1000x60")],
    ),
    "InternalDnsTableThrashing": (
        [one("internal_dns_answer_table_evictions_total", "0+6000x60"),
         one("internal_dns_answer_table_misses_total", "0+6000x60")],
        [one("internal_dns_answer_table_evictions_total", "0+60x60"),
         one("internal_dns_answer_table_misses_total", "0+60x60")],
    ),
    "InternalDnsUpstreamDown": (
        [one('internal_dns_forward_healthy{to="udp://192.0.2.1:53"}', "0+0x60"),
         one('internal_dns_forward_healthy{to="udp://192.0.2.2:53"}', STEADY)],
        [one('internal_dns_forward_healthy{to="udp://192.0.2.1:53"}', "1+0x57 0 0 0")],
    ),
    "InternalDnsNoUpstream": (
        [one('internal_dns_forward_healthy{to="udp://192.0.2.1:53"}', "0+0x60")],
        [one('internal_dns_forward_healthy{to="udp://192.0.2.1:53"}', "0+0x60"),
         one('internal_dns_forward_healthy{to="udp://192.0.2.2:53"}', STEADY)],
    ),
    "InternalDnsForwardFailing": (
        [one(SHARE % "timeout", "0+10x60"), one(SHARE % "answered", "0+90x60")],
        [one(SHARE % "timeout", "0+1x60"), one(SHARE % "answered", "0+99x60")],
    ),
    "InternalDnsForwardBusy": ([one(SHARE % "busy", GROWS)], [one(SHARE % "busy", STEADY)]),
    "InternalDnsUpstreamInjects": (
        [one(SHARE % "injected", GROWS)], [one(SHARE % "injected", STEADY)],
    ),
}  # fmt: skip


def firing(name: str, times: int) -> dict[str, Any]:
    """Return the promtool test that *name* fires *times* at the end of the hour."""
    samples = [{"labels": "{}", "value": times}] if times else []
    expr = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    return {"expr": expr, "eval_time": "60m", "exp_samples": samples}


def test_every_alert_has_a_test_case() -> None:
    assert CASES.keys() == alerts().keys()


@pytest.mark.live
@requires_tool("promtool")
def test_alerts_fire_when_they_should_and_not_when_they_should_not(tmp_path: Path) -> None:
    tests = [
        {
            "name": f"{name}, {word}",
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [firing(name, times)],
        }
        for name, (fires, quiet) in CASES.items()
        for word, series, times in (("fires", fires, 1), ("quiet", quiet, 0))
    ]
    # JSON is YAML.
    (tmp_path / "test.yaml").write_text(
        json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests})
    )
    for words in (
        ("check", "rules", "--lint-fatal", str(ALERTS)),
        ("test", "rules", str(tmp_path / "test.yaml")),
    ):
        done = subprocess.run(
            ["promtool", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


# ── a real Prometheus ─────────────────────────────────────────────────────────────────────────────


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def asked_of(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
        return json.load(reply)["data"]


@pytest.mark.live
@requires_tool("prometheus")
def test_prometheus_scrapes_a_server_and_loads_the_rules(tmp_path: Path) -> None:
    create_catalog(tmp_path / "demo.db", demo_rows())
    admin, port = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(ALERTS)],
                "scrape_configs": [
                    {
                        "job_name": "internal-dns",
                        "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}],
                    }
                ],
            }
        )
    )
    command = [
        "prometheus", f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with (
        # The Python path measures every reply; the native path does not measure repeats.
        serving(
            tmp_path / "demo.db", "--admin", f"127.0.0.1:{admin}", "--udp-path", "python"
        ) as server,
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as prometheus,
    ):
        try:
            for _ in range(3):
                ask(server, "web.internal")
                ask(server, query("_apps.internal", "TXT"))

            def value(expr: str) -> float:
                try:
                    found = asked_of(port, f"/api/v1/query?query={quote(expr)}")["result"]
                except OSError:
                    return -1  # it is starting
                return float(found[0]["value"][1]) if found else -1

            until(
                lambda: value("internal_dns_answer_table_hits_total") == 4,
                20,
                "the counters were not scraped",
            )
            assert value("sum(internal_dns_questions_total)") == 6
            assert value("sum(internal_dns_request_duration_seconds_count)") == 6
            assert value('up{job="internal-dns"}') == 1
            assert value("process_open_fds") > 5
            (target,) = asked_of(port, "/api/v1/targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            rules = asked_of(port, "/api/v1/rules")["groups"][0]["rules"]
            assert {rule["name"] for rule in rules} == alerts().keys()
            assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        finally:
            prometheus.terminate()
            prometheus.wait(10)
