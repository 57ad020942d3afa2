"""Who is next: messages wait in a line for each network, and the networks take turns.

So a network that sends much waits for itself alone, and a neighbour's message is the next but a
few.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

MOST: Final = 1_024  # messages of one network that wait; a fifth of a second's work for Python
MOST_OF_ALL: Final = 65_536
FEW: Final = 16  # that each network may have waiting even then

T = TypeVar("T")


class Turns(Generic[T]):
    """Lines of messages, by network (any octets that tell them apart)."""

    def __init__(self) -> None:
        self._lines: dict[bytes, deque[T]] = {}
        self._next: deque[bytes] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, network: bytes, message: T) -> bool:
        """Let *message* wait; False when too many of its network do."""
        line = self._lines.get(network)
        if self._count >= 2 * MOST_OF_ALL:
            return False  # that many networks at once are made up
        if line is None:
            line = self._lines[network] = deque()
            self._next.append(network)
        elif len(line) >= (MOST if self._count < MOST_OF_ALL else FEW):
            return False
        line.append(message)
        self._count += 1
        return True

    def take(self) -> T:
        """Return the message whose turn it is. Raises IndexError when none waits."""
        network = self._next.popleft()
        line = self._lines[network]
        message = line.popleft()
        self._count -= 1
        if line:
            self._next.append(network)
        else:
            del self._lines[network]
        return message
