"""What operators reach while the server runs: metrics, the command socket, the web console.

    TCP, setting `admin`      http.py    /metrics, /healthz, /readyz        ─► metrics.py
    UNIX socket FILE.sock     api.py     write commands, watch, top, where  ─► store/, live.py
    TCP, setting `console`    console/   the web console, read only

    presentation.py   queries and replies in the form that people and programs read
    live.py           the busiest names, and sampled queries, as JSON objects
    rates.py          rates per second from two snapshots of live.py
    reading.py        what changed last, from the catalog file, with aiosqlite

Each runs in the server's event loop. Work that takes long, such as writes and console pages, runs
in a thread of its own, so that it does not delay answers.
"""
