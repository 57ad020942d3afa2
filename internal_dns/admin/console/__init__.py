"""The web console: the catalog as it is answered from, any question explained, and how the server
does.

    serve   the port: uvicorn in the server's loop ─► guard   Host, token, headers ─► app   paths to pages
    pages   networks, apps, machines, search    journey   one question, explained    status ◄─ samples, plot

Read only. Needs the extra [console]; nothing here is imported while the console is off.
"""
