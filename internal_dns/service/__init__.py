"""The life of the server process: start, reload, status, shutdown.

    settings ─► parts ─► sockets ─► server.py ─┬─ SIGHUP ──► reload
                                               ├─ commit ──► applying
                                               ├─ status ──► notify, watchdog ─► systemd
                                               └─ SIGTERM ─► drain

parts.py         builds the parts of the server from the settings
errors.py        the errors that prevent a start: what, why, and what to do
sockets.py       binds the sockets, or adopts inherited ones
loop.py          chooses the event loop, and ends its signals
registration.py  registers the metrics of the parts
applying.py      applies a new catalog in slices, so that the event loop stays responsive
reload.py        applies changed settings on SIGHUP, all of them or none
drain.py         finishes the work in flight after SIGTERM
summary.py       the lines that the server logs at start and after a commit
notify.py        reports status to systemd
watchdog.py      queries the server's own addresses; routes.py: which of these are on this host
"""
