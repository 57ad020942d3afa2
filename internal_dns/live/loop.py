"""When to look at a source, and what to write of what was seen. Pure: no clock, no I/O.

    event                                     action
    Tick                time passed           Read          fetch the source's rows in the catalog
    Present(rows)       the rows read         Look          take a snapshot
    Changed             a hint                Apply(…)      write puts, delete keys
    Seen(snapshot)      a whole snapshot      Hold(why)     log that rows are held
    Failed(why)         no snapshot
    Applied(faults)     written
    Refused(why)        the catalog is away

`step(event, now)` returns the actions; `due` is the time of the next Tick. One of Read, Look and
Apply is in flight at a time, and ends with its own event.

    hint ──0.2 s of quiet, at the latest 2 s──► Look ─► Seen ─► differences? ─► Apply
    every 60 s ─► Read ─► Present ─► Look       Failed ─► again after 1, 2, 4 … 30 s

Only rows that were read from the catalog as the source's own are ever deleted, and only while the
latest snapshot lacks them. When a snapshot lacks all rows, or more than half of at least ten, its
rows are in doubt: they become `ready = 0` at once and are deleted when three snapshots in a row
over 30 s lack them. (An API that answers nothing has emptied zones of others.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, Literal, assert_never

from internal_dns.live.source import STOPPED, Key, Object, Objects, Snapshot

QUIET: Final = 0.2  # seconds without a hint before a look
PATIENCE: Final = 2.0  # seconds from the first hint to a look at the latest
FULL: Final = 60.0  # seconds between looks that no hint asks for
JITTER: Final = 0.2  # of FULL: so that the followers of many hosts do not look together
BACKOFF: Final = (1.0, 30.0)  # seconds until a look after a failure: first, most
FEW: Final = 10  # rows: of fewer, only the loss of all is doubted
DOUBT_SNAPSHOTS: Final = 3
DOUBT_SECONDS: Final = 30.0
DOUBT_LOOK: Final = 10.0  # seconds between looks while rows are in doubt
FLAPS: Final = 5  # changes of one object in FLAP_WINDOW that are still no flapping
FLAP_WINDOW: Final = 60.0
CALM: Final = 30.0  # seconds without a change that end it


# ── events ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A hint: something may have changed."""


@dataclass(frozen=True, slots=True)
class Present:
    """The rows of this source that the catalog has now. Ends Read."""

    rows: Objects


