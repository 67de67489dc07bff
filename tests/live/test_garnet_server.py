"""LocalCluster("garnet") with a stand-in for the binary: the options, the order of forming, and all that follows.

No real Garnet was ever run by these tests: `docs/servers.md` says what that means.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

import gvcluster
from gvcluster import ConfigError, hash_slot
from gvcluster.testing import LocalCluster, ServerFailed, ServerMissing, ServerTls, find_server

ROOT = Path(__file__).parents[2]
PROGRAM = """#!{python}
import sys
sys.path[:0] = [{root!r}, {support!r}]
from garnet_stand_in import main
main()
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An executable called garnet-server, alone on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    path = folder / "garnet-server"
    path.write_text(PROGRAM.format(python=sys.executable, root=str(ROOT), support=str(ROOT / "tests/support")))
    path.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder))
        yield path


@pytest.fixture(scope="module")
def formed(binary: Path) -> Iterator[LocalCluster]:
    """Two primaries with a replica each, agreed."""
    with LocalCluster("garnet", primaries=2, replicas=1, config={"requirepass": "s3"}) as cluster:
        yield cluster


def test_without_the_binary_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissing, match=r"dotnet tool install --global garnet-server.*microsoft/garnet/releases"):
        LocalCluster("garnet")


def test_it_is_found_by_either_of_its_names(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server("garnet").path() == binary
    other = tmp_path / "GarnetServer"
    other.symlink_to(binary)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server("garnet").path() == other


def test_what_it_cannot_start_is_refused(binary: Path) -> None:
    with pytest.raises(ConfigError, match="TLS"):
        LocalCluster("garnet", tls=ServerTls("ca", "cert", "key"))
    with pytest.raises(ConfigError, match="takes one value"):
        find_server("garnet").arguments(1, ROOT, 2.0, {"save": ["a", "b"]})
    with pytest.raises(ServerMissing, match="is no Garnet"):
        find_server("garnet").check_reported({"redis_version": "7.4.3"})


def test_a_binary_that_ends_at_once_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "garnet-server"
    path.write_text(f"#!{sys.executable}\nraise SystemExit('Unknown option m')\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerFailed, match="Unknown option m"):
        LocalCluster("garnet", primaries=1, replicas=0).start()


def test_each_node_has_its_own_folder_little_memory_fast_gossip_and_a_log(formed: LocalCluster) -> None:
    for node in formed.nodes:
        (options,) = map(json.loads, (node.folder / "arguments.json").read_text().splitlines())
        assert options == {
            "port": str(node.address.port),
            "bind": "127.0.0.1",
            "cluster": "true",
            "checkpointdir": str(node.folder),
            "gossip-delay": "1",
            "gossip-sp": "100",
            "cluster-timeout": "2",
            "lua": "true",
            "enable-debug-command": "yes",
            "m": "64m",
            "p": "1m",
            "i": "4m",
            "aof": "true",
            "aof-memory": "8m",
            "aof-page-size": "2m",
            "aof-segment-size": "64m",
            "auth": "Password",
            "password": "s3",
            "cluster-username": "default",
            "cluster-password": "s3",
        }


def test_without_replicas_there_is_no_log_and_a_second_life_recovers(binary: Path, tmp_path: Path) -> None:
    server = find_server("garnet")
    first = server.arguments(7000, tmp_path, 0.4, server.settings_for(0))
    assert first[0] == str(binary)
    assert not {"--aof", "--recover"} & set(first)
    assert first[first.index("--cluster-timeout") + 1] == "1"
    (tmp_path / "cluster").mkdir()
    again = server.arguments(7000, tmp_path, 0.4, {"m": "1g"})
    assert again[again.index("--recover") + 1] == "true"
    assert [again[place + 1] for place, word in enumerate(again) if word == "-m"] == ["1g"]


def test_it_forms_in_garnets_order_and_a_client_can_use_it(formed: LocalCluster) -> None:
    assert [len(formed.replicas_of(node)) for node in formed.primaries()] == [1, 1]
    with gvcluster.connect(formed.seeds, password="s3") as cluster:
        keys = [f"k{number}" for number in range(40)]
        assert [cluster.execute("INCR", key) for key in keys] == [1] * 40
        assert cluster.mget(keys) == [b"1"] * 40
        replica = formed.replicas_of(formed.primary_of("k0"))[0]
        with gevent.Timeout(10):  # the log is passed on when it is written
            while replica.command("GET", "k0") != b"1":
                gevent.sleep(0.01)


def test_a_slot_moves_and_a_replica_takes_over_while_a_client_writes(formed: LocalCluster) -> None:
    with gvcluster.connect(formed.seeds, password="s3", timeout=30) as cluster:
        key = "moving"
        assert cluster.execute("SET", key, 1) == b"OK"
        source = formed.primary_of(key)
        target = next(node for node in formed.primaries() if node is not source)
        formed.move_slots(hash_slot(key), target)
        assert cluster.execute("INCR", key) == 2
        assert formed.primary_of(key) is target
        replica = formed.replicas_of(target)[0]
        with gevent.Timeout(10):
            while replica.command("GET", key) != b"2":
                gevent.sleep(0.01)
        writing = gevent.spawn(cluster.execute, "INCR", key)
        assert formed.failover(target) is replica
        assert writing.get(timeout=30) == 3
        assert cluster.execute("INCR", key) == 4
        formed.wait_until_agreed()
        assert formed.primary_of(key) is replica
