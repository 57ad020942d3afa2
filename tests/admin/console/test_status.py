"""The status page: rates are differences of counters, plots are those numbers, and what is missing
is said."""

from __future__ import annotations

import pytest

from internal_dns.admin.console.plot import bars, figure, lines, round_above
from internal_dns.admin.console.samples import KEPT, Sample, Sampler, in_buckets, per_second
from internal_dns.admin.console.status import status
from internal_dns.core.wire import Rcode, Type
from internal_dns.metrics import Metrics, UpstreamFigures
from tests.admin.console.looking import console, get


def upstream(
    to: str = "udp://192.0.2.1:53", up: bool = True, latency: float = 0.0123
) -> UpstreamFigures:
    return UpstreamFigures(to, up, 0.5, latency, 3, {}, {}, {})


def busy(seconds: int = 10, upstreams: tuple[UpstreamFigures, ...] = ()) -> Sampler:
    """A sampler of a server that had 20 queries, 5 of them NXDOMAIN, in every second, and one
    commit in all."""
    metrics = Metrics()
    sampler = Sampler(metrics, lambda: upstreams)
    sampler.take(100.0)
    for second in range(1, seconds + 1):
        metrics.requests["udp", "6"][0] += 16
        metrics.requests["tcp", "4"][0] += 4
        metrics.response("internal", Rcode.NOERROR, Type.AAAA)[0] += 15
        metrics.response("flycast", Rcode.NXDOMAIN, Type.A)[0] += 5
        if second == 3:
            metrics.propagation.observe(0.004)
        sampler.take(100.0 + second, 0.002 * second)
    return sampler


def test_rates_are_differences_over_the_time_that_passed() -> None:
    samples = [
        Sample(0.0, {("c", "a"): 5.0}), Sample(2.0, {("c", "a"): 25.0, ("c", "b"): 4.0}),
        Sample(2.5, {("c", "a"): 25.0, ("c", "b"): 5.0, ("d", "a"): 9.0}),
    ]  # fmt: skip
    assert per_second(samples, "c", 0) == {"a": [10.0, 0.0], "b": [2.0, 2.0]}
    assert per_second(samples, "c") == {"": [12.0, 2.0]}
    assert per_second(samples[:1], "c") == per_second([], "c") == {}


def test_buckets_are_told_apart_from_those_below() -> None:
    samples = list(busy().kept)
    found = in_buckets(samples, "internal_dns_propagation_seconds_bucket")
    assert [bound for bound, count in found if count] == ["0.005"]
    assert sum(count for _, count in found) == 1
    assert in_buckets([], "x") == []


def test_samples_are_kept_for_five_minutes_and_no_longer() -> None:
    sampler = busy(KEPT + 50)
    assert len(sampler.kept) == KEPT + 1
    assert sampler.kept[0].at == 150.0
    first, last = sampler.kept[0].counts, sampler.kept[-1].counts
    assert all(a is b for a, b in zip(first, last, strict=True))  # one key object for all samples


def test_the_figures_of_this_moment() -> None:
    found = status(tuple(busy().kept))
    assert (found["queries"], found["drops"], found["repeated"], found["seconds"]) == (
        20.0,
        0,
        0.0,
        10,
    )
    rcodes = next(plot for plot in found["plots"] if plot.title == "Responses by RCODE")
    assert [(line.number, line.name, line.now) for line in rcodes.lines] == [
        (1, "NOERROR", "15"),
        (2, "NXDOMAIN", "5"),
    ]
    kinds = next(plot for plot in found["plots"] if plot.title == "Responses by kind")
    assert [line.name for line in kinds.lines] == ["internal", "flycast"]
    delay = next(plot for plot in found["plots"] if "loop" in plot.title)
    assert (delay.lines[0].now, delay.lines[0].highest) == ("20", "20")


def test_a_colour_is_that_of_the_series_not_of_its_place() -> None:
    sampler = Sampler(metrics := Metrics())
    sampler.take(0.0)
    metrics.response("refused", Rcode.REFUSED, Type.A)[0] += 1
    metrics.response("internal", Rcode.FORMERR, Type.A)[0] += 1
    metrics.response("internal", Rcode.NOTIMP, Type.A)[0] += 1
    sampler.take(1.0)
    plot = status(tuple(sampler.kept))["plots"][1]
    assert [(line.number, line.name, line.now) for line in plot.lines] == [
        (4, "REFUSED", "1"),
        (5, "other", "2"),
    ]


def test_before_the_second_sample_there_is_no_data_and_a_page() -> None:
    for count in range(3):
        sampler = Sampler(Metrics())
        for second in range(count):
            sampler.take(float(second))
        with console(sampler=sampler) as client:
            text = get(client, "/status").all("main")[0][1]
            assert "no data" in text


