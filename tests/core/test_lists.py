"""Large sets and lists.

Answers too large for any message are not built, indexes are built at loading only, and a truncated
answer is the beginning of the whole one.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from internal_dns.core import catalog as catalogs
from internal_dns.core import lookup
from internal_dns.core.catalog import App, Catalog, Machine, Network, NetworkId
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.core.nearest import distances, rank
from internal_dns.core.records import address_text
from internal_dns.core.requester import Place
from internal_dns.core.text import Text
from internal_dns.store.check import findings
from internal_dns.store.generate import create_catalog
from internal_dns.store.sqlite import Reader, load, read
from tests.core.messages import (
    AAAA,
    ACME,
    ANY,
    PTR,
    SERVER,
    SRV,
    TXT,
    A,
    counts,
    ip,
    loaded,
    machine,
    opened,
    opt,
    query,
    question,
)
from tests.core.reference_run import disagreements, in_words

SIZE = 3_000
ASKER = ip("fdaa:0:18:1:1:1:7:2")
FORMS: tuple[tuple[str, int], ...] = tuple(
    (name, qtype)
    for qtype, some in (
        (AAAA, """web.internal global.web.internal ams.web.internal xyz.web.internal
            app.process.web.internal ams.worker.process.web.internal
            top3.nearest.of.web.internal top99999.nearest.of.web.internal
            top2.nearest.of.worker.process.web.internal m7.vm.web.internal
            role.kv._metadata.web.internal leader.role.kv._metadata.web.internal
            no.such.kv._metadata.web.internal web.flycast a.web.flycast laptop._peer.internal
            _api.internal _dns.internal 1._page.web.internal 12._page.web.internal
            9999._page.web.internal 2._page.ams.web.internal
            2._page.role.kv._metadata.web.internal 1._page.web.flycast nosuch.internal
            vm.web.internal of.web.internal _page.web.internal nosuch.process.web.internal
            nosuch.web.internal small.internal db.internal"""),
        (TXT, """_apps.internal _instances.internal all._instances.internal _peer.internal
            _whoami.internal regions.web.internal all.regions.web.internal vms.web.internal
            all.vms.web.internal vms.worker.process.web.internal
            all.vms.worker.process.web.internal regions.app.process.web.internal
            _instances.web.internal all._instances.web.internal top5.nearest.of.web.internal
            1._page._instances.internal 13._page.all._instances.internal
            9999._page._instances.internal 3._page.vms.web.internal 9999._page.vms.web.internal
            1._page.regions.web.internal 9999._page.all.regions.web.internal
            1._page._apps.internal 1._page._peer.internal"""),
        (SRV, "_http._tcp.web.internal _http._udp.web.internal _tcp.web.internal"),
        (PTR, "2.0.0.0.7.0.0.0.1.0.0.0.1.0.0.0.1.0.0.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa "
              "1.0.0.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa "
              "9.9.9.9.0.0.0.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa"),
        (A, "web.internal"),
        (ANY, "web.internal top3.nearest.of.web.internal _instances.internal"),
    )
    for name in some.split()
)  # fmt: skip


def large_rows() -> dict[str, list[tuple[Any, ...]]]:
    """Return one app of 3,000 machines, one of two, one without.

    Every tenth machine is not started.
    """
    states = ("started",) * 8 + ("stopped", "destroyed")
    return {
        "apps": [(ACME, "db")],
        "machines": [
            machine(
                f"m{i}", f"fdaa:0:18:1:{i // 500 + 1:x}:1:{i:x}:2", "web" if i > 1 else "small",
                ("ams", "iad", "nrt")[i % 3], state=states[i % 10], group=("app", "worker")[i % 2],
            )
            for i in range(SIZE)
        ],
        "machine_metadata": [
            (f"m{i}", "Role", "leader" if i % 9 == 0 else "replica") for i in range(SIZE)
        ],
        "machine_services": [(f"m{i}", "http", "tcp", 80 + i % 2) for i in range(SIZE)],
        "peers": [(ACME, "laptop", "fdaa:0:18:1:1:1:0:102", "ams")],
        "flycasts": [(ACME, "web", f"fdaa:0:18:0:1::{n:x}") for n in range(1, 400)],
        "regions": [("ams", "", 52.3, 4.9, 1), ("iad", "", 39.0, -77.5, 1), ("xyz", "", 0, 0, 1)],
    }  # fmt: skip


def ask(
    name: str,
    qtype: int,
    catalog: Catalog,
    *,
    stream: bool = True,
    rotation: int = 0,
    size: int = 0,
) -> Reply:
    octets = query(name, qtype, opt(size=size)) if size else query(name, qtype)
    found = respond(octets, ASKER, SERVER, catalog, Rules(), rotation=rotation, stream=stream)
    assert isinstance(found, Reply), (name, found)
    return found


def network_of(catalog: Catalog) -> Network:
    return catalog.networks[NetworkId(ACME)]


@contextmanager
def no_index_is_built() -> Iterator[None]:
    """Forbid what only the loading thread may do: build an index.

    That is an index of a network, or one of an app that is not SMALL. Encoded lists and orders by
    distance, which answers store, are no indexes.
    """

    def forbidding(prop: cached_property[Any], build: Any) -> Any:
        def refuse(owner: App | Network) -> Any:
            large = isinstance(owner, Network) or len(owner.machines) > catalogs.SMALL
            if large and prop.attrname not in ("lists", "orders", "by_id"):
                raise AssertionError(f"{prop.attrname} of {owner.name!r} is built for a question")
            return build(owner)

        return refuse

    real = {
        prop: prop.func
        for owner in (App, Network)
        for prop in vars(owner).values()
        if isinstance(prop, cached_property)
    }
    for prop, build in real.items():
        prop.func = forbidding(prop, build)
    try:
        yield
    finally:
        for prop, build in real.items():
            prop.func = build


@pytest.mark.parametrize(("name", "qtype"), FORMS)
@pytest.mark.slow
def test_no_query_waits_for_an_index(name: str, qtype: int) -> None:
    catalog = fresh()
    with no_index_is_built():
        for stream in (False, True):
            ask(name, qtype, catalog, stream=stream)


def test_no_query_after_a_commit_waits_for_an_index(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    rows = {"networks": [(ACME, "acme", "")], **large_rows()}
    create_catalog(path, {table: [*some] for table, some in rows.items()})
    with closing(sqlite3.connect(path)) as connection, Reader(path) as reader:
        before = reader.read()
        connection.execute("UPDATE machines SET state = 'started' WHERE id = 'm9'")
        connection.execute("DELETE FROM machines WHERE id IN ('m0', 'm12')")
        connection.execute(
            "INSERT INTO peers (network_id, name, address) "
            "VALUES (24, 'new', 'fdaa:0:18:1:1:1:0:203')"
        )
        connection.commit()
        after = reader.update(before)
    assert after.parts
    assert after.catalog is not before.catalog
    plain = load(path).catalog
    with no_index_is_built():
        for name, qtype in FORMS:
            found = ask(name, qtype, after.catalog).octets
            assert found == ask(name, qtype, plain).octets or name == "_whoami.internal"


@lru_cache(1)
def loaded_rows() -> sqlite3.Connection:
    return opened(rows=large_rows())


def fresh() -> Catalog:
    """Return a catalog that was just read and never queried."""
    return read(loaded_rows()).catalog


@lru_cache(1)
def shared() -> Catalog:
    return fresh()


def test_every_listed_name_has_a_valid_form() -> None:
    rcodes = Counter(int(ask(name, qtype, shared()).rcode) for name, qtype in FORMS)
    assert rcodes[0] > 0.9 * len(FORMS)


# ── the same answers, whichever way they are made ─────────────────────────────────────────────────


@pytest.mark.parametrize("small", [0, 1])
@pytest.mark.parametrize("most", [1, 3, 2_340])
@pytest.mark.slow
def test_answers_of_large_apps_agree_with_the_reference(
    monkeypatch: pytest.MonkeyPatch, small: int, most: int
) -> None:
    """Every app counts as large, and a set of more than *most* addresses as too large to send."""
    monkeypatch.setattr(catalogs, "SMALL", small)
    monkeypatch.setattr(lookup, "MAX_ADDRESSES", most)
    for found in disagreements(most + small, 8_000):
        assert found is None, str(found)


def naive_part(whole: list[bytes], rotation: int, count: int) -> list[bytes]:
    at = rotation % len(whole)
    return [*whole[at:], *whole[:at]][:count]


@pytest.mark.parametrize("rotation", [0, 1, 2_000, 2_397, 2_398, 1 << 31])
@pytest.mark.parametrize("name", ["web.internal", "role.kv._metadata.web.internal"])
def test_a_part_of_a_set_starts_where_the_rotation_says(name: str, rotation: int) -> None:
    catalog = shared()
    (app,) = (network_of(catalog).apps[b"web"],)
    whole = [m.address for m in app.visible]
    assert len(whole) == 2_398
    for stream, size in ((True, 0), (True, 1_232), (False, 0), (False, 1_232), (False, 8_192)):
        said = ask(name, AAAA, catalog, stream=stream, rotation=rotation, size=size)
        shown = in_words(said.octets).rdata
        assert list(shown) == naive_part(whole, rotation, len(shown))
        limit = 65_535 if stream else max(size, 512)
        opt_size = 11 * bool(size)
        room = limit - 12 - len(question(name)) - opt_size
        if stream and size:
            room -= 6 + len("2337 of 2398; pages 1._page to 10._page")
        assert len(shown) == room // 28
        assert said.partial == stream
        assert bool(said.octets[2] & 2) == (not stream)  # TC
        # The reply holds for this rotation only, the stored entry for all.
        assert said.cacheable is not None
        ring = said.cacheable.ring
        assert [ring[at + 12 : at + 28] for at in range(0, len(ring), 28)] == whole


@pytest.mark.parametrize("rotation", [0, 5, 1 << 31])
def test_the_nearest_of_a_large_app_are_those_that_sorting_finds(rotation: int) -> None:
    catalog = shared()
    app = network_of(catalog).apps[b"web"]
    place = Place(b"iad", ASKER[6:10], ASKER)
    ranked = sorted(app.visible, key=lambda m: (rank(m, place, catalog), m.address))
    groups = [[*tied] for _, tied in groupby(ranked, lambda m: rank(m, place, catalog))]
    expected = [m.address for tied in groups for m in naive_turn(tied, rotation)]
    for count in (1, 3, 1_000, 2_339):
        name = f"top{count}.nearest.of.web.internal"
        said = ask(name, AAAA, catalog, rotation=rotation)
        shown = list(in_words(said.octets).rdata)
        assert shown == expected[: len(shown)]
        assert len(shown) == min(count, 2_338)
        texts = in_words(ask(name, TXT, catalog, rotation=rotation).octets).rdata[0].split(b",")
        assert [t.split(b" ")[0] for t in texts] == [
            m.id for tied in groups for m in naive_turn(tied, rotation)
        ][: len(texts)]


def naive_turn(tied: list[Machine], rotation: int) -> list[Machine]:
    return tied[rotation % len(tied) :] + tied[: rotation % len(tied)]


def test_pages_put_together_are_the_whole_list() -> None:
    catalog = shared()
    network = network_of(catalog)
    app = network.apps[b"web"]
    shown = {
        "web.internal": sorted(m.address for m in app.visible),
        "vms.web.internal": [m.id + b" " + m.region for m in app.machines if m.visible],
        "all.vms.worker.process.web.internal": [
            m.id + b" " + m.region for m in app.machines if m.listed and m.group == b"worker"
        ],
        "_instances.internal": [
            b"instance=%s,app=%s,ip=%s,region=%s" % (m.id, m.app, address_text(m.address), m.region)
            for name in sorted(network.apps)
            for m in network.apps[name].machines
            if m.visible
        ],
    }
    for name, whole in shown.items():
        found: list[bytes] = []
        for number in range(1, len(whole) // 250 + 2):
            rdata = in_words(
                ask(
                    f"{number}._page.{name}", AAAA if name == "web.internal" else TXT, catalog
                ).octets
            ).rdata
            if name == "web.internal":
                found += sorted(rdata)
                assert len(rdata) <= 250
            else:
                found += rdata[0].split(b";" if "_instances" in name else b",")
        assert found == whole
        # Over TCP the reply has the first items of the list, as many as fit.
        if name != "web.internal":
            (part,) = in_words(ask(name, TXT, catalog).octets).rdata
            items = part.split(b";" if "_instances" in name else b",")
            assert items == whole[: len(items)]


# ── what is not built ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        "_instances.internal",
        "all._instances.internal",
        "_instances.web.internal",
        "vms.web.internal",
    ],
)
def test_a_list_too_long_for_udp_gets_tc_and_is_not_built(name: str) -> None:
    catalog = fresh()
    network = network_of(catalog)
    said = ask(name, TXT, catalog, stream=False, size=8_192)
    assert counts(said.octets)[1] == 0
    assert said.octets[2] & 2
    assert not said.partial
    assert not any(app.lists for app in network.apps.values())
    assert not network.lists
    # The entry may be repeated for any smaller limit: the list that is built is longer.
    assert said.cacheable is not None
    assert said.cacheable.truncated_below > 8_192
    assert said.cacheable.body.answer == ()
    whole = ask(name, TXT, catalog)
    assert whole.partial or len(whole.octets) >= said.cacheable.truncated_below
    for limit in (512, 1_232, 8_192):
        assert counts(ask(name, TXT, catalog, stream=False, size=limit).octets)[1] == 0


@pytest.mark.parametrize("size", [10, 100, 120, 227, 400, 1_200, 3_000])
@pytest.mark.slow
def test_a_list_counts_as_too_long_only_when_it_is(size: int) -> None:
    """With the shortest possible names the estimate must not exceed the real size."""
    rows = {
        "machines": [
            (f"{i:x}", ACME, "a", f"fdaa:0:18::{i + 16:x}", "r", "p", "started", 0, 0)
            for i in range(size)
        ]
    }
    catalog = loaded(rows=rows).catalog
    for name in ("_instances.internal", "vms.a.internal", "_instances.a.internal"):
        whole = ask(name, TXT, catalog)
        for limit in (512, 700, 1_232, 4_096, 8_192):
            said = ask(name, TXT, fresh_of(rows), stream=False, size=limit)
            fits = len(whole.octets) + 11 <= limit and not whole.partial
            assert bool(counts(said.octets)[1]) == fits
            if said.cacheable is not None and said.cacheable.truncated_below:
                assert said.cacheable.truncated_below > limit
                assert whole.partial or len(whole.octets) >= said.cacheable.truncated_below
                assert not fits


def fresh_of(rows: dict[str, list[tuple[Any, ...]]]) -> Catalog:
    return loaded(rows=rows).catalog


@pytest.mark.parametrize(
    "name", [name for name, _ in FORMS if name.startswith("9999._page")]
)  # fmt: skip
def test_a_page_past_the_end_builds_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Text:
        raise AssertionError("something is encoded")

    for encoder in ("_machines", "_instances"):
        real = getattr(lookup, encoder)
        monkeypatch.setattr(
            lookup, encoder, lambda machines, real=real: fail() if machines else real(machines)
        )
    monkeypatch.setattr(lookup, "_regions", fail)
    qtype = dict(FORMS)[name]
    said = ask(name, qtype, shared())
    assert said.rcode == 0
    rdata = in_words(said.octets).rdata
    assert rdata == ((b"",) if qtype == TXT else ())


def test_a_change_of_one_app_leaves_the_lists_of_the_others() -> None:
    connection = opened(rows=large_rows())
    first = read(connection).catalog
    ask("_instances.internal", TXT, first)
    connection.execute("UPDATE machines SET state = 'stopped' WHERE id = 'm0'")
    second = read(connection, previous=first).catalog
    connection.close()
    old, new = network_of(first), network_of(second)
    assert new is not old
    assert new.apps[b"web"].lists is old.apps[b"web"].lists
    assert new.apps[b"web"].lists
    assert new.apps[b"small"].lists == {}
    (before,), (after,) = (
        in_words(ask("_instances.internal", TXT, c).octets).rdata for c in (first, second)
    )
    assert before.startswith(b"instance=m0,app=small")
    assert after.startswith(b"instance=m1,app=small")


def test_orders_by_distance_are_few_and_hold_for_their_places() -> None:
    catalog = fresh()
    app = network_of(catalog).apps[b"web"]
    for region in [f"r{i}".encode() for i in range(40)]:
        for group in (None, b"app"):
            distances(app, group, Place(region), catalog)
            assert len(app.orders) <= 8
    far = replace(catalog, latency={(b"ams", b"iad"): 0.0, (b"ams", b"nrt"): 1.0})
    for some in (catalog, far, catalog):
        # The requester is in ams; then by measured or computed distance.
        order = distances(app, None, Place(b"ams"), some).machines(3_000, 0)
        regions = [*dict.fromkeys(m.region for m in order)]
        assert regions == [b"ams", b"iad", b"nrt"]
    farther = replace(catalog, latency={(b"ams", b"iad"): 900.0, (b"ams", b"nrt"): 1.0})
    order = distances(app, None, Place(b"ams"), farther).machines(3_000, 0)
    assert [*dict.fromkeys(m.region for m in order)] == [b"ams", b"nrt", b"iad"]


@pytest.mark.parametrize("count", [1_871, 1_872, 2_339, 2_340])
def test_check_warns_of_a_set_from_four_fifths_of_a_message_on(count: int) -> None:
    rows = {
        "machines": [
            machine(f"m{i}", f"fdaa:0:18:1:1:1:{i + 1:x}:2", "web", "ams") for i in range(count)
        ],
        "regions": [("ams", "", 0, 0, 1)],
    }
    words = [f.what for f in findings(loaded(rows=rows)) if "addresses" in f.what]
    assert words == (
        []
        if count < 1_872
        else [f"{count:,} addresses are more than any message holds (2,339)"]
        if count > 2_339
        else [f"{count:,} addresses are {count / 2_339:.0%} of what a message holds"]
    )


@pytest.mark.parametrize(
    ("count", "told"), [(2_700, []), (2_800, ["vms.web.internal takes 82% of the largest message"])]
)
def test_check_warns_of_a_list_from_four_fifths_of_a_message_on(
    count: int, told: list[str]
) -> None:
    rows = {
        "machines": [
            machine(f"{i:014x}", f"fdaa:0:18:1:1:1:{i + 1:x}:2", "web", "ams") for i in range(count)
        ],
        "regions": [("ams", "", 0, 0, 1)],
    }  # fmt: skip
    words = [f.what for f in findings(loaded(rows=rows)) if f.what.startswith("vms")]
    assert words == told
