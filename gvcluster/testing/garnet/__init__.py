"""Garnet as it looks from outside: a FakeCluster in its dialect."""

from gvcluster.testing.garnet.cluster import FakeGarnet
from gvcluster.testing.garnet.node import GarnetNode

__all__ = ["FakeGarnet", "GarnetNode"]