def test_the_page_tells_the_numbers_in_words_too() -> None:
    with console(sampler=busy()) as client:
        page = get(client, "/status")
        labels = [attrs["aria-label"] for attrs, _ in page.all("svg") if "aria-label" in attrs]
        assert "Queries, per second: udp now 16, highest 16. tcp now 4, highest 4. " in labels
        assert any("1 up to 5. " in label for label in labels)
        assert "20 Queries per second" in " ".join(
            f"{value} {name}"
            for (_, name), (_, value) in zip(page.all("dt"), page.all("dd"), strict=True)
        )


def test_the_fragment_is_the_part_of_the_page_that_changes() -> None:
    with console(sampler=busy()) as client:
        fragment = client.get("/status/now").text
        assert not fragment.startswith("<!doctype")
        assert fragment.strip() in client.get("/status").text


def test_it_refreshes_without_javascript_and_can_be_stopped() -> None:
    with console() as client:
        assert (
            '<noscript><meta http-equiv="refresh" content="5"></noscript>'
            in client.get("/status").text
        )
        assert 'http-equiv="refresh"' not in client.get("/status?refresh=off").text


# ── upstreams ─────────────────────────────────────────────────────────────────────────────────────


def test_upstreams_are_shown_as_the_forwarder_tells_of_them() -> None:
    well, ill = upstream(), upstream("tcp://192.0.2.2:53", False, 0.0)
    with console(sampler=busy(upstreams=(well, ill))) as client:
        page = get(client, "/status")
        assert page.rows() == [
            ["udp://192.0.2.1:53", "healthy", "50 %", "12.3 ms", "3"],
            ["tcp://192.0.2.2:53", "failing", "50 %", "–", "3"],
        ]
        assert "udp://192.0.2.1:53 12.3 highest 12.3" in page.all("main")[0][1]


def test_a_forwarder_that_tells_nothing_has_no_data() -> None:
    with console(sampler=busy()) as client:
        assert "udp://192.0.2.1:53: no health data." in get(client, "/status").all("main")[0][1]
    with console(sampler=busy(), upstreams=()) as client:
        assert "None: external names are refused." in get(client, "/status").all("main")[0][1]


# ── plots ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("value", "above"), [
    (0, 1), (-1, 1), (1, 1), (1.1, 2), (0.3, 0.3), (0.31, 0.4), (541, 600), (99, 100), (100, 100),
    (8.1, 10), (2.5, 3),
])  # fmt: skip
def test_scales_end_at_round_figures(value: float, above: float) -> None:
    assert round_above(value) == pytest.approx(above)


def test_no_value_is_above_its_scale() -> None:
    for number in range(1, 5_000, 7):
        assert number / 13 <= round_above(number / 13) * (1 + 1e-9) <= number / 13 * 2.1


@pytest.mark.parametrize(("value", "text"), [
    (None, "–"), (0, "0"), (0.123, "0.12"), (1.5, "1.5"), (12.34, "12.3"), (10, "10"),
    (123.4, "123"),
    (1234567, "1,234,567"), (0.001, "0"),
])  # fmt: skip
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_lines_end_at_the_right_edge_and_stay_in_the_box() -> None:
    plot = lines("t", "u", "n", {"a": [0.0, 5.0, None, 10.0], "none": [None]}, 4)
    assert plot.lines[0].path == "M0 100 L100 50 M300 0"
    assert plot.lines[0].area == "M0 100 L100 50 L100 100 L0 100 Z M300 0 L300 100 L300 100 Z"
    assert (len(plot.lines), plot.top, plot.middle) == (1, "10", "5")
    assert lines("t", "u", "n", {"a": [1.0]}, 300).lines[0].path == "M300 0"
    assert lines("t", "u", "n", {}, 300).empty


def test_bars_are_shares_of_the_scale() -> None:
    plot = bars("t", "u", "n", [("x", 3.0), ("y", 1.5), ("z", 0.0)])
    assert [bar.height for bar in plot.bars] == [100, 50, 0]
    assert bars("t", "u", "n", [("x", 0.0)]).empty


def test_a_plot_tells_its_values_when_pointed_at() -> None:
    made = lines("Queries", "per second", "", {"udp": [1.0, 5.0, None, 2.0], "tcp": [0.0] * 4}, 301)
    assert [hover.words for hover in made.hovers] == ["0 s ago: udp 5 per second"]
    long = lines("Queries", "per second", "", {"udp": [float(n) for n in range(12)]}, 301)
    assert [hover.words for hover in long.hovers] == [
        "0 s ago: udp 11 per second", "5 s ago: udp 6 per second", "10 s ago: udp 1 per second",
    ]  # fmt: skip
    assert all(hover.x >= 0 and hover.x + hover.width <= 300.1 for hover in long.hovers)
    assert not lines("Queries", "per second", "", {}, 301).hovers


def test_hover_values_are_in_the_page() -> None:
    with console(sampler=busy()) as client:
        titles = [text for _, text in get(client, "/status").all("title")]
        assert any(text.startswith("0 s ago: udp 16, tcp 4") for text in titles), titles
