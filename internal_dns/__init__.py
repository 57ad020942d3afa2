"""A DNS server for the internal names of many private networks."""


def __getattr__(name: str) -> str:
    # importlib.metadata takes longer to import than the rest of `--help`: only who asks for the
    # version pays.
    if name == "__version__":
        from importlib.metadata import version

        return version("internal-dns")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
