"""A directory of documents, with real files: what is merged, what is kept, what is noticed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from internal_dns.live import directory as module
from internal_dns.live.directory import Directory
from internal_dns.live.source import Snapshot, SourceAway, machine_key, peer_key


def document(ident: str, number: int = 1, app: str = "web") -> str:
    return f"""
[networks.acme]
id = "fdaa:0:18::/48"
[[networks.acme.apps.{app}.machines]]
id = "{ident}"
address = "fdaa:0:18:1:1:0:{number:x}:2"
region = "iad"
state = "started"
"""


def look(source: Directory) -> Snapshot:
    return asyncio.run(source.snapshot())


def idents(source: Directory) -> list[str]:
    return sorted(str(key[-1]) for key in look(source).objects)


def test_all_documents_of_a_directory_are_merged(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(document("m1"))
    (tmp_path / "b.json").write_text(
        json.dumps(
            {
                "networks": {
                    "acme": {
                        "id": 24,
                        "peers": {"alice": {"address": "fdaa:0:18:1:1:0:a:102"}},
                    }
                }
            }
        )
    )
    (tmp_path / ".hidden.toml").write_text("not [ toml")
    (tmp_path / "README.md").write_text("not a document")
    found = look(Directory(tmp_path))
    assert set(found.objects) == {machine_key("m1"), peer_key(24, "alice")}
    assert found.objects[machine_key("m1")]["app"] == "web"
    assert found.figures == {"files": 2}
    assert found.notes == ()


def test_an_empty_directory_is_an_empty_snapshot(tmp_path: Path) -> None:
    assert look(Directory(tmp_path)) == Snapshot({}, figures={"files": 0})


def test_a_directory_that_is_not_there_is_away(tmp_path: Path) -> None:
    with pytest.raises(SourceAway, match="No such file or directory"):
        look(Directory(tmp_path / "none"))


def test_of_two_files_with_one_object_the_first_counts(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(document("m1", 1, "web"))
    (tmp_path / "b.toml").write_text(document("m1", 2, "api"))
    found = look(Directory(tmp_path))
    assert found.objects[machine_key("m1")]["app"] == "web"
    assert found.notes == ("b.toml: m1 is in a.toml too, which counts",)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"[networks.acme]\nid = ", "b.toml:2: "),
        (b"\xff\xfe", "it is not UTF-8"),
        (document("m 2").encode(), "'m 2' is not a valid name"),
    ],
)
def test_a_file_that_cannot_be_read_keeps_what_it_said(
    tmp_path: Path, octets: bytes, why: str
) -> None:
    (tmp_path / "a.toml").write_text(document("m1"))
    (tmp_path / "b.toml").write_bytes(octets)
    source = Directory(tmp_path)
    with pytest.raises(SourceAway, match=r"b\.toml"):
        look(source)  # nobody knows what it said
    (tmp_path / "b.toml").write_text(document("m2", 2))
    assert idents(source) == ["m1", "m2"]
    (tmp_path / "b.toml").write_bytes(octets)
    (tmp_path / "a.toml").write_text(document("m3", 3))
    found = look(source)
    assert set(found.objects) == {machine_key("m2"), machine_key("m3")}
    assert why in found.notes[0]
    assert found.notes[0].endswith("what it said before stays")
    (tmp_path / "b.toml").unlink()
    assert idents(source) == ["m3"]


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE", 10)
    (tmp_path / "a.toml").write_text(document("m1"))
    with pytest.raises(SourceAway, match="more than 10 octets"):
        look(Directory(tmp_path))


def test_a_dangling_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").symlink_to(tmp_path / "gone")
    assert look(Directory(tmp_path)).objects == {}


# ── hints ─────────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path) -> None:
    (folder / "a.toml").write_text(document("m9"))


def rename(folder: Path) -> None:
    (folder / ".new").write_text(document("m9"))
    (folder / ".new").replace(folder / "a.toml")


def remove(folder: Path) -> None:
    (folder / "a.toml").unlink()


def swap(folder: Path) -> None:
    """Put another directory at the path, as deployments and Kubernetes do."""
    other = folder.with_name("v2")
    other.mkdir()
    write(other)
    link = folder.with_name("new")
    link.symlink_to(other)
    link.replace(folder)


@pytest.mark.parametrize("events", [True, False], ids=["inotify", "polling"])
@pytest.mark.parametrize("change", [write, rename, remove, swap])
def test_a_change_is_noticed(
    tmp_path: Path, change: Callable[[Path], None], *, events: bool
) -> None:
    """With inotify the poll is an hour away."""
    (tmp_path / "v1").mkdir()
    folder = tmp_path / "current"
    folder.symlink_to(tmp_path / "v1")
    (folder / "a.toml").write_text(document("m1"))
    poll = 3600.0 if events else 0.02

    async def follow() -> None:
        source = Directory(folder, poll=poll, events=events)
        async with aclosing(source.changes()) as hints, asyncio.timeout(10):
            await anext(hints)
            if events:
                await anext(hints)  # the watch began: what happened before may be unknown
            await source.snapshot()
            change(folder)
            await anext(hints)
            wanted = [] if change is remove else ["m9"]
            assert [key[-1] for key in (await source.snapshot()).objects] == wanted
            if change is swap:
                await anext(hints) if events else None
                (folder / "b.toml").write_text(document("m8", 8))
                await anext(hints)
                assert len((await source.snapshot()).objects) == 2

    asyncio.run(follow())


def test_what_happens_beside_a_directory_is_no_hint(tmp_path: Path) -> None:
    folder = tmp_path / "current"
    folder.mkdir()

    async def follow() -> None:
        woken = asyncio.Event()
        with module._Inotify(folder, woken) as inotify:
            woken.clear()  # the watch began
            for name in ("a.toml", "current.toml", "curren"):
                (tmp_path / name).write_text("")
            inotify._read()
            assert not woken.is_set()
            (folder / "a.toml").write_text("")
            inotify._read()
            assert woken.is_set()
            woken.clear()
            folder.rename(tmp_path / "away")
            inotify._read()
            assert woken.is_set()

    asyncio.run(follow())


def test_a_watch_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    async def follow() -> None:
        async with aclosing(Directory(tmp_path).changes()) as hints:
            await anext(hints)

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        asyncio.run(follow())
    assert len(os.listdir("/proc/self/fd")) == before
