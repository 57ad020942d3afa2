"""Rates per second from two snapshots of the counts, for `top` and the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

Snapshot = dict[str, Any]  # the counts of the server (admin/live.py)

SNAPSHOT_NAMES: Final = 1_000  # names in a snapshot


def rates(before: Snapshot, now: Snapshot) -> Snapshot:
    """Return the rates between two snapshots, per second, busiest first.

    A name that is missing in the earlier snapshot is new, or had fewer hits than every name in it.
    Its hits are counted from the lowest of those.
    """
    seconds: float = max(now["at"] - before["at"], 1e-9)
    floor = before["names"][-1]["hits"] if len(before["names"]) >= SNAPSHOT_NAMES else 0

    def per_second(hits: int, earlier: int) -> float:
        # The hits of a recomputed answer start at 0 again; its hits before that are unknown.
        return round((hits - earlier if hits >= earlier else hits) / seconds, 1)

    def count(network: Snapshot) -> int:  # older servers do not send `decided`
        answers: int = network["hits"] + network.get("decided", 0)
        return answers

    names = {(n["network"], n["name"], n["type"]): n["hits"] for n in before["names"]}
    networks = {n["network"]: count(n) for n in before["networks"]}
    return {
        "seconds": round(seconds, 3),
        "requests": per_second(now["requests"], before["requests"]),
        "repeated": per_second(now["repeated"], before["repeated"]),
        "decided": per_second(now.get("decided", 0), before.get("decided", 0)),
        "entries": now["entries"],
        "networks": _busiest_first(
            {**n, "rate": per_second(count(n), networks.get(n["network"], 0))}
            for n in now["networks"]
        ),
        "names": _busiest_first(
            {
                **n,
                "rate": per_second(
                    n["hits"],
                    names.get((n["network"], n["name"], n["type"]), min(floor, n["hits"])),
                ),
            }
            for n in now["names"]
        ),
    }


def _busiest_first(rows: Iterator[Snapshot]) -> list[Snapshot]:
    return sorted(
        rows, key=lambda row: (-row["rate"], -row["hits"], row.get("name", ""), row["network"])
    )
