"""Laws that hold for every catalog, every requester and any octets."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass
from itertools import pairwise
from random import Random
from struct import unpack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Drop, Forward, Reply, Rules
from internal_dns.core.text import Text
from internal_dns.store.sqlite import read
from tests.core.catalogs import (
    Rows,
    deduplicated,
    natural_type,
    random_name,
    random_rows,
    random_source,
    random_type,
)
from tests.core.messages import (
    AAAA,
    ACME,
    ANY,
    IN_WEB,
    OUTSIDER,
    PTR,
    SERVER,
    TC,
    TXT,
    A,
    counts,
    insert,
    ip,
    labels,
    loaded,
    machine,
    opened,
    opt,
    outcome,
    query,
    question,
    reply,
    wire,
)
from tests.fuzz import targets
from tests.fuzz.__main__ import seeds
from tests.fuzz.mutation import mutated
from tests.laws import examples

SEED = 20_240_613
numbers = st.integers(0, 1 << 32)
QUERIES = seeds("respond")
UNSHRUNK = examples(60)


# ── any octets ────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=300))
def test_any_octets_are_answered_forwarded_or_dropped(octets: bytes) -> None:
    targets.read_query(octets)
    targets.respond(octets)


@given(st.sampled_from(QUERIES), numbers)
def test_any_damaged_query_is_answered_forwarded_or_dropped(octets: bytes, seed: int) -> None:
    damaged = mutated(octets, Random(seed), QUERIES)
    targets.read_query(damaged)
    targets.respond(damaged)


@pytest.mark.parametrize("kind", ["random", "mutated", "header and random"])
@pytest.mark.slow
def test_many_octets_are_answered_forwarded_or_dropped(kind: str) -> None:
    rng = Random(SEED)
    pool = [*QUERIES]
    for rotation in range(2_500):
        match kind:
            case "random":
                octets = rng.randbytes(rng.randint(0, 600))
            case "mutated":
                octets = mutated(rng.choice(pool), rng, QUERIES)
                pool.append(octets)
            case _:
                octets = rng.choice(QUERIES)[: rng.randint(12, 30)] + rng.randbytes(
                    rng.randint(0, 60)
                )
        targets.read_query(octets)
        source = (IN_WEB, OUTSIDER, targets.IN_DEV)[rotation % 3]
        targets.judge(octets, source, stream=bool(rotation % 2))


@pytest.mark.slow
def test_no_reply_exceeds_its_limit_and_none_is_cut_needlessly() -> None:
    rng = Random(SEED)
    for _ in range(300):
        rows = random_rows(rng)
        rows["machines"] += [
            machine(f"z{i}", f"fdaa:0:18:1:1:1:{i:x}:1", "web", "nrt")
            for i in range(rng.choice((0, 20, 400)))
        ]
        catalog = loaded(rows=deduplicated(rows)).catalog
        for _ in range(30):
            name, source, size = (
                random_name(rng, rows),
                random_source(rng, rows),
                rng.choice((0, 512, 700, 1_232, 65_535)),
            )
            qtype = natural_type(name, rng, rows)
            for octets, limit in (
                (query(name, qtype), 512),
                (query(name, qtype, opt(size=size)), max(512, min(size, 8_192))),
            ):
                found = outcome(octets, source=source, catalog=catalog)
                whole = outcome(octets, source=source, catalog=catalog, stream=True)
                if isinstance(found, Reply) and isinstance(whole, Reply):
                    assert len(found.octets) <= limit
                    truncated = bool(unpack("!H", found.octets[2:4])[0] & TC)
                    assert truncated == (counts(found.octets)[1] < counts(whole.octets)[1])
                    assert len(whole.octets) > limit or not truncated


# ── isolation ─────────────────────────────────────────────────────────────────────────────────────

TENANT, OTHER = (
    0x0000_4141,
    0x0000_5A5A,
)  # the other network's address octets do not come up by chance


def renamed(rng: Random, word: str) -> str:
    """Return a name as long as a token of the other network that nothing has."""
    return "".join(rng.choice("ghijklmnopqrstuv") for _ in word)


def two_tenants(rng: Random) -> tuple[Rows, dict[str, str]]:
    """Return two networks that share some names.

    For each kind of name there is a token that only the other network has.
    """
    tokens = {
        kind: f"zq{kind}{rng.randrange(100):02}"
        for kind in "app region group id peer key value service name".split()
    }
    rows = random_rows(rng)
    for table, of_table in rows.items():
        at = {"machines": 1, "apps": 0, "peers": 0, "flycasts": 0, "networks": 0}.get(table)
        if at is not None:
            rows[table] = [moved(row, at) for row in of_table if row[at] != 0x19]
    rows["networks"] = [(TENANT, "tenant", ""), (OTHER, "zqnetwork", "zqorg")]
    for app in (tokens["app"], "web", "shared"):
        for i in range(rng.randint(1, 3)):
            ident = f"{tokens['id']}{app[:2]}{i}" if i else f"{tokens['id']}{app[:2]}"
            address = f"fdaa:0:5a5a:1:1:{rng.randint(1, 5)}:{i}:2"
            state = rng.choice(("started", "started", "stopped"))
            group, region = tokens["group"], tokens["region"]
            of_other = machine(ident, address, app, region, network=OTHER, group=group, state=state)
            rows["machines"].append((*of_other, rng.choice((0, 1)), tokens["name"]))
            rows["machine_metadata"].append((ident, tokens["key"], tokens["value"]))
            rows["machine_metadata"].append((ident, "role", tokens["value"]))
            rows["machine_services"].append((ident, tokens["service"], "tcp", 80))
        rows["flycasts"].append((OTHER, app, f"fdaa:0:5a5a:0:1::{rng.randint(1, 99)}"))
    rows["apps"] += [(OTHER, tokens["app"] + "x"), (TENANT, "web"), (TENANT, "shared")]
    rows["machines"].append(machine("tenant1", "fdaa:0:4141:1:1:1:1:2", "web", network=TENANT))
    rows["peers"] += [
        (OTHER, tokens["peer"], "fdaa:0:5a5a:1:1:1:0:102", tokens["region"]),
        (OTHER, "laptop", "fdaa:0:5a5a::9", ""),
    ]
    return deduplicated(rows), tokens


def moved(row: tuple[Any, ...], at: int) -> tuple[Any, ...]:
    """Return the row of network 0x18 as one of the tenant's network."""
    cells = [TENANT if i == at and cell == ACME else cell for i, cell in enumerate(row)]
    return tuple(
        cell.replace("fdaa:0:18:", "fdaa:0:4141:") if isinstance(cell, str) else cell
        for cell in cells
    )


