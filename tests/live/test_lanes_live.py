"""Small calls beside large ones, on real servers."""

import gevent
import pytest
from gevent.event import Event

import gvcluster
from gvcluster.testing import LocalCluster

SIZE = 16 << 20
READERS = 8
BIG, SMALL = "{lanes}big", "{lanes}small"


@pytest.mark.parametrize("said", [True, False])
def test_small_calls_are_answered_while_large_values_are_read_and_written_at_the_same_node(
    live_cluster: LocalCluster, protocol: int, said: bool
) -> None:
    options = {"bulk": True} if said else {}
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, timeout=60, command_timeout=60) as cluster:
        value = b"x" * SIZE
        cluster.execute("SET", BIG, value)
        cluster.execute("SET", SMALL, "small")
        if not said:
            cluster.execute("GET", BIG)  # from now on its reply is known to be large
        ended: list[str] = []
        answered = Event()

        def read(number: int) -> None:
            assert len(cluster.execute("GET", BIG, **options)) == SIZE
            cluster.execute("SET", f"{BIG}{number}", value)
            ended.append("large")

        def ask() -> None:
            for _ in range(10):
                assert cluster.execute("GET", SMALL) == b"small"
            ended.append("small")
            answered.set()

        greenlets = [gevent.spawn(read, number) for number in range(READERS)] + [gevent.spawn(ask)]
        gevent.joinall(greenlets, timeout=60, raise_error=True)
        assert answered.is_set()
        # They began last; had they stood behind the others, all of those would have had their replies first.
        assert ended[-1] == "large"
        assert ended.index("small") < READERS
        (node,) = [each for each in cluster.statistics().nodes if each.address == cluster.node_for_key(BIG).address]
        assert node.connections == 2
        cluster.execute("DEL", BIG, SMALL, *[f"{BIG}{number}" for number in range(READERS)])
