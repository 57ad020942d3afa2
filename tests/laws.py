"""How many examples Hypothesis tries for a law.

`make unit` and `make quick` try a quarter of them; `make test`, which CI runs, tries all.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

ALL_EXAMPLES: Final = os.environ.get("ALL_EXAMPLES") == "1"
USUAL: Final = 100  # examples of a law that states no number


def examples(count: int = USUAL) -> settings:
    """Return the settings of a law that all of CI's runs try *count* times.

    CI tries the same examples every time, so that it judges the change; `make unit` tries others
    each time. There is no deadline: on a busy machine one example may take any time.
    """
    return settings(
        max_examples=count if ALL_EXAMPLES else -(-count // 4),
        derandomize=ALL_EXAMPLES,
        deadline=None,
    )


def load_profile() -> None:
    """Make `examples()` the settings of the laws that state none."""
    settings.register_profile("internal-dns", examples())
    settings.load_profile("internal-dns")
