"""The web console: the catalog in use, an explanation of any answer, and the state of the server.

    serve.py    the port: uvicorn in the server's event loop
      │
    guard.py    checks the Host header and the token, adds security headers
      │
    app.py      maps paths to pages, which are built in one thread (templates/, static/)
      ├─ pages.py     networks, apps, machines, peers, flycasts, records, search
      ├─ steps.py     one query, explained step by step
      ├─ live.py      the busiest names, and queries as they are answered
      └─ status.py    plots of the last minutes: samples.py takes the values, plot.py draws them

The console is read only. It needs the extra [console]; without --console nothing here is imported.
"""
