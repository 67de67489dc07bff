"""The two clients of the library that this run is about, and one cluster for them."""

import importlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from compat_library import CLASS, LIBRARY

from gvcluster.testing import LocalCluster


@pytest.fixture(scope="session")
def library() -> ModuleType:
    if "GVCLUSTER_TEST_COMPAT" not in os.environ:  # the wheels of some servers bring a library, but not everywhere
        pytest.importorskip(LIBRARY)
    return importlib.import_module(LIBRARY)


@pytest.fixture(scope="session")
def original(library: ModuleType) -> Any:
    """The library's own class."""
    return getattr(importlib.import_module(f"{LIBRARY}.cluster"), CLASS)


@pytest.fixture(scope="session")
def facade(library: ModuleType) -> Any:
    """Ours."""
    return getattr(importlib.import_module(f"gvcluster.compat.{LIBRARY}"), CLASS)


@pytest.fixture(scope="session")
def compat_cluster(any_server: str) -> Iterator[LocalCluster]:
    """One cluster for all of these tests, which break nothing."""
    with LocalCluster(any_server) as cluster:
        yield cluster


@pytest.fixture
def address(compat_cluster: LocalCluster) -> dict[str, Any]:
    """`host` and `port` of a node, and no keys in any."""
    for primary in compat_cluster.primaries():
        primary.command("FLUSHALL")
    node = compat_cluster.primaries()[0].address
    return {"host": node.host, "port": node.port}


@pytest.fixture
def client(facade: Any, address: dict[str, Any]) -> Iterator[Any]:
    """A facade that decodes."""
    made = facade(**address, decode_responses=True)
    yield made
    made.close()
