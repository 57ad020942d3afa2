"""The pure parts of the benchmarks: parsing, void repetitions, targets and tables."""

from collections.abc import Mapping
from typing import Any

import pytest

from bench import zones
from bench.budgets import BUDGETS, FLOOR_INFO, OURS, OURS_INFO, PURE_INFO, Budget, Run, judged
from bench.loads import MAX_LOSS, _void
from bench.markdown import markdown_table, tables
from bench.profile import read_report
from bench.results import Case

GOOD = {
    "answered": 1000,
    "sent": 1000,
    "seconds": 0.05,
    "loss": 0.0,
    "wrong": 0,
    "rcodes": {"NOERROR": 1000},
}


def stored(*cases: Case) -> dict[str, Any]:
    machine = {
        "cpu": "a processor", "cores": 2, "virtual": True, "system": "Debian", "kernel": "6.1",
        "python": "3.11",
        "commit": "abc", "dirty": False, "date": "today", "tools": {"nsd": "4.6"},
    }  # fmt: skip
    return {"machine": machine, "skipped": [], "results": [case.as_json() for case in cases]}


def case(subject: str, load: str, *repetitions: Mapping[str, Any], part: str = "udp") -> Case:
    return Case(
        part, f"{subject} · {load}", [{"void": "", **r} for r in repetitions], subject, load
    )


# ── what counts ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, ""),
        ({"answered": 0}, "nothing was answered"),
        ({"wrong": 2}, "2 wrong replies"),
        ({"loss": 0.6}, "0.6 % lost"),
        ({"loss": 0.5}, ""),
        ({"sent": 900}, "the generator sent"),
        ({"rcodes": {"NOERROR": 900, "NXDOMAIN": 100}}, "10.0% NXDOMAIN instead of 0.0%"),
    ],
)
def test_a_run_is_void_when_it_lost_or_answered_wrongly(change: dict[str, Any], word: str) -> None:
    said = _void(GOOD | change, 0.0, 20_000, MAX_LOSS)
    assert said.startswith(word) if word else said == ""


def test_void_repetitions_stay_in_the_json_and_are_not_counted() -> None:
    lossy = {"cpu_us": 1.0, "void": "9 % lost"}
    told = case("NSD", "x", {"cpu_us": 5.0}, lossy, {"cpu_us": 7.0})
    assert told.spread("cpu_us") == (6.0, 5.0, 7.0)
    assert lossy in told.as_json()["repetitions"]
    assert told.remark == "1 of 3 void: 9 % lost"


def test_a_perf_report_is_parsed_with_and_without_empty_columns() -> None:
    report = """
# Overhead  Shared Object         Symbol
    42.72%  [kernel.kallsyms]     [k] do_syscall_64                 -      -
     2.82%  fast.cpython-311.so   [.] operator new(unsigned long)
"""
    assert read_report(report) == [
        (42.72, "[kernel.kallsyms]", "do_syscall_64", "k"),
        (2.82, "fast.cpython-311.so", "operator new(unsigned long)", "."),
    ]


# ── questions ─────────────────────────────────────────────────────────────────────────────────────


def test_mixed_queries_are_reproducible_and_have_the_documented_shares() -> None:
    zone = zones.first_zone(100)
    mixed = zones.mixed(zone)
    assert mixed == zones.mixed(zone)
    share = {
        qtype: sum(t == qtype for _, t in mixed.asked) / len(mixed.asked)
        for qtype in ("AAAA", "TXT")
    }
    regions = sum(name.count(".") == 2 and t == "AAAA" for name, t in mixed.asked) / len(
        mixed.asked
    )
    assert share["TXT"] == pytest.approx(0.05, abs=0.005)
    assert regions == pytest.approx(0.15, abs=0.005)
    assert mixed.nxdomain == pytest.approx(0.10, abs=0.005)


@pytest.mark.parametrize("questions", [zones.external_new(), zones.internal_new()])
def test_a_unique_name_has_room_for_ten_digits(
    questions: zones.Questions,
) -> None:
    assert len(questions.asked[0][0].split(".")[0]) >= 10


