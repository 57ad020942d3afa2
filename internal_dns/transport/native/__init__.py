"""The native UDP path: what goes into the C core's table and comes out of its workers.

    socket ─► fast.Worker, a thread ─► known? repeat it ─► socket     Exchange ─► AnswerTable
                     └── else ─► ring ─► listener.Udp ─► Exchange              │ Mirror
                                              └─► socket                       └─► fast.Table

The workers read the table that Exchange fills. `listen/udp.py` and `table/` do the same in Python:
they run without the extension, and are the oracle of the tests. What an answer depends on comes
with it; the C core removes it with its label, or when it is the oldest and there is no room.

    repeat.h table.h worker.h   the C core: read, look up, build · the table's writer · sockets
    fast.pyx fast.pxd fast.pyi  the same as Python sees it
    mirror.py                   AnswerTable's entries into the native table
    listener.py                 workers started, drained and stopped; what they hand up is answered
"""

from __future__ import annotations

from typing import Final

try:
    from internal_dns.transport.native import fast as _fast

    MISSING = ""
    del _fast
except ImportError as error:
    MISSING = f"it was not built at installation ({error})"

QUEUES: Final = 8  # as repeat.h; here it must be known without the extension too
