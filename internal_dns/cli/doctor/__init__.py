"""doctor: checks of this host and of everything that `serve` would use on it.

    command.py     runs the checks in order and prints a CheckResult (result.py) for each
    host.py        Python, SQLite, uvloop, the native UDP path; IPv6, ports, routes
    upstreams.py   which upstreams are used and why; whether each answers
    catalog.py     whether the catalog loads, and how many of its rows are rejected
    replica.py     the bucket that the catalog follows, and the keys that were rejected
    sources.py     what the followers of live sources told the server
    answers.py     whether dnspython and dnslib read a running server's replies alike

Every problem names what is wrong, why it matters and what to do.
"""
