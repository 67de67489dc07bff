"""What is taken of redis-py or valkey-py: exceptions, nodes, flags of commands, and the shapes of replies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

# The names of the one library, in the words of the other.
_PREFIX = "Redis"


@dataclass(frozen=True)
class Library:
    """One of the two libraries, which have the same names but for their own one in them."""

    package: ModuleType
    exceptions: ModuleType
    cluster: ModuleType
    parse_url: Any

    @property
    def name(self) -> str:
        """`"redis"` or `"valkey"`."""
        return self.package.__name__

    @property
    def title(self) -> str:
        """`"Redis"` or `"Valkey"`."""
        return self.name.capitalize()

    def named(self, name: str) -> str:
        """A name of redis-py as this library has it."""
        return name.replace(_PREFIX, self.title)

    def error(self, *names: str) -> type[Exception]:
        """The first of these exceptions that this version has."""
        for name in names:
            found = getattr(self.exceptions, self.named(name), None)
            if found is not None:
                return found  # type: ignore[no-any-return]
        raise AttributeError(f"{self.name} has none of {', '.join(names)}")

    @cached_property
    def client_class(self) -> Any:
        """Its client of one server."""
        return getattr(self.package, self.named("Redis"))

    @cached_property
    def cluster_class(self) -> Any:
        """Its own cluster client, of which the tables are used and nothing else."""
        return getattr(self.cluster, self.named("RedisCluster"))

    @cached_property
    def has_status_codes(self) -> bool:
        """Whether its errors are told the code apart from the text (redis 7)."""
        return "status_code" in inspect.signature(self.error("ResponseError").__init__).parameters

    @cached_property
    def has_legacy_responses(self) -> bool:
        """Whether it speaks RESP3 unless told otherwise, and gives RESP2's shapes all the same (redis 8)."""
        return "legacy_responses" in inspect.signature(self.client_class.__init__).parameters

    @cached_property
    def has_transactions(self) -> bool:
        """Whether its cluster pipelines know transactions (redis 6)."""
        return hasattr(self.exceptions, "CrossSlotTransactionError")

    def response_callbacks(self, protocol: int | None, legacy_responses: bool | None) -> Any:
        """What it makes of the replies of a node. Making a client to ask it connects to nobody."""
        given: dict[str, Any] = {} if protocol is None else {"protocol": protocol}
        if self.has_legacy_responses and legacy_responses is not None:
            given["legacy_responses"] = legacy_responses
        return self.client_class(**given).response_callbacks

    def cluster_callbacks(self, protocol: int | None, legacy_responses: bool | None) -> dict[str, Any]:
        """What it makes of them in a cluster, afterwards."""
        callbacks = dict(self.cluster_class.CLUSTER_COMMANDS_RESPONSE_CALLBACKS)
        shards = None
        if self.has_legacy_responses and legacy_responses is False:
            shards = getattr(self.cluster, "parse_cluster_shards_unified", None)
        elif self.has_legacy_responses and protocol is None:
            shards = getattr(self.cluster, "parse_cluster_shards_with_str_keys", None)
        if shards is not None:
            callbacks["CLUSTER SHARDS"] = shards
        return callbacks

    @property
    def flags(self) -> Mapping[str, str]:
        """Command → which nodes are asked."""
        return self.cluster_class.COMMAND_FLAGS  # type: ignore[no-any-return]

    def node(self, host: str, port: int, role: str) -> Any:
        """One of its ClusterNodes."""
        return self.cluster.ClusterNode(host, port, role)
