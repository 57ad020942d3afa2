"""The catalog file: read it, notice commits, make new ones.

    SQLite file ─ watch ─► sqlite (rows) ─► Catalog ─► the server answers from it
         ▲
         └─ writer ◄─ operations ◄─ command line, API

    schema.py          the tables and columns, as data; everything below derives from them
    sqlite.py          Reader: the file, or what a commit changed, as a frozen Catalog
    rows.py            one row to one value; what breaks a rule becomes a Fault
    watch.py           Watcher: notices commits and replaced files, keeps the last good catalog
    writer.py          Writer: the only writer of a file with a journal; one transaction per change
    journal.sql        triggers that note which parts of the catalog a commit changed
    upgrade.py         adds to a file of an older schema what it lacks
    operations.py      the operations that the command line requests; JSON in, JSON out
    json_rows.py       rows as JSON objects
    preview.py         the answers that a change would alter
    check.py           lint: rows not loaded, names that cannot be queried, answers that do not fit
    generate.py        new files: the demo, and catalogs of any size
    declare/           declarative documents (TOML, JSON): parse, plan, export

The server reads in a thread of its own and never writes on the event loop. SQL that reads the
catalog into memory is in sqlite.py only.
"""
