"""Measurements of the server; `python -m bench`. What the figures mean is in bench/README.md."""
