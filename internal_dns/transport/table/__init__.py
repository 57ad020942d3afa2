"""The answer table: replies that may be repeated.

    table.py    what is there, for whom, until when: remember, repeat, apply a commit, evict
    entries.py  one answer of ours, cut into what is sent as it is and what depends on the query
    relayed.py  one answer of an upstream's, whose TTLs fall
    changes.py  what a commit changes, found in short steps

It is the oracle of the native table, which stores the same (transport/native/mirror.py).
"""
