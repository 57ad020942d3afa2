"""Commands that read and change the rows of one table each.

    internal-dns network …   network.py   named by name, id or /48
                 app …       app.py       NETWORK/APP
                 machine …   machine.py   its id
                 peer …      peer.py      NETWORK/PEER
                 region …    region.py    its code
                 flycast …   flycast.py   NETWORK/APP [ADDRESS]
                 record …    record.py    NETWORK/NAME [TYPE [VALUE]]
                 zone …      zone.py      NETWORK/ZONE

Each file looks the row up by the name given (lookup.py), builds the change, and has it made and
reported (common.py).
"""
