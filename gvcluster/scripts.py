"""Scripts: Lua that runs at the node of its keys, sent once and called by its digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Unpack

from gvcluster.call_options import CallOptions, call_options_from
from gvcluster.core.script_text import ScriptText
from gvcluster.net.executor import Executor
from gvcluster.net.scripting import ScriptCall
from gvcluster.records import replace


class Script:
    """A script, to be called as often as you like, by any greenlet. Made by `Cluster.script`.

        take = cluster.script("return redis.call('DECRBY', KEYS[1], ARGV[1])")
        left = take(keys=["stock:7"], args=[3])

    Attributes:
        sha: The SHA1 digest of the source, 40 hexadecimal digits.
        source: The source, as bytes.
        read_only: Whether it is called by EVALSHA_RO.
        text: For the client's own use.
    """

    def __init__(self, here: Callable[[], Executor], text: ScriptText) -> None:
        self._here, self.text = here, text

    def __repr__(self) -> str:
        return f"<Script {self.sha}{' read-only' if self.read_only else ''}>"

    @property
    def sha(self) -> str:
        return self.text.sha

    @property
    def source(self) -> bytes:
        return self.text.source

    @property
    def read_only(self) -> bool:
        return self.text.read_only

    def __call__(self, keys: Sequence[Any] = (), args: Sequence[Any] = (), **options: Unpack[CallOptions]) -> Any:
        """Run it at the node that serves its keys, and return what it returns.

        The first call over a connection carries the source, later ones the digest; nobody need load anything. If a node
        has lost the script (SCRIPT FLUSH), it is sent again, but only when the node confirms that it does not have it:
        a script can answer NOSCRIPT as well, after it has written. What may run twice (read_only, `retry="always"`) is
        sent again in any case.

        Args:
            keys: A list of the keys, all in one hash slot: KEYS of the script.
            args: A list of whatever else it is given: ARGV.
            options: As for `Cluster.execute`.

        Raises:
            ConfigError, CrossSlot: The arguments make no sense; nothing was sent.
            NoScript: The node said so, and did not confirm it: `maybe_executed`. So it is when another client has
                loaded the script in between. A script that never answers NOSCRIPT has not run: call it again.
            ReplyError: The script failed, or the server refused. `maybe_executed`: what it has written before stays.
            GvClusterError: As `Cluster.execute`.

        Blocks: as `Cluster.execute`.
        """
        checked = call_options_from(options)
        executor = self._here()
        executor.runtime.loop.refuse_to_wait_in_hub()
        executor.refuse_if_closing()
        request = executor.inquiry.look_at(self.text.command(keys, args), checked, monotonic())
        request = replace(request, script=ScriptCall(self.text, request.data))
        return executor.carry_out(request, checked.get("node"))
