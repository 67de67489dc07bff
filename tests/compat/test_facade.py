"""What the facade does where the libraries' own clients refuse, wait wrongly, or lose their way."""

import gc
import weakref
from typing import Any

import gevent
import pytest
from compat_library import LIBRARY

import gvcluster
from gvcluster.testing import LocalCluster


def test_mget_and_mset_take_keys_of_any_slots(client: Any) -> None:
    assert client.mset({f"key{n}": n for n in range(50)}) is True
    assert client.mget([f"key{n}" for n in range(50)] + ["none"]) == [str(n) for n in range(50)] + [None]
    assert client.exists("key1", "key2", "none") == 2
    assert client.unlink("key1", "key2") == 2


def test_other_commands_with_keys_of_two_slots_are_refused_in_the_librarys_words(client: Any, library: Any) -> None:
    with pytest.raises(client._library.error("RedisClusterException"), match="all keys must map to the same key slot"):
        client.sinter("a", "b")


def test_a_pipeline_takes_what_a_cluster_can_do(client: Any) -> None:
    digest = client.script_load("return ARGV[1]")
    client.rpush("list", "x")
    with client.pipeline() as pipe:
        pipe.mset({"a": 1, "b": 2, "c": 3}).mget("a", "b", "c").publish("nobody", "x").evalsha(digest, 1, "k", "v")
        pipe.delete("a", "b").exists("a", "b", "c").ping().blpop("list", timeout=1).eval("return 3", 1, "k")
        pipe.set("s", "v", ex=10).keys("s", target_nodes="primaries").script_load("return 1").get("s")
        replies = pipe.execute()
    assert replies[:4] == [True, ["1", "2", "3"], 0, "v"]
    assert replies[4:9] == [2, 1, True, ("list", "x") if isinstance(replies[7], tuple) else ["list", "x"], 3]
    assert replies[9:11] == [True, ["s"]]
    assert replies[12] == "v"


def test_a_pipeline_is_true_and_returns_itself_and_forgets_at_the_end(client: Any) -> None:
    with client.pipeline(transaction=False) as pipe:
        assert pipe
        assert len(pipe) == 0
        assert pipe.set("a", 1) is pipe
        assert len(pipe) == 1
    assert len(pipe) == 0
    assert pipe.execute() == []
    assert client.get("a") is None


def test_the_first_error_of_a_pipeline_is_raised_when_all_have_run(client: Any) -> None:
    pipe = client.pipeline().set("a", 1).lpush("a", 1).set("b", 2)
    with pytest.raises(client._library.error("ResponseError"), match=r"Command # 2 \(LPUSH a 1\) of pipeline"):
        pipe.execute()
    assert client.get("b") == "2"


def test_a_watched_key_that_changes_ends_the_transaction(client: Any) -> None:
    with client.pipeline() as pipe:
        pipe.watch("{t}a")
        assert pipe.get("{t}a") is None
        client.set("{t}a", "other")
        pipe.multi()
        pipe.set("{t}a", "mine")
        with pytest.raises(client._library.error("WatchError")):
            pipe.execute()
    assert client.get("{t}a") == "other"


def test_a_function_makes_a_transaction_until_it_succeeds(client: Any) -> None:
    client.set("{t}n", 0)
    calls = []

    def increment(pipe: Any) -> None:
        value = int(pipe.get("{t}n"))
        if not calls:
            client.set("{t}n", 10)  # somebody else, once
        calls.append(value)
        pipe.multi()
        pipe.set("{t}n", value + 1)

    client.transaction(increment, "{t}n")
    assert calls == [0, 10]
    assert client.get("{t}n") == "11"


def test_a_transaction_of_two_slots_is_refused_before_anything_runs(client: Any) -> None:
    pipe = client.pipeline(transaction=True).set("a", 1).set("b", 1)
    with pytest.raises(client._library.error("CrossSlotTransactionError", "RedisClusterException"), match="same slot"):
        pipe.execute()
    assert client.exists("a", "b") == 0


