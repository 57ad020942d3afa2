"""Proofs about the C core, as far as its models and bounds go: see __main__.py."""
