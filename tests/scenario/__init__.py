"""Scenarios: sessions with dig, written down and played to a server.

language.py   what a `.scn` file says ─► Scenario
runner.py     how octets travel: a Runner, and one that calls `respond` itself
judge.py      what is wrong with a reply
play.py       a Scenario and a Runner ─► every complaint
"""
