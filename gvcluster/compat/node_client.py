"""A client for one node: what `get_redis_connection(node)` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gvcluster.compat.encoder import Encoder
from gvcluster.compat.routing import Queued


class NodeClient:
    """Before the library's command mixins among the bases: all commands go to this node."""

    _is_async_client = False

    def __init__(self, facade: Any, node: Any) -> None:
        self._facade, self.node = facade, node

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.node.name}>"

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As `Facade.execute_command`, at this node; redirects are raised. Blocks: as that."""
        queued = Queued(args, {**options, "target_nodes": self.node}, follows=False)
        replies = self._facade.run_queued(queued)
        # What is a dict by nodes there is the one node's reply here.
        is_by_node = isinstance(replies, dict) and list(replies) == [self.node.name]
        return replies[self.node.name] if is_by_node else replies

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """As the facade's, and for all of it: the modules' clients set theirs."""
        self._facade.set_response_callback(command, callback)

    def get_encoder(self) -> Encoder:
        """The facade's."""
        return self._facade.get_encoder()  # type: ignore[no-any-return]

    def pause(self, seconds: float) -> None:
        """As the facade's. Blocks: so many seconds."""
        self._facade.pause(seconds)

    def close(self) -> None:
        """Nothing: the connections are the facade's."""
