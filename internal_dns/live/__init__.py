"""Keep the rows of a source in step with what runs: `internal-dns follow`.

    API, directory, interface ─► Live (edge) ─► Loop (pure) ─► Target (edge) ─► catalog
              snapshot, hint      Seen, Changed    Apply(puts, deletes)

    loop.py            pure, no clock: events in, actions out; what is held, when to look
    source.py          Live: what a source gives, as snapshots and hints; Snapshot, Objects
    run.py             runs a loop: performs its actions, one at a time, and reports its status
    target.py          where rows go: the socket of a server, a file, a bucket
    status.py          the status of a source as JSON, and as metrics
    docker.py          Docker and Podman: the API socket
    directory.py       every *.toml and *.json of a directory
    wireguard.py       `wg show all dump`
    postgres.py        the rows of a query
    consul.py, nomad.py, fly.py     over HTTP (http.py): blocking queries (blocking.py), or polling
    listed.py          their lists, of which one object may be malformed
    corrosion.py       where rows go: Corrosion's HTTP API

`follow` is a process of its own: a Docker socket is root, and must not live in a DNS server.
"""
