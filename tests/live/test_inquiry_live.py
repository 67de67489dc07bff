"""What real servers tell of a command that no table lists. One that they know by another name stands for a module's."""

from collections.abc import Iterator

import pytest

import gvcluster
from gvcluster.errors import CrossSlot, UnknownCommand
from gvcluster.testing import LocalCluster

pytestmark = pytest.mark.needs("rename-command")


@pytest.fixture(scope="module")
def renamed(server: str) -> Iterator[LocalCluster]:
    """Three nodes that know SORT only as MY.SORT."""
    with LocalCluster(server, replicas=0, config={"rename-command": ["SORT", "MY.SORT"]}) as cluster:
        yield cluster


@pytest.fixture
def cluster(renamed: LocalCluster, protocol: int) -> Iterator[gvcluster.Cluster]:
    client = gvcluster.connect(renamed.seeds, protocol=protocol)
    yield client
    client.close()


def test_a_command_that_no_table_lists_is_routed_by_the_keys_that_the_server_finds(cluster: gvcluster.Cluster) -> None:
    for number in range(10):
        source, target = f"{{{number}}}source", f"{{{number}}}target"
        cluster.execute("RPUSH", source, 3, 1, 2)
        assert cluster.execute("MY.SORT", source) == [b"1", b"2", b"3"]
        assert cluster.execute("my.sort", source, "LIMIT", 0, 2, "STORE", target) == 2
        assert cluster.command("LRANGE %s 0 %d", target, -1) == [b"1", b"2"]
    assert cluster.statistics().redirects == 0
    with pytest.raises(CrossSlot):
        cluster.execute("MY.SORT", "a", "STORE", "b")


def test_a_command_that_nobody_knows_is_refused(cluster: gvcluster.Cluster) -> None:
    with pytest.raises(UnknownCommand, match="does not know this command"):
        cluster.execute("MY.SORTT", "k")
    with pytest.raises(UnknownCommand, match="does not know this command"):
        cluster.execute("CLUSTER", "NOSUCH")


def test_an_encoded_command_reaches_its_node(cluster: gvcluster.Cluster) -> None:
    for key in (b"a", b"b", b"c", b"\r\n", b""):
        data = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$2\r\n\0\n\r\n" % (len(key), key)
        assert cluster.execute_formatted(data) == b"OK"
        assert cluster.execute("GET", key) == b"\0\n"
    assert cluster.statistics().redirects == 0
