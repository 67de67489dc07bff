"""A node's reply → what the library's client would return for it."""

from __future__ import annotations

from typing import Any

from gvcluster.compat.encoder import Encoder
from gvcluster.compat.library import Library
from gvcluster.compat.translation import Translator
from gvcluster.errors import GvClusterError

# Options of a command that the mixins pass for the client itself (redis/client.py).
EMPTY_RESPONSE, NEVER_DECODE = "EMPTY_RESPONSE", "NEVER_DECODE"
_FOR_THE_CLIENT = (EMPTY_RESPONSE, NEVER_DECODE, "keys", "target_nodes")


class Shapes:
    """Decodes, and applies the library's callbacks: those for a node, for a cluster, and for several nodes."""

    def __init__(self, library: Library, encoder: Encoder, protocol: int | None, legacy_responses: bool | None) -> None:
        self.translator = Translator(library)
        # redis-py's own cluster transactions leave out the callbacks of nodes.
        self.plain_in_transactions = library.has_transactions
        self._encoder = encoder
        self._of_nodes = library.response_callbacks(protocol, legacy_responses)
        kind = type(self._of_nodes)  # finds names in any case
        self.of_cluster = kind(library.cluster_callbacks(protocol, legacy_responses))
        self.of_several = kind(library.cluster_class.RESULT_CALLBACKS)

    def decoded(self, reply: Any, options: dict[str, Any]) -> Any:
        """The reply with str for bytes, where that is wanted; sets as lists, as the libraries read them."""
        if reply.__class__ is bytes:
            return reply if NEVER_DECODE in options else self._encoder.decode(reply)
        reply = _without_sets(reply)
        return reply if NEVER_DECODE in options or not self._encoder.decode_responses else self._encoder.nested(reply)

    def of_one(self, args: tuple[Any, ...], reply: Any, options: dict[str, Any], *, plain: bool = False) -> Any:
        """What one node's reply is to the user.

        Args:
            args: The command as the user gave it.
            reply: The reply, or the error; with EMPTY_RESPONSE among the options an error reply is that.
            options: What the mixin has said of the reply.
            plain: Without the callbacks of nodes, as the library does it in a cluster's transactions.

        Raises:
            Exception: The error, translated.
        """
        if isinstance(reply, Exception):
            return self._of_error(args, reply, options)
        name = args[0]
        value = self.decoded(reply, options)
        if value.__class__ is list:
            value = self._errors_told(value)
        given = {key: each for key, each in options.items() if key not in _FOR_THE_CLIENT} if options else options
        if not plain and name in self._of_nodes:
            value = self._of_nodes[name](value, **given)
        if name in self.of_cluster:
            value = self.of_cluster[name](value, **given)
        return value

    def _of_error(self, args: tuple[Any, ...], error: Exception, options: dict[str, Any]) -> Any:
        told = self.translator.translate(error, args)
        if EMPTY_RESPONSE in options and isinstance(told, self.translator.response_error):
            return options[EMPTY_RESPONSE]
        raise told

    def together(self, args: tuple[Any, ...], values: dict[str, Any], options: dict[str, Any]) -> Any:
        """What several nodes' replies are to the user. `values`: by the nodes' names."""
        if args[0] in self.of_several:
            return self.of_several[args[0]](args[0], values, **options)
        return next(iter(values.values())) if len(values) == 1 else values

    def _errors_told(self, value: Any) -> Any:
        """Errors within a reply, as of EXEC."""
        if isinstance(value, list) and any(isinstance(each, GvClusterError) for each in value):
            return [self.translator.translate(each) if isinstance(each, GvClusterError) else each for each in value]
        return value


def _without_sets(reply: Any) -> Any:
    if isinstance(reply, set | frozenset):
        return list(reply)
    if isinstance(reply, list):
        return [_without_sets(each) for each in reply] if any(map(_is_nested, reply)) else reply
    if isinstance(reply, dict):
        return {key: _without_sets(value) for key, value in reply.items()}
    return reply


def _is_nested(value: object) -> bool:
    return isinstance(value, list | dict | set | frozenset)
