"""Scripts that are registered with a facade: sent and called by the rules of `gvcluster.Script`."""

from __future__ import annotations

from typing import Any

from gvcluster.compat.routing import Queued, ScriptCall


class ScriptRules:
    """Before the library's Script among the bases: what it does for a facade or its pipeline."""

    registered_client: Any
    script: Any
    sha: str

    def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        """Call the script, or queue the call in a pipeline. The source goes with it where a node does not have it.

        Raises:
            ResponseError: What the script or the server says, in the library's classes.

        Blocks: as `Cluster.execute`; in a pipeline never.
        """
        target = self.registered_client if client is None else client
        if not hasattr(target, "run_queued"):
            return super().__call__(keys=keys, args=args, client=client)  # type: ignore[misc]
        encode = target.get_encoder().encode
        keys, args = tuple(map(encode, keys or ())), tuple(map(encode, args or ()))
        words = ("EVALSHA", self.sha, len(keys), *keys, *args)
        return target.run_queued(Queued(words, script=ScriptCall(self.script, keys, args)))