def as_tenant(
    name: tuple[bytes, ...], qtype: int, catalog: Catalog, **how: Any
) -> Reply | Forward | Drop:
    return outcome(
        query(name, qtype, opt()), source=ip("fdaa:0:4141:1:1:1:1:2"), catalog=catalog, **how
    )


FORMS = """
{app} global.{app} {region}.{app} {region}.web vms.{app} all.vms.{app} regions.{app}
all.regions.{app} _instances.{app} all._instances.{app} top3.nearest.of.{app} {id}.vm.{app}
{id}.vm.web {id}.vm.shared {group}.process.{app} {group}.process.web {group}.process.shared
{region}.{group}.process.web global.{group}.process.shared top1.nearest.of.{group}.process.web
regions.{group}.process.web all.vms.{group}.process.web {value}.{key}.kv._metadata.{app}
{value}.{key}.kv._metadata.web {value}.role.kv._metadata.web {key}.kv._metadata.shared
_{service}._tcp.{app} _{service}._tcp.web _{service}._udp.shared {peer}._peer 1._page.{app}
1._page.{region}.web _page.{app} 1._page.vms.{app} vm.{app} of.{app} nearest.of.{app}
of.{group}.process.web process.{app} kv._metadata.{app} _metadata.{app} _tcp.{app} x.{id}.vm.web
x.{app} all.{app} 1._page.{key}.kv._metadata.web _page.{region}.shared 2._page.{group}.process.web
nosuch.{app} vms.{app}x
""".split()
FLYCAST_FORMS = "{app} x.{app} a.b.{app} 1._page.{app} _page.{app}".split()
NAME_FORMS = [f"{form}.internal" for form in FORMS] + [f"{form}.flycast" for form in FLYCAST_FORMS]


