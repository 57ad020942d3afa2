"""The core is pure: it imports nothing that reads a clock, draws random numbers or does I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import internal_dns.core

CORE = Path(internal_dns.core.__file__).parent
MODULES = sorted(CORE.glob("**/*.py"))
# The modules allowed; add one only if it is pure.
PURE = frozenset(
    "__future__ array bisect collections collections.abc dataclasses enum functools".split()
) | frozenset("itertools math operator re struct typing zlib".split())
# Only these names of these modules: `ipaddress` parses and formats addresses, `difflib` compares
# texts.
PURE_NAMES = {
    "difflib": {"get_close_matches"},
    "ipaddress": {
        "AddressValueError",
        "IPv4Address",
        "IPv4Network",
        "IPv6Address",
        "IPv6Network",
        "ip_address",
        "ip_network",
    },
}
BUILTINS = frozenset(
    {"open", "input", "print", "eval", "exec", "compile", "__import__", "breakpoint", "id"}
)


def impurities(source: str) -> Iterator[str]:
    """Yield everything in *source* that a pure module must not contain."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names if not pure(alias.name))
            case ast.ImportFrom(module, names, level):
                if level or module is None:
                    yield "a relative import"
                elif module in PURE_NAMES:
                    yield from (
                        f"{module}.{n.name}" for n in names if n.name not in PURE_NAMES[module]
                    )
                elif module == "internal_dns":
                    yield from (f"internal_dns.{n.name}" for n in names if n.name != "core")
                elif not pure(module):
                    yield module
            case ast.Call(ast.Name(name)) if name in BUILTINS:
                yield f"{name}()"
            case ast.Global(names):
                yield f"global {', '.join(names)}"


def pure(module: str) -> bool:
    return (
        module in PURE or module == "internal_dns.core" or module.startswith("internal_dns.core.")
    )


def test_the_core_has_modules() -> None:
    assert {"journey.py", "wire.py", "names.py", "lookup.py"} <= {path.name for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_of_the_core_is_pure(path: Path) -> None:
    assert list(impurities(path.read_text())) == []


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("import time", "time"),
        ("import random as r", "random"),
        ("from datetime import datetime", "datetime"),
        ("def f():\n    import socket", "socket"),
        ("from os.path import join", "os.path"),
        ("import collections.abc, secrets", "secrets"),
        ("from ipaddress import *", "ipaddress.*"),
        ("from internal_dns.store import sqlite", "internal_dns.store"),
        ("from internal_dns import forward", "internal_dns.forward"),
        ("import internal_dns.transport.listen.udp", "internal_dns.transport.listen.udp"),
        ("import internal_dns", "internal_dns"),
        ("from . import names", "a relative import"),
        ("try:\n    import logging\nexcept ImportError:\n    pass", "logging"),
        ("if TYPE_CHECKING:\n    from asyncio import Task", "asyncio"),
        ("open('/etc/passwd')", "open()"),
        ("__import__('time')", "__import__()"),
        ("def f():\n    global seen\n    seen = 1", "global seen"),
        ("import dns.message", "dns.message"),
    ],
)
def test_the_checker_finds_what_is_planted(planted: str, expected: str) -> None:
    assert expected in impurities(planted)


def test_the_checker_lets_pure_modules_pass() -> None:
    allowed = """
from internal_dns.core.wire import Type
import math
from ipaddress import IPv6Address
math.sin(1)
"""
    assert list(impurities(allowed)) == []
