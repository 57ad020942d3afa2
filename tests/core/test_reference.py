"""The server agrees with tests/reference.py, an independent reading of docs/names.md.

`reference_run.py` is the long run.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.core.reference_run import disagreements
from tests.laws import ALL_EXAMPLES

TRIPLES = 40_000 if ALL_EXAMPLES else 10_000


@pytest.mark.slow
def test_the_server_agrees_with_an_independent_reading_of_the_contract() -> None:
    asked = Counter[str]()
    for found in disagreements(1, TRIPLES, asked):
        assert found is None, str(found)
    # The queries are useful: they have every kind of outcome.
    seen = {kind for kind, count in asked.items() if count > TRIPLES / 2_000}
    assert {
        "NOERROR 28",
        "NOERROR 16",
        "NOERROR 12",
        "NOERROR 33",
        "NOERROR None",
        "NXDOMAIN None",
    } <= seen
    assert {"REFUSED None", "FORWARD None"} <= seen
    # Aliases of the networks' own are rarer.
    rare = {kind for kind, count in asked.items() if count >= 5}
    assert {
        "NOERROR 1",
        "NOERROR None aliased",
        "NXDOMAIN None aliased",
        "FORWARD None aliased",
    } <= rare
    assert any(kind.endswith(" aliased") and "None" not in kind for kind in asked)