@given(numbers)
@UNSHRUNK
@pytest.mark.slow
def test_nothing_of_another_network_is_ever_in_a_reply(seed: int) -> None:
    rng = Random(seed)
    rows, tokens = two_tenants(rng)
    catalog = loaded(rows=rows).catalog
    # Lists, sets and reverse names of the tenant, and names with words of the other network.
    names = [random_name(rng, rows, ip("fdaa:0:4141::")) for _ in range(60)]
    names += [labels(form.format(**tokens)) for form in rng.sample(NAME_FORMS, 20)]
    names += [
        labels(f"{form}.internal")
        for form in ("_apps", "_instances", "all._instances", "_peer", "_whoami", "_api")
    ]
    names += [
        labels(f"{form}.{app}.internal")
        for form in ("vms", "all.vms", "_instances")
        for app in ("web", "shared")
    ]
    for name in names:
        found = as_tenant(name, natural_type(name, rng, rows), catalog, stream=rng.random() < 0.5)
        if isinstance(found, Reply):
            behind = found.octets[12 + len(question(name)) :].lower()
            assert b"zq" not in behind, (name, found)
            assert ip("fdaa:0:5a5a::")[:6] not in behind, (name, found)
            assert b":5a5a:" not in behind, (name, found)
            assert found.cacheable is None or found.cacheable.network.id == TENANT


@given(numbers)
@examples(200)  # 200 × 57 names: more than 10,000 pairs
@pytest.mark.slow
def test_what_exists_in_another_network_is_what_exists_nowhere(seed: int) -> None:
    rng = Random(seed)
    rows, tokens = two_tenants(rng)
    catalog = loaded(rows=rows).catalog
    nowhere = {kind: renamed(rng, token) for kind, token in tokens.items()}
    for form in NAME_FORMS:
        qtype, stream = (
            rng.choice((natural_type(labels(form), rng), random_type(rng))),
            rng.random() < 0.5,
        )
        name, other = (labels(form.format(**words)) for words in (tokens, nowhere))
        there = as_tenant(name, qtype, catalog, stream=stream)
        not_there = as_tenant(other, qtype, catalog, stream=stream)
        assert isinstance(there, Reply)
        assert isinstance(not_there, Reply)
        assert there.octets.replace(wire(name), wire(other)) == not_there.octets, form
        assert (there.rcode, there.kind) == (not_there.rcode, not_there.kind)
        assert there.cacheable is None or (
            not_there.cacheable and there.cacheable.body == not_there.cacheable.body
        )


@given(numbers)
@UNSHRUNK
@pytest.mark.slow
def test_an_address_of_another_network_is_an_address_of_nobody(seed: int) -> None:
    rng = Random(seed)
    rows, _ = two_tenants(rng)
    catalog = loaded(rows=rows).catalog
    known = [row[3] for row in rows["machines"] if row[1] == OTHER]
    known += [
        row[2] for table in ("peers", "flycasts") for row in rows[table] if row[0] == OTHER
    ] + ["fdaa:0:5a5a::3"]
    for address in known:
        octets = bytearray(ip(address))
        there = bytes(octets)
        octets[4:6] = b"\x6b\x6b"
        nibbles = rng.choice((32, 32, 31, rng.randint(9, 32)))
        name, other = (reverse_of(found)[32 - nibbles :] for found in (there, bytes(octets)))
        found, nobodys = as_tenant(name, PTR, catalog), as_tenant(other, PTR, catalog)
        assert isinstance(found, Reply)
        assert isinstance(nobodys, Reply)
        assert found.octets.replace(wire(name), wire(other)) == nobodys.octets


