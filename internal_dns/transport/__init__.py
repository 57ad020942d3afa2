"""From sockets to replies and back.

listen/  udp · tcp ──► answer.py  repeat, else decide, else forward ──► listen/
native/  workers ────►    │ table/  replies that may be repeated; native/mirror.py follows it
                          └ tap.py  shows what happens to who watches
"""