@dataclass(frozen=True, slots=True)
class Seen:
    """A whole snapshot. Ends Look."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Failed:
    """The source gave no whole snapshot. Ends Look."""

    why: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The change is written, except the objects of *faults*. Ends Apply."""

    faults: Mapping[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """The catalog could not be read or written. Ends Read and Apply."""

    why: str


Event = Tick | Changed | Present | Seen | Failed | Applied | Refused

# ── actions ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Read:
    """Fetch the rows of this source from the catalog."""


@dataclass(frozen=True, slots=True)
class Look:
    """Take a snapshot of the source."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Write *puts*, each a whole object, and delete the rows of *deletes*."""

    puts: Objects
    deletes: frozenset[Key]


@dataclass(frozen=True, slots=True)
class Hold:
    """Log that rows are held from now on, or no longer."""

    why: str


Action = Read | Look | Apply | Hold


@dataclass(slots=True)
class _Doubt:
    """A row that the last snapshots lacked: since when, and how many."""

    since: float
    snapshots: int = 0


@dataclass(slots=True)
class _History:
    """The times at which an object changed."""

    times: deque[float] = field(default_factory=deque)
    flapping: bool = False


class Loop:
    """The state of one source. *jitter* (0 to 1) varies the time between full looks."""

    def __init__(self, *, allow_empty: bool = False, jitter: float = 0.5) -> None:
        self.allow_empty = allow_empty
        self.full = FULL * (1 + JITTER * (jitter - 0.5))
        self.rows: dict[Key, Object] | None = None  # as the catalog has them; None: not known
        self.snapshot: Snapshot | None = None
        self.busy: Literal["read", "look", "apply", ""] = ""
        self.applying: Apply | None = None
        self.now = -inf
        self.next_full = -inf
        self.first_hint = self.last_hint = inf
        self.failures, self.failed_at = 0, -inf
        self.source_problem = self.catalog_problem = ""
        self.doubts: dict[Key, _Doubt] = {}
        self.doubt_look = inf
        self.history: dict[Key, _History] = {}
        self.faults: dict[Key, str] = {}
        self.refused: dict[Key, Object] = {}  # not tried again before the next full look
        self.seen_at: float | None = None
        self.applies = self.deleted = self.flapped = 0

    # ── what to do ────────────────────────────────────────────────────────────────────────────────

    def step(self, event: Event, now: float) -> list[Action]:
        """Take in *event* and return what to do, in order."""
        self.now = now = max(now, self.now)  # a clock that goes back stands still
        held = self.held
        actions: list[Action] = []
        match event:
            case Tick():
                pass
            case Changed():
                self.first_hint, self.last_hint = min(self.first_hint, now), now
            case Present(rows):
                self.rows, self.busy, self.catalog_problem = dict(rows), "look", ""
                self.refused = {}
                actions.append(Look())
            case Seen(snapshot):
                self.busy, self.failures, self.source_problem = "", 0, ""
                self.seen_at, change = now, self._plan(snapshot, now)
                if change.puts or change.deletes:
                    self.busy, self.applying = "apply", change
                    actions.append(change)
            case Failed(why):
                self.busy, self.source_problem = "", why
                self._fail(now)
            case Applied(faults):
                self._applied(faults)
            case Refused(why):
                # What the catalog has now is not known: read it again.
                self.busy, self.catalog_problem, self.rows, self.applying = "", why, None, None
                self._fail(now)
            case never:
                assert_never(never)
        actions += self._start(now)
        if (self.held == 0) != (held == 0):
            actions.append(Hold(self._held_words()))
        return actions

    def _fail(self, now: float) -> None:
        self.failures, self.failed_at = self.failures + 1, now
        self.first_hint = self.last_hint = inf

    @property
    def due(self) -> float:
        """The time of the next Tick; infinite while an action is in flight."""
        if self.busy:
            return inf
        hinted = min(self.last_hint + QUIET, self.first_hint + PATIENCE)
        if self.failures:
            first, most = BACKOFF
            retry = self.failed_at + min(most, first * 2.0 ** min(self.failures - 1, 10))
            # A hint means that the source is back.
            return min(retry, max(hinted, self.failed_at + first))
        calm = min(
            (one.times[-1] + CALM for one in self.history.values() if one.flapping), default=inf
        )
        return min(hinted, self.next_full, self.doubt_look, calm)

    def _start(self, now: float) -> list[Action]:
        """Begin a look if it is time for one."""
        if now < self.due or self.busy:
            return []
        self.first_hint = self.last_hint = inf
        self.doubt_look = inf
        if self.rows is None or now >= self.next_full:
            self.next_full = now + self.full
            self.busy = "read"
            return [Read()]
        self.busy = "look"
        return [Look()]

    # ── what to write ─────────────────────────────────────────────────────────────────────────────

    def _plan(self, snapshot: Snapshot, now: float) -> Apply:
        """Return the change that makes the catalog what *snapshot* says."""
        assert self.rows is not None, "Look comes after Present"
        self._count_changes(snapshot, now)
        self.snapshot = snapshot
        wanted = {
            key: _unready(object_) if self._is_flapping(key) else object_
            for key, object_ in snapshot.objects.items()
        }
        for key in snapshot.stopped & self.rows.keys() - wanted.keys():
            wanted[key] = {**self.rows[key], "state": STOPPED}
        kept = snapshot.unreadable - wanted.keys()
        lost = self.rows.keys() - wanted.keys() - kept
        # What has the address of a lost row took its place: the container was made again.
        taken = {object_["address"] for object_ in snapshot.objects.values()}
        replaced = frozenset(key for key in lost if self.rows[key]["address"] in taken)
        deletes = replaced | self._deletes(lost - replaced, now)
        for key in lost - deletes:
            wanted[key] = _unready(self.rows[key])
        puts = {
            key: object_
            for key, object_ in wanted.items()
            if self.rows.get(key) != object_ and self.refused.get(key) != object_
        }
        # A row that is as wanted is not written again: another follower may have written it.
        self.faults = {
            key: why
            for key, why in self.faults.items()
            if key in wanted and self.rows.get(key) != wanted[key]
        }
        return Apply(puts, deletes)

    def _deletes(self, lost: set[Key], now: float) -> frozenset[Key]:
        """Return the lost rows that may be deleted now; the others are in doubt."""
        assert self.rows is not None
        count = len(self.rows)
        much = len(lost) == count or (count >= FEW and 2 * len(lost) > count)
        self.doubts = {key: doubt for key, doubt in self.doubts.items() if key in lost}
        if self.allow_empty:
            self.doubts = {}
            return frozenset(lost)
        sure = set()
        for key in lost:
            if not much and key not in self.doubts:
                sure.add(key)
                continue
            doubt = self.doubts.setdefault(key, _Doubt(now))
            doubt.snapshots += 1
            if doubt.snapshots >= DOUBT_SNAPSHOTS and now - doubt.since >= DOUBT_SECONDS:
                sure.add(key)
        for key in sure:
            self.doubts.pop(key, None)
        self.doubt_look = now + DOUBT_LOOK if self.doubts else inf
        return frozenset(sure)

    def _count_changes(self, snapshot: Snapshot, now: float) -> None:
        """Record which objects changed since the last snapshot, and which of them flap."""
        if self.snapshot is not None:
            before, after = self.snapshot.objects, snapshot.objects
            for key in before.keys() | after.keys():
                if key not in snapshot.unreadable and before.get(key) != after.get(key):
                    self.history.setdefault(key, _History()).times.append(now)
        for key, one in list(self.history.items()):
            calm = now - one.times[-1] >= CALM
            while one.times and now - one.times[0] >= FLAP_WINDOW:
                one.times.popleft()
            if one.flapping and calm:
                one.flapping = False
            elif not one.flapping and not calm and len(one.times) > FLAPS:
                one.flapping = True
                self.flapped += 1
            if not one.times:
                del self.history[key]

    def _is_flapping(self, key: Key) -> bool:
        one = self.history.get(key)
        return one is not None and one.flapping

    def _applied(self, faults: Mapping[Key, str]) -> None:
        change, self.applying, self.busy = self.applying, None, ""
        assert change is not None, "Applied ends Apply"
        assert self.rows is not None
        self.catalog_problem = ""
        for key, object_ in change.puts.items():
            self.faults.pop(key, None)
            if key in faults:
                self.faults[key], self.refused[key] = faults[key], object_
            else:
                self.rows[key] = object_
        for key in change.deletes:
            if key not in faults:
                self.rows.pop(key, None)
                self.deleted += 1
        if len(faults) < len(change.puts) + len(change.deletes):
            self.applies += 1

    # ── status ────────────────────────────────────────────────────────────────────────────────────

    @property
    def flapping(self) -> int:
        return sum(one.flapping for one in self.history.values())

    @property
    def held(self) -> int:
        """How many rows are `ready = 0` for a reason of ours."""
        return len(self.doubts) + self.flapping

    def _held_words(self) -> str:
        if not self.held:
            return "no row is held any more"
        parts = []
        if self.doubts:
            parts.append(
                f"{len(self.doubts):,} of {len(self.rows or ()):,} rows are gone at once: not "
                f"ready "
                f"now, deleted after {DOUBT_SECONDS:.0f} s"
            )
        if self.flapping:
            parts.append(f"{self.flapping:,} change all the time: not ready until they are calm")
        return "; ".join(parts)


def _unready(object_: Object) -> Object:
    """Return an object as one that is left out of sets; a peer has no such mark."""
    return {**object_, "ready": 0} if "ready" in object_ else object_
