"""What happened between two looks at the answer table's counts: for `top` and the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

Snapshot = dict[str, Any]  # what the server counts (admin/live.py)

SNAPSHOT_NAMES: Final = 1_000  # names a look brings


def rates(before: Snapshot, now: Snapshot) -> Snapshot:
    """Return what happened between two looks, per second, busiest first.

    A name that the earlier look did not bring may be new, or was less busy than those it brought:
    count from there.
    """
    seconds: float = max(now["at"] - before["at"], 1e-9)
    floor = before["names"][-1]["hits"] if len(before["names"]) >= SNAPSHOT_NAMES else 0

    def per_second(hits: int, earlier: int) -> float:
        # A decided-anew answer counts from nothing again; what was counted before it is then
        # unknown.
        return round((hits - earlier if hits >= earlier else hits) / seconds, 1)

    def count(network: Snapshot) -> int:  # a server before this one tells no `decided`
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