# ── bars ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("bounds", "value", "verdict"),
    [
        ({"at_most": 1, "beyond": 0.9}, 1.0, "met"),
        ({"at_most": 1, "beyond": 0.9}, 1.01, "**missed**"),
        ({"at_most": 1, "beyond": 0.9}, 0.9, "beyond"),
        ({"at_least": 1.3}, 1.3, "met"),
        ({"at_least": 1.3}, 1.29, "**missed**"),
        ({"at_most": 0}, 0.0, "met"),
    ],
)
def test_a_target_is_met_at_its_bound(bounds: dict[str, float], value: float, verdict: str) -> None:
    assert Budget("x", "×", lambda run: 0, **bounds).verdict(value) == verdict  # type: ignore[arg-type]


def test_every_target_has_one_direction() -> None:
    assert all((budget.at_most is None) != (budget.at_least is None) for budget in BUDGETS)


def test_targets_are_ratios_of_medians_to_the_best_peer_and_to_the_floor() -> None:
    load = "saturated by sendmmsg"
    run = Run(stored(
        case(OURS, load, {"cpu_us": 4.0, "qps": 200_000}), case(OURS_INFO, load, {"cpu_us": 6.0}),
        case(FLOOR_INFO, load, {"cpu_us": 4.0}), case("NSD", load, {"cpu_us": 8.0, "qps": 100_000}),
        case("gdnsd", load, {"cpu_us": 5.0, "qps": 250_000}),
    ))  # fmt: skip
    found = {what: (measured, verdict) for what, _, measured, verdict in judged(run)}
    assert found[
        "native path, CPU per query saturated ÷ the best of gdnsd, Knot, NSD, PowerDNS"
    ] == (
        "0.80 ×",
        "beyond",
    )
    assert found["native path with packet info, CPU per query saturated ÷ the floor's"] == (
        "1.50 ×",
        "**missed**",
    )
    assert found["native path, queries per second ÷ NSD's"] == ("2.00 ×", "met")
    assert found["native path, queries per second ÷ gdnsd's"] == ("0.80 ×", "**missed**")


def test_a_target_with_a_disturbed_repetition_is_marked() -> None:
    name = "pure-Python path with packet info, queries per second"
    quiet, disturbed = ({"qps": 40_000.0, "others": others} for others in (0.01, 1.5))
    for said, verdict in ((quiet, "**missed**"), (disturbed, "**missed**, disturbed")):
        run = Run(stored(case(PURE_INFO, "saturated by sendmmsg", said)))
        assert (name, "≥ 50,000", "40,000", verdict) in list(judged(run))


def test_a_target_without_figures_names_the_missing_ones() -> None:
    rows = list(judged(Run(stored())))
    assert len(rows) == len(BUDGETS)
    assert all(
        measured == "–" and verdict.startswith("not measured (") for _, _, measured, verdict in rows
    )


def test_a_void_repetition_does_not_decide_a_target() -> None:
    run = Run(
        stored(case(OURS, "saturated by sendmmsg", {"qps": 1.0, "void": "nothing was answered"}))
    )
    assert all(measured == "–" for _, _, measured, _ in judged(run))


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────


def test_the_tables_have_one_row_per_server_with_its_ratio_to_the_floor() -> None:
    load = "saturated by sendmmsg"
    text = tables(stored(
        case(FLOOR_INFO, load, {"cpu_us": 4.0, "qps": 250_000}),
        case("NSD", load, {"cpu_us": 7.0, "qps": 135_000}),
        case("Unbound", "cached, saturated by sendmmsg", {"cpu_us": 8.0, "qps": 120_000},
             part="forward"),
    ))  # fmt: skip
    assert "| NSD | 7.00 | 135,000 | 1.75 |" in text
    assert "| Unbound | 8.00 | 120,000 |" in text
    assert "Not measured" not in text
    assert "a processor, 2 cores (virtual)" in text


def test_numbers_are_right_aligned_and_a_pipe_does_not_end_a_cell() -> None:
    assert (
        markdown_table(("a", "b"), [("x|y", "1.5")]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1.5 |"
    )