def test_a_command_that_no_transaction_takes_is_named_in_the_error(client: Any) -> None:
    with pytest.raises(client._library.error("RedisError"), match=r"^NOSUCH command doesn't exist"):
        client.pipeline(True).set("a", 1).execute_command("NOSUCH", "a").execute()
    assert client.get("a") is None


def test_a_script_is_sent_again_where_a_node_has_lost_it(client: Any) -> None:
    script = client.register_script("return {KEYS[1], ARGV[1]}")
    assert script(keys=["k"], args=[1]) == ["k", "1"]
    client.script_flush()
    pipe = client.pipeline()
    assert script(keys=["k"], args=[2], client=pipe) is pipe
    script(keys=["other"], client=pipe, args=[3])
    assert pipe.execute() == [["k", "2"], ["other", "3"]]
    assert isinstance(script, __import__(f"{LIBRARY}.commands.core", fromlist=["x"]).Script)


def test_a_transaction_has_its_scripts_with_it(client: Any) -> None:
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    client.script_flush()
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("n")
        assert script(["n"], [2], client=pipe) == 2
        pipe.unwatch()
        script(["n"], [3], client=pipe.set("n", 4))
        assert pipe.execute()[-1] == 7


def test_locks_have_scripts_of_ours_also_where_the_librarys_own_client_has_locked_before(
    original: Any, client: Any, address: dict[str, Any]
) -> None:
    theirs = original(**address)
    theirs.lock("theirs")
    theirs.close()
    lock = client.lock("ours")
    scripts = lock.lua_release, lock.lua_extend, lock.lua_reacquire
    assert {type(script) for script in scripts} == {type(client.register_script(""))}


def test_a_lock_that_is_gone_keeps_no_client_alive(facade: Any) -> None:
    gone, other = (facade(host="127.0.0.1", port=1) for _ in range(2))
    cluster = weakref.ref(gone.gvcluster)
    assert [each.lock("lock").lua_release.registered_client for each in (gone, other)] == [gone, other]
    del gone
    gc.collect()
    assert cluster() is None
    other.close()


def test_who_waits_for_a_lock_holds_up_nobody(client: Any) -> None:
    held = client.lock("lock", timeout=20)
    assert held.acquire()
    order = []

    def waiter() -> None:
        with client.lock("lock", timeout=20, sleep=0.01):
            order.append("taken")

    waiting = gevent.spawn(waiter)
    for _ in range(10):
        gevent.sleep(0.005)
        order.append("tick")
    held.release()
    waiting.get(timeout=20)
    assert order == ["tick"] * 10 + ["taken"]


def test_each_greenlet_has_a_token_of_its_own(client: Any) -> None:
    lock = client.lock("lock", timeout=20)
    assert lock.acquire()
    assert not gevent.spawn(lock.owned).get(timeout=20)
    with pytest.raises(client._library.error("LockError")):
        gevent.spawn(lock.release).get(timeout=20)
    assert lock.owned()
    lock.release()


def test_scan_iter_finds_every_key(client: Any) -> None:
    keys = {f"key{n}" for n in range(500)}
    client.mset(dict.fromkeys(keys, "x"))
    assert set(client.scan_iter(match="key*", count=50)) == keys


def test_monitor_is_refused_with_what_to_use_instead(client: Any) -> None:
    with pytest.raises(client._library.error("RedisClusterException"), match=r"gvcluster\.connection"):
        client.monitor()
    with pytest.raises(client._library.error("RedisClusterException"), match="a subscription at a node"):
        client.pubsub(node=client.get_default_node())


def test_a_closed_client_connects_again(client: Any) -> None:
    client.set("a", 1)
    client.close()
    assert client.get("a") == "1"
    with client as same:
        assert same.get("a") == "1"


def test_a_callback_of_ones_own_sees_the_reply(client: Any) -> None:
    client.set_response_callback("GET", lambda reply, **options: reply * 2)
    client.set("a", "ab")
    assert client.get("a") == "abab"


