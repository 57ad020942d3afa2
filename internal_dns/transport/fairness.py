"""The order of work for the event loop: deficit round robin over payers, paid in measured time.

    put ─► a line for each payer ─► take ─► the work, its CPU time measured ─► spend
                                     ▲                                          │
                                     └──── a new round: credit for everyone ◄───┘

A payer is whoever work is done for: a network, or all outsiders together. At the start of a round
everyone's balance rises by one quantum, to at most one quantum. A payer is served while its balance
is positive. What a piece cost is known only afterwards, so a balance may become negative: a debt,
which later rounds pay. A round ends when nobody who waits has credit left. It therefore ends at
once when only debtors wait, so that no time is lost, and one network alone may have it all.

After M. Shreedhar and G. Varghese, "Efficient Fair Queueing using Deficit Round Robin" (1995), with
costs that are known afterwards. Everything here is pure: times and costs are arguments, in seconds.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

# What one network may use before the next one has its turn: some 15 names of ours, 5 of others.
QUANTUM: Final = 0.0005
# Pieces of one payer that wait while others wait too. At 30 µs each they are 250 ms of work: more
# than the burst of 150 ms with which a fleet starts.
PART: Final = 8_192
MEMORY: Final = 64 << 20  # octets that all pieces together may take
OVERHEAD: Final = 700  # octets of Python's objects for each piece, about
FORGET_FROM: Final = 1_024  # accounts before those without debt are cleared away

OUTSIDERS: Final = b""  # all sources that belong to no network of the catalog
OURSELVES: Final = b"ourselves"  # the watchdog and the console: always have credit

T = TypeVar("T")


class Account(NamedTuple):
    """What a payer had at some moment: later rounds and idle time have added to it since."""

    balance: float
    round: int
    idle: float


class Lines(Generic[T]):
    """A line of items for each payer, and which one is the longest."""

    def __init__(self) -> None:
        self.of: dict[bytes, deque[T]] = {}
        self.count = 0
        self._by_length: list[dict[bytes, None]] = [{}]  # payers whose lines have so many items

    def put(self, payer: bytes, item: T) -> None:
        line = self.of.get(payer)
        if line is None:
            line = self.of[payer] = deque()
        line.append(item)
        self.count += 1
        self._moved(payer, len(line) - 1, len(line))

    def pop(self, payer: bytes) -> T:
        """Return the oldest item of *payer*. Raises KeyError when it has none."""
        return self._pop(payer, newest=False)

    def pop_newest(self, payer: bytes) -> T:
        """Return the latest item of *payer*. Raises KeyError when it has none."""
        return self._pop(payer, newest=True)

    def longest(self) -> bytes:
        """Return the payer with the longest line. Raises IndexError when there is no line."""
        if not self.count:
            raise IndexError("no line")
        return next(iter(self._by_length[-1]))

    def length(self, payer: bytes) -> int:
        line = self.of.get(payer)
        return len(line) if line is not None else 0

    def check_books(self) -> None:
        """Check that counts and lengths agree with the lines. Raises AssertionError."""
        count = sum(map(len, self.of.values()))
        assert self.count == count, f"{self.count} items counted, {count} held"
        assert all(self.of.values()), "a payer without items has a line"
        lengths = {payer: at for at, of in enumerate(self._by_length) for payer in of}
        held = {payer: len(line) for payer, line in self.of.items()}
        assert lengths == held, "a line is not listed under its length"
        assert len(self._by_length) == 1 + max(held.values(), default=0), "lists of no length"

    def _pop(self, payer: bytes, *, newest: bool) -> T:
        line = self.of[payer]
        item = line.pop() if newest else line.popleft()
        self.count -= 1
        self._moved(payer, len(line) + 1, len(line))
        if not line:
            del self.of[payer]
        return item

    def _moved(self, payer: bytes, before: int, after: int) -> None:
        """Note a new length. Lengths change by one, so the longest is always the last list."""
        by_length = self._by_length
        if before:
            del by_length[before][payer]
        if after == len(by_length):
            by_length.append({})
        if after:
            by_length[after][payer] = None
        while len(by_length) > 1 and not by_length[-1]:
            by_length.pop()


class FairQueue(Generic[T]):
    """Items in the order in which they are to be worked on.

    `take` returns one; `spend` must be called for its payer before the next `take`.
    """

    def __init__(self, quantum: float = QUANTUM, *, part: int = PART, memory: int = MEMORY) -> None:
        self.quantum, self.part, self.memory = quantum, part, memory
        self.octets = 0
        self.lines: Lines[tuple[T, int]] = Lines()
        self._fresh: deque[bytes] = deque()  # began to wait in this round, with credit
        self._ready: deque[bytes] = deque()  # have waited since an earlier round, with credit
        self._debtors: list[tuple[int, int, bytes]] = []  # a heap: the round in which they have it
        self._waiting: set[bytes] = set()  # all that are in one of these three
        self._current: tuple[bytes, deque[bytes]] | None = None
        self._accounts: dict[bytes, Account] = {}  # without one, a payer has a full quantum
        self._forget_at = FORGET_FROM
        self._round = self._sequence = 0
        self._idle = 0.0

    def __len__(self) -> int:
        return self.lines.count

    def put(self, payer: bytes, item: T, size: int = 0, *, must: bool = False) -> list[T] | None:
        """Let *item* wait; return what has lost its place for it, or None: there is none for it.

        An item that *must* wait is one of few, and is never refused or dropped.
        """
        lost: list[T] = []
        size += OVERHEAD
        if not must:
            others = len(self.lines.of) > (payer in self.lines.of)
            if others and self.lines.length(payer) >= self.part:
                return None
            while self.octets + size > self.memory and self.lines.count:
                longest = self.lines.longest()
                if self.lines.length(longest) <= self.lines.length(payer) + 1:
                    return None
                given_up, its_size = self.lines.of[longest][-1]
                if its_size < 0:  # it must wait
                    return None
                self.lines.pop_newest(longest)
                self.octets -= its_size
                lost.append(given_up)
        self.lines.put(payer, (item, -size if must else size))
        self.octets += size
        if payer not in self._waiting:
            self._waiting.add(payer)
            if payer == OURSELVES:
                self._fresh.appendleft(payer)
            elif self.balance(payer) > 0:
                self._fresh.append(payer)
            else:
                self._wait_for_credit(payer)
        return lost

    def take(self) -> tuple[bytes, T] | None:
        """Return the next item and who pays for it, or None when nothing waits."""
        while True:
            line = self._fresh or self._ready
            if not line:
                if not self._debtors:
                    return None
                self._next_round()
                continue
            payer = line.popleft()
            if payer not in self.lines.of:  # its last item has lost its place
                self._waiting.discard(payer)
            elif self.balance(payer) <= 0:  # it has spent on something else meanwhile
                self._wait_for_credit(payer)
            else:
                item, size = self.lines.pop(payer)
                self.octets -= abs(size)
                self._current = payer, line
                return payer, item

    def spend(self, payer: bytes, seconds: float) -> None:
        """Count *seconds* of work for *payer*."""
        balance = self.balance(payer) - seconds
        if payer != OURSELVES:
            self._accounts[payer] = Account(balance, self._round, self._idle)
            if len(self._accounts) >= self._forget_at:
                self._forget()
        if self._current is None or self._current[0] != payer:
            return
        line, self._current = self._current[1], None
        if payer not in self.lines.of:
            self._waiting.discard(payer)
        elif balance > 0 or payer == OURSELVES:
            line.appendleft(payer)
        else:
            self._wait_for_credit(payer)

    def rest(self, seconds: float) -> None:
        """Count *seconds* in which nothing waited: all debts fall by them."""
        if seconds > 0:
            self._idle += seconds

    def balance(self, payer: bytes) -> float:
        """Return the credit of *payer*, or its debt as a negative number."""
        account = self._accounts.get(payer)
        if account is None:
            return self.quantum
        gained = (self._round - account.round) * self.quantum + (self._idle - account.idle)
        return min(self.quantum, account.balance + gained)

    @property
    def accounts(self) -> int:
        """How many payers have a balance of their own; the others have a full quantum."""
        return len(self._accounts)

    def check_books(self) -> None:
        """Check that what waits is counted, and has a place in the order. Raises AssertionError.

        Not between `take` and `spend`.
        """
        self.lines.check_books()
        octets = sum(abs(size) for line in self.lines.of.values() for _, size in line)
        assert self.octets == octets, f"{self.octets} octets counted, {octets} held"
        in_order = [*self._fresh, *self._ready, *(payer for _, _, payer in self._debtors)]
        assert len(set(in_order)) == len(in_order), "a payer waits in two places"
        assert set(in_order) == self._waiting, "a payer waits in no place, or is not known to wait"
        assert self.lines.of.keys() <= self._waiting, "a line has no place in the order"
        assert self._debtors == sorted(self._debtors)[:1] + self._debtors[1:], "no heap of debtors"

    def _wait_for_credit(self, payer: bytes) -> None:
        """Let *payer* wait for the round in which its balance is positive."""
        rounds = int(-self.balance(payer) / self.quantum) + 1
        self._sequence += 1
        heappush(self._debtors, (self._round + rounds, self._sequence, payer))

    def _next_round(self) -> None:
        """Begin the next round in which somebody who waits has credit."""
        self._round = max(self._round + 1, self._debtors[0][0])
        while self._debtors and self._debtors[0][0] <= self._round:
            self._ready.append(heappop(self._debtors)[2])

    def _forget(self) -> None:
        """Clear away the accounts of those that have a full quantum again."""
        self._accounts = {
            payer: account
            for payer, account in self._accounts.items()
            if self.balance(payer) < self.quantum
        }
        self._forget_at = max(FORGET_FROM, 2 * len(self._accounts))
