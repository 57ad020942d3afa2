"""UDP to upstreams natively: questions are sent and simple replies recognized in C.

    ask ─► upstream.Target ─► socket ─► upstream
                                           │
    forwarder ◄─ upstream.Hub.read ◄───────┘ simple: what is relayed; else the octets, for
    verdict.py

`sockets.py` and `attempts.py` do the same in Python; that is what runs without the extension, and
the oracle of the tests. Python decides everything: whom to ask, when to ask again, what becomes of
a reply that is not simple.

    reply.h                      whether a reply is simple, and what of it is relayed
    upstream.h                   sockets, ids, letter case; matching
    upstream.pyx upstream.pyi    the same as Python sees it
"""

from __future__ import annotations

try:
    from internal_dns.forward.native import upstream as _upstream

    MISSING = ""
    del _upstream
except ImportError as error:
    MISSING = f"it was not built at installation ({error})"
