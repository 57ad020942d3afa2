"""Benchmarks of the server: `python -m bench`. bench/README.md explains the figures."""
