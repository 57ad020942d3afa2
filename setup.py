"""The native UDP path, and what pyproject.toml cannot say: leave it out when INTERNAL_DNS_PURE is
set.

Without a compiler the install goes on without it, and `serve` says so at start.
"""

import os

from setuptools import Extension, setup

NATIVE = "internal_dns/transport/native"
FAST = Extension(
    "internal_dns.transport.native.fast",
    [f"{NATIVE}/fast.pyx"],
    depends=[f"{NATIVE}/{name}" for name in ("fast.pxd", "repeat.h", "table.h", "worker.h")],
    define_macros=[("_GNU_SOURCE", None)],
    # Socket addresses are read through pointers to structs that they were not declared as.
    extra_compile_args=["-O2", "-std=c11", "-pthread", "-fno-strict-aliasing"],
    optional=True,
)

setup(ext_modules=[] if os.environ.get("INTERNAL_DNS_PURE") else [FAST])
