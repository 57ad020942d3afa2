"""From sockets to replies and back.

    datagram, stream ─► listen/ or native/
                            │ known? ─► table/ repeats the reply ─► listen/, native/
                            │ no
                        payer.py      who pays: the network of the source
                        schedule.py   now, if nothing waits; else in its turn
                            │           └ fairness.py  a line per network, paid in CPU time
                        answer.py     repeat, decide, forward
                            │           ├ loading.py   before the first catalog: wait for it
                            │           └ relaying.py  external names: forward/ ─► in turn
                            │             └ late_aliases.py  behind our aliases
                        core/journey.py decides
                            │
                        leaks.py checks ─► table/ remembers ─► listen/, native/

    ahead.py      decides again what a commit has dropped
    counting.py   counts replies, measures durations
    refusals.py   the log line about refused sources
    faults.py     SERVFAIL when the server failed
    tap.py        shows messages to those who watch

`native/` does the work of `listen/udp.py` and `table/` in C. The Python files are its oracle, and
what runs without the extension.
"""
