"""The native code of both UDP sides, clients and upstreams, and what pyproject.toml cannot say:
leave it out when INTERNAL_DNS_PURE is set.

Without a compiler the install goes on without it, and `serve` says so at start.
"""

import os

from setuptools import Extension, setup

NATIVE = "internal_dns/transport/native"
FORWARD = "internal_dns/forward/native"
# Socket addresses are read through pointers to structs that they were not declared as.
FLAGS = ["-O2", "-std=c11", "-pthread", "-fno-strict-aliasing"]
FAST = Extension(
    "internal_dns.transport.native.fast",
    [f"{NATIVE}/fast.pyx"],
    depends=[f"{NATIVE}/{name}" for name in ("fast.pxd", "repeat.h", "table.h", "worker.h")],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=FLAGS,
    optional=True,
)
UPSTREAM = Extension(
    "internal_dns.forward.native.upstream",
    [f"{FORWARD}/upstream.pyx"],
    depends=[f"{FORWARD}/{name}" for name in ("reply.h", "upstream.h")],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=FLAGS,
    optional=True,
)

setup(ext_modules=[] if os.environ.get("INTERNAL_DNS_PURE") else [FAST, UPSTREAM])
