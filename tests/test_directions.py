"""Dependencies point inward: cli → server → service → admin → transport, forward, store → core.

A package is a folder, or a file directly in `internal_dns/`. An import counts wherever it stands:
in a function, or for the type checker only.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Final

import pytest

import internal_dns

ROOT: Final = Path(internal_dns.__file__).parent
LEAVES: Final = frozenset({"core", "net", "errors", "text", "lock"})
PARTS: Final = LEAVES | {"metrics", "late"}

# The packages that each package may import. A new edge is a decision: state it here.
ALLOWED: Final[Mapping[str, Set[str]]] = {
    "core": frozenset(),
    "net": frozenset(),
    "errors": frozenset(),
    "text": frozenset(),
    "lock": frozenset(),
    "late": frozenset(),
    "metrics": {"core"},
    "transport": PARTS,
    "forward": PARTS,
    "store": LEAVES,
    "replicate": LEAVES | {"store"},
    "sources": LEAVES | {"store"},
    "live": LEAVES | {"sources", "store", "replicate"},
    # The settings are parsed into the values of those who use them.
    "config": LEAVES | {"forward", "replicate"},
    "admin": PARTS | {"store", "replicate", "transport", "live"},
    "service": PARTS | {"config", "admin", "transport", "forward", "store", "replicate"},
    "server": PARTS | {"config", "service", "admin", "transport", "forward", "store", "replicate"},
    "cli": PARTS
    | {"config", "server", "service", "admin", "transport", "forward", "store", "replicate"}
    | {"sources", "live"},
    "__main__": {"cli"},
}


def imported(source: str) -> Iterator[str]:
    """Name the packages of ours that *source* imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                within = module == "internal_dns"
                modules = [f"{module}.{alias.name}" for alias in names] if within else [module]
            case ast.ImportFrom(level=level) if level:
                modules = ["internal_dns.(relative)"]
            case _:
                continue
        for name in modules:
            first, _, rest = name.partition(".")
            package = rest.partition(".")[0]
            # `from internal_dns import __version__` is the one name that is no package.
            if first == "internal_dns" and package != "__version__":
                yield package or "(whole)"


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def edges() -> dict[tuple[str, str], list[str]]:
    """Return who imports whom, and where."""
    found = defaultdict[tuple[str, str], list[str]](list)
    for path in sorted(ROOT.glob("**/*.py")):
        for package in imported(path.read_text()):
            if package != package_of(path):
                found[package_of(path), package].append(str(path.relative_to(ROOT)))
    return found


def cycle(allowed: Mapping[str, Set[str]]) -> list[str]:
    """Return the packages that depend on each other; none if there is no cycle."""
    left = {package: set(targets) for package, targets in allowed.items()}
    while ready := [package for package, targets in left.items() if not targets & left.keys()]:
        for package in ready:
            del left[package]
    return sorted(left)


@pytest.mark.slow
def test_packages_import_only_what_lies_inward() -> None:
    wrong = {
        f"{source} -> {target}": files
        for (source, target), files in edges().items()
        if target not in ALLOWED.get(source, ())
    }
    assert wrong == {}


def test_the_table_has_no_cycle() -> None:
    assert cycle(ALLOWED) == []


def test_the_table_names_every_package_and_no_other() -> None:
    packages = {package_of(path) for path in ROOT.glob("**/*.py")} - {"__init__"}
    assert set(ALLOWED) == packages


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("from internal_dns.admin.api import Api", "admin"),
        ("from internal_dns import server", "server"),
        ("import internal_dns.store.sqlite as s", "store"),
        ("def f():\n    from internal_dns.cli import main", "cli"),
        ("if TYPE_CHECKING:\n    from internal_dns.forward.cache import Cache", "forward"),
        ("from . import names", "(relative)"),
        ("import internal_dns", "(whole)"),
    ],
)
def test_the_checker_finds_what_is_planted(planted: str, expected: str) -> None:
    assert list(imported(planted)) == [expected]


def test_the_checker_finds_a_cycle() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": frozenset()}) == ["a", "b", "c"]
