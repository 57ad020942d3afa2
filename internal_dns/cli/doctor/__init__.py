"""doctor: checks of this host and of what `serve` would use on it.

    command.py     runs the checks in order and prints a Symptom (symptom.py) for each
    host.py        Python, SQLite, uvloop, the native UDP path; IPv6, ports, routes
    upstreams.py   which upstreams are used and why; whether each answers
    catalog.py     whether the catalog loads, and how many of its rows are rejected
    replica.py     the bucket that the catalog follows, and keys it rejected
    answers.py     whether dnspython and dnslib read the same in a running server's replies
"""