def test_a_node_of_ones_choice_tells_where_the_key_is_and_is_not(client: Any) -> None:
    owner = client.get_node_from_key("a")
    other = next(node for node in client.get_primaries() if node != owner)
    client.set("a", 1)
    assert client.execute_command("GET", "a", target_nodes=other) == "1"
    assert client.get_redis_connection(owner).get("a") == "1"
    with pytest.raises(client._library.error("MovedError")):
        client.get_redis_connection(other).get("a")


def test_an_error_has_ours_as_its_cause(client: Any) -> None:
    with pytest.raises(client._library.error("ResponseError")) as caught:
        client.eval("return redis.call('incr', KEYS[1], 1)", 1, "a")
    assert isinstance(caught.value.__cause__, gvcluster.ReplyError)
    assert caught.value.maybe_executed is caught.value.__cause__.maybe_executed


def test_a_silent_node_is_the_librarys_timeout(
    facade: Any, address: dict[str, Any], compat_cluster: LocalCluster
) -> None:
    client = facade(**address, socket_timeout=1, cluster_error_retry_attempts=0)
    client.set("a", 1)
    owner = client.get_node_from_key("a")
    node = next(node for node in compat_cluster.primaries() if node.address.port == owner.port)
    node.command("CLIENT", "PAUSE", "60000", "WRITE")
    try:
        with pytest.raises(client._library.error("TimeoutError")) as caught:
            client.set("a", 2)
        assert caught.value.maybe_executed
    finally:
        node.command("CLIENT", "UNPAUSE")
        client.close()


def test_nobody_there_is_the_librarys_cluster_error_at_the_first_command(facade: Any) -> None:
    client = facade(host="127.0.0.1", port=1, socket_connect_timeout=0.2, socket_timeout=0.2)
    with pytest.raises(client._library.error("RedisClusterException"), match="Cluster cannot be connected"):
        client.get("a")
    client.close()


def test_what_ends_a_greenlet_is_not_translated(client: Any) -> None:
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        client.blpop("nothing", timeout=0)
    assert client.ping()


def test_greenlets_share_a_client(client: Any) -> None:
    jobs = [gevent.spawn(client.set, f"k{n}", n) for n in range(100)]
    gevent.joinall(jobs, timeout=30, raise_error=True)
    assert client.mget([f"k{n}" for n in range(100)]) == [str(n) for n in range(100)]


def test_what_would_change_a_shared_connection_needs_a_node(client: Any) -> None:
    with pytest.raises(client._library.error("RedisClusterException"), match="would change a connection"):
        client.execute_command("MULTI")
    assert client.client_setname("mine")
    assert client.execute_command("READONLY", target_nodes=client.get_default_node())
    assert client.client_getname() is None


@pytest.mark.parametrize("module", ["json", "ft", "bf", "ts"])
def test_the_clients_of_modules_can_be_made(client: Any, module: str) -> None:
    made = getattr(client, module)()
    if module == "json":
        with pytest.raises((client._library.error("RedisError"), client._library.error("ResponseError"))):
            made.get("key")


@pytest.mark.parametrize("module", ["bf", "ft", "json", "ts"])
def test_the_clients_of_modules_can_be_made_of_pipelines(client: Any, module: str) -> None:
    pipe = client.pipeline()
    made = getattr(pipe, module)()
    made.execute_command("GET", "key")
    assert pipe.execute() == [None]


@pytest.mark.parametrize("module", ["bf", "json", "ts"])
def test_the_clients_of_modules_can_be_made_of_nodes(client: Any, module: str) -> None:
    made = getattr(client.get_redis_connection(client.get_default_node()), module)()
    assert made.execute_command("PING") is True


def test_who_waits_for_a_first_subscription_is_woken_by_it(client: Any) -> None:
    pubsub = client.pubsub()

    def wait() -> Any:
        while True:
            message = pubsub.get_message(timeout=None)
            if message is not None:
                return message

    waiting = gevent.spawn(wait)
    gevent.sleep(0.01)
    pubsub.subscribe("a")
    assert waiting.get(timeout=20)["type"] == "subscribe"
    pubsub.close()
