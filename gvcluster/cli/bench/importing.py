"""What importing a client costs, when gevent and hiredis are there."""

from __future__ import annotations

import os
import sys
from types import MappingProxyType

from gvcluster.cli.bench.measured import Measured
from gvcluster.cli.bench.processes import run

_MODULES = MappingProxyType(
    {"gvcluster": "gvcluster", "redis-py": "redis.cluster", "valkey-py": "valkey.cluster", "coredis": "coredis"}
)
_BEFORE = MappingProxyType({"coredis": "import asyncio, ssl"})
_PROGRAM = """\
import gevent, hiredis
{before}
from time import process_time
began = process_time()
import {module}
print((process_time() - began) * 1000)
"""


def take(client: str, limit: float) -> Measured:
    """Import it in a fresh process, and return the milliseconds of CPU time. asyncio is not counted as coredis's."""
    module = _MODULES[client]
    program = _PROGRAM.format(before=_BEFORE.get(client, ""), module=module)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # The first one may compile: that is done once for an installation.
    run([sys.executable, "-c", program], limit, environment)
    ended = run([sys.executable, "-c", program], limit, environment)
    if ended.why:
        return Measured(f"import {module}", error=ended.why)
    return Measured(f"import {module}", figures={"CPU ms": float(ended.output)})