def reverse_of(address: bytes) -> tuple[bytes, ...]:
    return (*(nibble.encode() for nibble in reversed(address.hex())), b"ip6", b"arpa")


# ── order ─────────────────────────────────────────────────────────────────────────────────────────


def addresses_in(octets: bytes, name: str, qtype: int = AAAA) -> list[bytes]:
    """Return the addresses of the answer section by offset: each RR has 28 octets."""
    at = 12 + len(question(name, qtype))
    return [octets[at + 28 * i + 12 : at + 28 * i + 28] for i in range(counts(octets)[1])]


def app_of(size: int) -> Catalog:
    rows = {"machines": [machine(f"m{i}", f"fdaa:0:18:1:1:1:{i + 1:x}:2") for i in range(size)]}
    return loaded(rows=rows).catalog


@pytest.mark.parametrize("size", [1, 2, 3, 7, 17, 18, 30, 64])
@pytest.mark.parametrize(
    "name", ["web.internal", "global.web.internal", "ams.web.internal", "app.process.web.internal"]
)
@pytest.mark.slow
def test_every_address_is_first_equally_often_in_truncated_replies_too(
    name: str, size: int
) -> None:
    catalog = app_of(size)
    for extra in ((), (opt(size=1_232),)):
        firsts, shown = Counter[bytes](), Counter[bytes]()
        for rotation in range(3 * size):
            found = addresses_in(
                reply(query(name, AAAA, *extra), catalog=catalog, rotation=rotation), name
            )
            assert len(set(found)) == len(found) > 0
            firsts[found[0]] += 1
            shown.update(found)
        assert set(firsts.values()) == {3}
        assert len(firsts) == size
        assert len(set(shown.values())) == 1
        assert len(shown) == size


def test_rotation_starts_from_no_order_an_operator_can_see() -> None:
    """Otherwise a truncated reply would drop neighbors: one host, one rack."""
    found = addresses_in(
        reply(query("web.internal"), catalog=app_of(64), stream=True), "web.internal"
    )
    assert found != sorted(found)
    assert found == addresses_in(
        reply(query("web.internal"), catalog=app_of(64), stream=True), "web.internal"
    )


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 12), numbers)
@pytest.mark.slow
def test_each_of_the_equally_near_is_first_equally_often(
    near: int, far: int, count: int, start: int
) -> None:
    rows = {
        "machines": [
            *(machine(f"n{i}", f"fdaa:0:18:1:1:1:{i + 1:x}:2", region="ams") for i in range(near)),
            *(machine(f"f{i}", f"fdaa:0:18:1:1:2:{i + 1:x}:2", region="nrt") for i in range(far)),
        ],
        "region_latency": [("ams", "nrt", 240)],
    }
    catalog, name = loaded(rows=rows).catalog, f"top{count}.nearest.of.web.internal"
    firsts, lasts = Counter[bytes](), Counter[bytes]()
    for rotation in range(start, start + near * far):
        octets = reply(
            query(name),
            source=ip("fdaa:0:18:9:9:9:9:9"),
            catalog=catalog,
            rotation=rotation,
            rules=Rules(region=b"ams"),
            stream=True,
        )
        found = addresses_in(octets, name)
        assert len(found) == min(count, near + far)
        is_near = [address[11] == 1 for address in found]
        assert is_near == sorted(is_near, reverse=True)
        firsts[found[0]] += 1
        if count > near:
            lasts[found[near]] += 1
    assert set(firsts.values()) == {far}
    assert len(firsts) == near
    assert count <= near or (set(lasts.values()) == {near} and len(lasts) == far)


