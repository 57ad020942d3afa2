"""One catalog on many hosts: every host keeps its own catalog file up to date from a shared bucket
of rows. A host answers from its file whether or not the bucket is reachable.

bucket ─► nats.py ─► follower.py ─► logic.py ─► replica.py ─► catalog file
                          messages      a batch     rows and position, one transaction

    file or document ─► publishing.py ─► nats.py ─► bucket

source.py      the address of a bucket: servers, TLS, credentials
bucket.py      the interface of a bucket, independent of the engine
nats.py        the bucket in NATS JetStream; client.py hardens the NATS client library
codec.py       a catalog row as a key and a value; docs/bucket.schema.json is derived from it
logic.py       pure: where to start, what a message means, when a replay is complete, the lag
follower.py    the thread that keeps the file of a running server up to date
replica.py     a catalog file that follows a bucket; replica.sql holds its extra tables
reading.py     the whole bucket, read once
publishing.py  from a file or a document to the bucket
fleet.py       the hosts that follow a bucket, as they report themselves
"""
