"""Run the command line as its tests do."""

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from internal_dns.cli import cli
from internal_dns.cli.common import error_text
from internal_dns.errors import OperatorError


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: object, stdin: str | None = None) -> Said:
    """Run a command in this process, as `main` would."""
    result = CliRunner().invoke(cli, [str(word) for word in words], input=stdin)
    if isinstance(result.exception, OperatorError):
        return Said(
            result.exception.code, result.stdout, result.stderr + error_text(result.exception)
        )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)
