"""Commands that look at a cluster: `topology`, `doctor` and `exec`. They are click's; nothing here imports it before.

Why two parsers live under one name: docs/decisions/0011-two-parsers-one-name.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType

IN_SHORT: Mapping[str, str] = MappingProxyType(
    {
        "topology": "show shards, slots, replicas, zones and versions",
        "doctor": "find out what is wrong with a cluster, and what to do about it",
        "exec": "send one command to the node that serves its key",
    }
)
_INSTALL = "python3 -m pip install 'gvcluster[cli]' (from a clone: python3 -m pip install '.[cli]')"


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these commands.

    Args:
        name: One of IN_SHORT.
        arguments: What follows it.

    Returns:
        The exit code. Arguments that make no sense raise SystemExit(2).

    Blocks: until it is over.
    """
    for needed in ("click", "rich"):
        if find_spec(needed) is None:
            print(f"gvcluster {name}: {needed} is not installed here. Install it with: {_INSTALL}", file=sys.stderr)
            return 1

    from gvcluster.cli.inspect.commands import run_command

    return run_command(name, arguments)
