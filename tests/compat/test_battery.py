"""The facade against the library's own client, on the same cluster, call by call: values and errors."""

import warnings
from typing import Any

import pytest
from battery import CALLS, TRANSACTIONS
from compat_library import LIBRARY

from gvcluster.testing import LocalCluster


def outcome(client: Any, call: str) -> tuple[str, Any]:
    """What came of a call: a value, or an error's class and text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "value", exact(eval(call, {"c": client, "at": at}))
        except Exception as error:
            # What is wrong with an argument they say in other words where hiredis packs for them.
            text = "" if type(error).__name__ == "DataError" else str(error)
            return type(error).__name__, text


def at(client: Any, node: Any) -> Any:
    """The library's client of one node."""
    return client.get_redis_connection(node) if LIBRARY == "redis" else client.get_valkey_connection(node)


def exact(value: Any) -> Any:
    """The value with the type of all that is in it, for 1 == True == 1.0; and errors by what they say."""
    if isinstance(value, Exception):
        return type(value).__name__, str(value)
    if isinstance(value, dict):
        return "dict", {key: (type(key), exact(each)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [exact(each) for each in value]
    return type(value), value


def outcomes(client: Any, calls: list[str], cluster: LocalCluster) -> list[tuple[str, Any]]:
    for primary in cluster.primaries():
        primary.command("FLUSHALL")
        primary.command("FUNCTION", "FLUSH")
    client.set_default_node(client.get_node_from_key("k"))
    return [outcome(client, call) for call in calls]


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "str"])
@pytest.mark.parametrize("protocol", [None, 2, 3])
def test_every_call_ends_as_with_the_librarys_own_client(
    library: Any,
    original: Any,
    facade: Any,
    address: dict[str, Any],
    compat_cluster: LocalCluster,
    protocol: Any,
    decode: bool,
) -> None:
    transactions = hasattr(library.exceptions, "CrossSlotTransactionError")
    calls = (CALLS + TRANSACTIONS * transactions).strip().splitlines()
    options = {**address, "decode_responses": decode} | ({} if protocol is None else {"protocol": protocol})
    theirs, ours = original(**options), facade(**options)
    try:
        expected = outcomes(theirs, calls, compat_cluster)
        met = outcomes(ours, calls, compat_cluster)
    finally:
        theirs.close()
        ours.close()
    known = [call for call, (kind, _) in zip(calls, expected, strict=True) if kind != "AttributeError"]
    assert len(known) >= 200
    differences = [
        f"{call}\n    theirs: {wanted}\n    ours:   {got}"
        for call, wanted, got in zip(calls, expected, met, strict=True)
        if wanted != got
    ]
    assert not differences, f"{len(differences)} of {len(calls)} differ:\n" + "\n".join(differences)