@given(numbers, numbers)
@UNSHRUNK
@pytest.mark.slow
def test_rotation_changes_the_order_and_nothing_else(seed: int, rotation: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    catalog = loaded(rows=rows).catalog
    for _ in range(20):
        source = random_source(rng, rows)
        name = random_name(rng, rows, source)
        if b"of" in [label.lower() for label in name]:
            continue  # top<N> may leave out any of several equals
        for qtype in (natural_type(name, rng, rows), A):
            first, second = (
                outcome(query(name, qtype), source=source, catalog=catalog, rotation=t, stream=True)
                for t in (0, rotation)
            )
            if isinstance(first, Reply) and isinstance(second, Reply):
                if first.cacheable and first.cacheable.place:
                    continue  # an alias leads to top<N>
                assert sorted(first.octets) == sorted(second.octets)
                assert counts(first.octets) == counts(second.octets)
                assert (first.rcode, first.cacheable) == (second.rcode, second.cacheable)


# ── TXT ───────────────────────────────────────────────────────────────────────────────────────────

item_lists = st.lists(
    st.integers(0, 254).map(lambda size: b"x" * size)
    | st.sampled_from([b"", b"a", b"ams", b"y" * 127, b"z" * 254]),
    max_size=40,
)


def strings_of(rdata: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(rdata):
        found.append(rdata[at + 1 : at + 1 + rdata[at]])
        assert len(found[-1]) == rdata[at]
        at += 1 + rdata[at]
    return found


def text(items: list[bytes], separator: bytes) -> bytes:
    """Return TXT rdata split item by item, which Text.strings must agree with."""
    strings, current = [], b""
    for item in (*(item + separator for item in items[:-1]), *items[-1:]):
        if len(current) + len(item) > 255:
            strings.append(current)
            current = b""
        current += item
    return b"".join(bytes((len(string),)) + string for string in (*strings, current))


@given(item_lists, st.sampled_from([b",", b";"]))
def test_the_strings_of_a_txt_make_up_the_list_and_are_cut_behind_a_separator_only(
    items: list[bytes], separator: bytes
) -> None:
    rdata, shown = Text.of(items, separator).strings()
    strings = strings_of(rdata)
    assert shown == len(items)
    assert rdata == text(items, separator)
    assert b"".join(strings) == separator.join(items)
    assert all(string.endswith(separator) for string in strings[:-1])
    # Greedy: the first item of a string did not fit into the string before.
    for before, string in pairwise(strings):
        start = string.split(separator)[0] + (separator if separator in string else b"")
        assert len(before) + len(start) > 255


@given(item_lists, st.sampled_from([b",", b";"]), st.integers(1, 6_000))
def test_the_items_that_fit_are_those_that_trying_them_all_finds(
    items: list[bytes], separator: bytes, room: int
) -> None:
    fitting = [n for n in range(1, len(items) + 1) if len(text(items[:n], separator)) <= room]
    shown = max(fitting, default=0)
    rdata = text(items[:shown], separator) if shown else b"" if items else b"\0"
    assert Text.of(items, separator).strings(room) == (rdata, shown)


@given(item_lists, st.lists(st.integers(0, 40), max_size=5))
def test_a_list_joined_from_parts_is_cut_as_if_it_were_one(
    items: list[bytes], cuts: list[int]
) -> None:
    places = [0, *sorted(cuts), len(items)]
    parts = [Text.of(items[start:end]) for start, end in pairwise(places)]
    assert Text.joined(parts) == Text.of(items)


@given(st.integers(0, 2_500), st.sampled_from(["vms", "_instances", "all._instances", "all.vms"]))
@examples(15)
def test_a_list_too_long_for_tcp_shows_whole_items_and_tc_is_clear(size: int, form: str) -> None:
    rows = {
        "machines": [
            machine(f"{i:04x}{'d' * 40}", f"fdaa:0:18:1:1:{i // 200 + 1:x}:{i % 200 + 1:x}:2")
            for i in range(size)
        ]
    }
    catalog, name = loaded(rows=rows).catalog, f"{form}.web.internal"
    octets = reply(query(name, TXT), catalog=catalog, stream=True)
    if not size:
        assert len(octets) < 200
        return
    assert len(octets) <= 65_535
    at = 12 + len(question(name)) + 12
    shown = b"".join(strings_of(octets[at:])).split(b";" if "_instances" in form else b",")
    assert counts(octets)[1] == 1
    assert not unpack("!H", octets[2:4])[0] & TC
    per_item = len(shown[0]) + 1
    assert len(shown) == size or len(octets) + 2 * per_item > 65_535
    assert len({item.split(b" ")[0].split(b",")[0] for item in shown}) == len(shown)
    assert {len(item) for item in shown if b"_" not in item} <= set(
        range(per_item - 6, per_item + 6)
    )


# ── values ────────────────────────────────────────────────────────────────────────────────────────


@given(numbers)
@UNSHRUNK
@pytest.mark.slow
def test_answering_changes_no_value_of_the_catalog(seed: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    catalog, pristine = loaded(rows=rows).catalog, loaded(rows=rows).catalog
    for _ in range(80):
        source = random_source(rng, rows)
        name = random_name(rng, rows, source)
        octets = query(name, natural_type(name, rng, rows), opt())
        first = outcome(octets, source=source, catalog=catalog, rotation=3)
        assert outcome(octets, source=source, catalog=catalog, rotation=3) == first
        assert outcome(octets, source=source, catalog=pristine, rotation=3) == first
    assert fields_of(catalog) == fields_of(loaded(rows=rows).catalog)


def fields_of(value: Any) -> Any:
    """Return the declared fields of a value as nested tuples, without its indexes."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, tuple(
            fields_of(getattr(value, field.name)) for field in fields(value)
        )
    if isinstance(value, dict):
        return tuple(sorted((repr(key), fields_of(found)) for key, found in value.items()))
    return repr(value)


@given(numbers)
@UNSHRUNK
def test_rereading_an_unchanged_file_gives_the_very_same_catalog(seed: int) -> None:
    connection = opened(rows=random_rows(Random(seed)))
    first = read(connection).catalog
    assert read(connection, previous=first).catalog is first
    connection.close()


@given(numbers)
@UNSHRUNK
@pytest.mark.slow
def test_rereading_keeps_every_value_that_is_equal(seed: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    connection = opened(rows=rows)
    first = read(connection, counting=True).catalog
    insert(connection, "machines", [machine("zz9", "fdaa:0:18:1:1:9:9:2", "changed", "ams")])
    second = read(connection, previous=first, counting=True).catalog
    connection.close()
    assert second is not first
    assert second.revision == first.revision + 1
    assert second == loaded_again(rows, second)
    for number, network in first.networks.items():
        if number != ACME:
            assert second.networks[number] is network
            continue
        assert second.networks[number].revision == network.revision + 1
        for name, app in network.apps.items():
            assert second.networks[number].apps[name] is app


def loaded_again(rows: Rows, like: Catalog) -> Catalog:
    """Return the catalog read afresh from the changed rows, with the revisions of *like*."""
    more = {
        **rows,
        "machines": [*rows["machines"], machine("zz9", "fdaa:0:18:1:1:9:9:2", "changed", "ams")],
    }
    fresh = loaded(rows=deduplicated(more)).catalog
    object.__setattr__(fresh, "revision", like.revision)
    for number, network in fresh.networks.items():
        object.__setattr__(network, "revision", like.networks[number].revision)
    return fresh


def test_every_name_form_of_the_isolation_tests_means_something_to_its_owner() -> None:
    """Otherwise the isolation tests would query names that exist nowhere."""
    rows, tokens = two_tenants(Random(SEED))
    catalog = loaded(rows=rows).catalog
    there = Counter[int]()
    for form in NAME_FORMS:
        name = labels(form.format(**tokens))
        found = outcome(
            query(name, ANY),
            source=ip("fdaa:0:5a5a:1:1:1:1:2"),
            catalog=catalog,
            destination=SERVER,
        )
        assert isinstance(found, Reply)
        there[found.rcode] += 1
    assert there[0] > 0.8 * len(NAME_FORMS)
