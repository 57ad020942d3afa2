"""The pure core: octets in, octets out. No socket, SQL, clock, randomness or logging.

    octets
      │  journey.py        respond(): the path of a query; start reading here
      ▼
    wire.py                parse the query; check an upstream's reply
      ▼
    requester.py           source address → network, and the place in it
      │  ask_as.py         dev mode: the requester named by an EDNS option
      ▼
    resolve.py             name → zone → grammar or records, through aliases
      │  own.py            a network's own records and zones
      │  local.py          special-use names, which are never forwarded
      ▼
    names.py               labels → what the name stands for (the grammar)
      ▼
    lookup.py              what the name stands for → RRsets, or NXDOMAIN with a reason
      │  catalog.py        networks, apps, machines and their indexes; immutable
      │  nearest.py        machines by distance from the requester
      │  records.py        RRsets, TXT lists and rdata
      │  text.py           the items of a TXT list as strings
      ▼
    message.py             assemble the reply: truncation, EDNS, rotation
      │  cookies.py        server cookies
      ▼
    Reply, or Forward ───► (forward/ queries an upstream)
                             relayed.py    records to relay, their lifetime and age
                             aliases.py    join a CNAME chain of ours with one of an upstream

Beside the path:

    explain.py             the same journey in words, with a verdict per machine
    suggest.py             what a name without an answer may have been meant to be
    forms.py               a description and an example of each form of name
    catalog_rules.py       the settings that a catalog is read by
"""
