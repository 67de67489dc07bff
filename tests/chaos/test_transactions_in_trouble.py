"""A bank whose transfers are transactions, while slots move and primaries change: its total never does."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from gvcluster import Cluster, GvClusterError, Transaction, hash_slot
from gvcluster.testing import LocalCluster

ACCOUNTS = [f"{{bank}}{number}" for number in range(5)]
SLOT = hash_slot("{bank}")


class Bank:
    """Ten clerks, half of whom look at the balance first."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._draw = cluster, random.Random(11)
        self.errors: list[GvClusterError] = []
        self.done = 0
        cluster.execute("MSET", *(word for account in ACCOUNTS for word in (account, 100)))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        clerks = [gevent.spawn(self._work, transfer) for transfer in (self._plain, self._watched) for _ in range(5)]
        try:
            self.wait_until_served()
            yield
            self.wait_until_served()
        finally:
            gevent.killall(clerks)
        gevent.joinall(clerks, raise_error=True)

    def wait_until_served(self) -> None:
        """Wait until some more transfers were made."""
        enough = self.done + 30
        with gevent.Timeout(20):
            while self.done < enough:
                gevent.sleep(0.01)

    def total(self) -> int:
        return sum(map(int, self._cluster.execute("MGET", *ACCOUNTS)))

    def _work(self, transfer: Callable[[str, str, int], Any]) -> None:
        while True:
            here, there = self._draw.sample(ACCOUNTS, 2)
            try:
                transfer(here, there, self._draw.randrange(1, 20))
                self.done += 1
            except GvClusterError as error:
                self.errors.append(error)
            gevent.sleep(0.02)  # who watches must have a chance against those who do not

    def _plain(self, here: str, there: str, amount: int) -> None:
        tx = self._cluster.transaction()
        tx.append("DECRBY", here, amount)
        tx.append("INCRBY", there, amount)
        tx.commit()

    def _watched(self, here: str, there: str, amount: int) -> None:
        def transfer(tx: Transaction) -> None:
            before, after = map(int, tx.execute("MGET", here, there))
            tx.append("SET", here, before - amount)
            tx.append("SET", there, after + amount)

        self._cluster.transaction(transfer, here, there)


def test_a_slot_that_moves_and_a_planned_failover_cost_no_error(cluster: Cluster, live_cluster: LocalCluster) -> None:
    bank = Bank(cluster)
    source = live_cluster.primary_of(SLOT)
    target = next(node for node in live_cluster.primaries() if node is not source)
    with bank.at_work():
        move = live_cluster.begin_move(SLOT, target)
        for account in ACCOUNTS[:3]:
            move.move_keys(account)
            gevent.sleep(0.02)
        live_cluster.finish_move(move)
        bank.wait_until_served()
        live_cluster.failover(target)
        bank.wait_until_served()
        live_cluster.move_slots(SLOT, source)
    assert bank.errors == []
    assert bank.total() == 500


@pytest.mark.needs("elections")
def test_a_killed_primary_costs_only_errors_that_say_what_is_known(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    bank = Bank(cluster)
    with bank.at_work():
        live_cluster.kill(live_cluster.primary_of(SLOT))
    assert all(error.maybe_executed for error in bank.errors), bank.errors
    assert len(bank.errors) <= 10, "each clerk was at one transfer"
    assert bank.total() == 500
