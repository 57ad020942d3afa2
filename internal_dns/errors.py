"""The error that operators see: what went wrong, why, and what to do.

Code that knows the cause raises it. Only the command line turns it into text.
"""

from __future__ import annotations

from typing import Final

CONFIGURATION: Final = 78  # EX_CONFIG of sysexits.h


class OperatorError(Exception):
    """A problem that the operator can correct. *code* is the exit status of the program."""

    def __init__(
        self, what: str, why: str, do: str, code: int = CONFIGURATION, *, in_use: bool = False
    ) -> None:
        super().__init__(f"{what}: {why}. {do}")
        self.what, self.why, self.do, self.code = what, why, do, code
        self.in_use = in_use  # another program uses the port
