"""The native UDP path: what goes into the C core's table and comes out of its workers.

    socket ─► fast.Worker, a thread ─► known? repeat it ─► socket     Exchange.handle ─► AnswerTable
                     └── else ─► ring ─► listener.Udp ─► Exchange.handle     │ Mirror.put, drop, change
                                                 └─► socket                  └─► fast.Table, which workers read

`listen/udp.py` and `table/` do the same in Python; they are what runs without the extension, and the
oracle of the tests. AnswerTable knows what depends on what and when an answer must go; the table
here only follows it.

    repeat.h table.h worker.h   the C core: parse, look up, build · the table's writer · sockets and ring
    fast.pyx fast.pxd fast.pyi  the same as Python sees it
    mirror.py                   AnswerTable's changes into the native table
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
