"""One catalog on many hosts: each host's file follows a bucket of rows, and answers whether or not
the bucket is up.

bucket ─ nats.py ─► messages ─ follower.py ─► what to apply ─ replica.py ─► the file, rows and position at once

source.py     the address of a bucket
form.py       a row as key and value of a bucket; docs/bucket.schema.json derives from it
follower.py   PURE: where to start, what a message means, when everything was seen, how late we are
nats.py       the bucket as NATS JetStream keeps it; client.py makes its library safe
following.py  the thread of a server that follows
replica.py     a file that follows: rows and position in one transaction
publishing.py from a file, or from a document, to the bucket
"""
