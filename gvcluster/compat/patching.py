"""Puts the facades in the place of the libraries' own classes, for code that can not be touched."""

from __future__ import annotations

import importlib
from types import ModuleType

# Where each library shows its class; and ours.
_PLACES = (
    ("redis", "RedisCluster", ("redis", "redis.cluster")),
    ("valkey", "ValkeyCluster", ("valkey", "valkey.cluster")),
)


def patch() -> list[str]:
    """Put the facades in the place of `redis.RedisCluster` and `valkey.ValkeyCluster`, where these are installed.

    Nothing else is touched, and importing gvcluster never does this. Call it before other modules say
    `from redis import RedisCluster`: they keep what they got. It can be called twice.

    Returns:
        The names of the classes that were replaced.

    Raises:
        ImportError: Neither library is installed.
    """
    replaced = []
    for library, name, places in _PLACES:
        ours = _ours(library, name)
        if ours is None:
            continue
        for place in places:
            setattr(importlib.import_module(place), name, ours)
            replaced.append(f"{place}.{name}")
    if not replaced:
        raise ImportError("neither redis nor valkey is installed: pip install gvcluster[redis], or gvcluster[valkey]")
    return replaced


def _ours(library: str, name: str) -> type | None:
    try:
        importlib.import_module(library)
    except ImportError:
        return None
    module: ModuleType = importlib.import_module(f"gvcluster.compat.{library}")
    found: type = getattr(module, name)
    return found
