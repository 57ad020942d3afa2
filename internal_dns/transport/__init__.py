"""From sockets to replies and back.

listen/  udp · tcp ──► answer.py  repeat, else decide, else forward ──► listen/
native/  workers ────►    │ table/  replies that may be repeated; native/mirror.py fills the C table
             ahead.py ──► │         decides what was repeated before a commit or a start
                          └ tap.py  shows what happens to who watches
"""
