"""Answering external names, through upstreams.

    a question that is not for us (core/journey.py: Forward)
        │
    forwarder.py   cached? ──────────────► reply          cache.py
        │          outstanding already? ─► wait with the others   waiter.py
        │          else: which upstreams?                  routes.py: rules, upstream_state.py
        │          whose turn, how many?                   accounts.py
        ▼
    outstanding.py one query for all clients: what to do   plan.py: which upstream, when, how often
        │                                                  health.py, probing.py: is it there?
        ▼
    attempts.py    one message: port, id, letter case      question.py: the octets
        │          UDP: own socket, or sockets.py;         channel.py: https.py, or streams.py
        │          native/ does the same in C              (TCP, TLS) with connection.py
        ▼
    upstream
        │
    verdict.py     is it the reply, is it ours to relay?   core/relayed.py
        │          a simple reply is recognized in C       native/, simple.py
        │
    outcome.py     a reply to relay, or a failure ─► cache, and all clients that wait

`upstreams.py` reads upstreams and rules as operators write them. `times.py` holds all times, so
that tests pass their own. `explaining.py` says in words what would become of a query. `context.py`
is what outstanding queries share, `hooks.py` what the rest of the server hooks in.

The bookkeepers have `check_books`, which raises when a count disagrees with what is there; tests
call it.
"""
