"""All keys of a cluster that begin with something, or look like something."""

from __future__ import annotations

import re
from itertools import islice

from gvcluster.cluster import Cluster
from gvcluster.errors import ConfigError

# How many are deleted at once.
_BATCH = 1000
# What means something in a pattern of SCAN.
_SPECIAL = re.compile(r"[*?[\\]")
# The versions that Django's `incr_version` can count: as a pattern, and as a glob that fits some more.
_NUMBER, _GLOB_NUMBER = "-?[0-9]+", "[0-9-]*"


def delete_prefix(cluster: Cluster, prefix: str) -> int:
    """Delete all keys that begin so, on all nodes, and return how many there were. What is stored meanwhile may stay.

    Raises:
        ConfigError: The prefix is empty: it would be all that is in the cluster.
        GvClusterError: As `Cluster.scan_iter` and `Cluster.unlink`.

    Blocks: until all nodes were scanned.
    """
    if not prefix:
        raise ConfigError("there is no prefix, so all keys of the cluster would be deleted")
    found = cluster.scan_iter(match=_escape(prefix) + "*")
    count = 0
    while batch := list(islice(found, _BATCH)):
        count += cluster.unlink(*batch, retry="always")
    return count


def fitting(parts: list[str], key: str, version: str, own: str) -> tuple[str, re.Pattern[bytes]]:
    """A glob for SCAN, and a pattern for what it finds, which fits less.

    Args:
        parts: Literals, and in their places marks.
        key: The mark of any key.
        version: The mark of any whole number, or of `own`.
        own: A version.
    """
    is_number = re.fullmatch(_NUMBER, own)
    globs = {key: "*", version: _GLOB_NUMBER if is_number else "*"}
    forms = {key: ".*", version: f"(?:{_NUMBER}|{re.escape(own)})"}
    glob = "".join(globs.get(each) or _escape(each) for each in parts)
    form = "".join(forms.get(each) or re.escape(each) for each in parts)
    return glob, re.compile(form.encode(), re.DOTALL)


def _escape(literal: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", literal)
