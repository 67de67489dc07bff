"""The library that this run is about, by GVCLUSTER_TEST_COMPAT: "redis" (the default) or "valkey"."""

import os

LIBRARY = os.environ.get("GVCLUSTER_TEST_COMPAT", "redis")
CLASS = f"{LIBRARY.capitalize()}Cluster"
