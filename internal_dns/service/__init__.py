"""The server as a service: how it starts, changes its settings, and ends.

    settings ─► parts ─► sockets ─► (server.py runs) ─► reload, on SIGHUP ─► drain, on SIGTERM

parts.py         the parts of the server, made by the settings
errors.py        why it cannot start: what, why, and what to do
sockets.py       sockets bound by the settings, or inherited
loop.py          the event loop
registration.py  what `/metrics` reads of the parts
reload.py        which settings a SIGHUP changes, all of them or none
drain.py         the end: finish what is in flight
summary.py       the start lines, and what a commit changed
notify.py        what systemd is told
watchdog.py      whether we still answer; routes.py: which of our addresses are on this host
"""
