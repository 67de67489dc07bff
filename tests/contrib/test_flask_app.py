"""An application written for redis-py's RedisCluster, on gvcluster: the same answers after one changed import."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask_support import eventually, need, through_a_failover
from gunicorn_server import Gunicorn, serving

need("flask", "redis")

from gvcluster.testing import LocalCluster

APP = Path(__file__).parent / "apps" / "flask_app.py"
THEIRS = "from redis.cluster import ClusterNode, RedisCluster\n"
OURS = "from gvcluster.compat.redis import ClusterNode, RedisCluster\n"
REQUESTS = 200


class Shop:
    """The application behind a gunicorn."""

    def __init__(self, gunicorn: Gunicorn) -> None:
        self._gunicorn = gunicorn

    def call(self, method: str, path: str, timeout: float = 90.0) -> tuple[int, Any]:
        """The status, and the JSON where there is some."""
        status, body = self._gunicorn.request(path, method, timeout)
        return status, json.loads(body) if body.startswith("{") else None

    def at_once(self, *requests: tuple[str, str]) -> list[tuple[int, Any]]:
        """What so many concurrent requests are answered, in their order."""
        work = [gevent.spawn(self.call, *request) for request in requests]
        gevent.joinall(work, timeout=100, raise_error=True)
        return [each.value for each in work]


@pytest.fixture
def shop(request: pytest.FixtureRequest, live_cluster: LocalCluster, tmp_path: Path) -> Iterator[Shop]:
    """The application with the one import changed, or as it was written."""
    written = APP.read_text()
    assert written.count(THEIRS) == 1
    source = written if getattr(request, "param", None) == "redis-py" else written.replace(THEIRS, OURS)
    (tmp_path / "shop.py").write_text(source)
    with serving("shop:app", tmp_path, {"SHOP_NODES": live_cluster.seeds}, path="/health") as gunicorn:
        yield Shop(gunicorn)


@pytest.mark.parametrize("shop", ["redis-py", "gvcluster"], indirect=True)
def test_each_page_answers_as_it_should(shop):
    assert [shop.call("POST", f"/visits/{page}") for page in ("a", "b", "a")] == [
        (200, {"page": page, "visits": visits}) for page, visits in (("a", 1), ("b", 1), ("a", 2))
    ]
    assert shop.call("GET", "/visits?page=a&page=b&page=c") == (200, {"a": 2, "b": 1, "c": 0})
    assert [shop.call("POST", "/users/ann")[0] for _ in range(2)] == [201, 409]
    assert shop.call("GET", "/users/ann") == (200, {"name": "ann", "points": "0", "mail": "ann@example.org"})
    assert shop.call("GET", "/users/bob")[0] == 404
    for user, points in (("ann", 5), ("bob", 7), ("eve", 1), ("joe", 2), ("ann", 6)):
        shop.call("POST", f"/users/{user}/points/{points}")
    assert shop.call("GET", "/best") == (200, {"best": [["ann", 11], ["bob", 7], ["joe", 2]]})
    assert shop.call("PUT", "/stock/pen/3") == (200, {"stock": 3})
    assert [shop.call("POST", f"/stock/pen/sales/{number}")[0] for number in (2, 2, 1)] == [201, 409, 201]
    assert shop.call("POST", "/stock/pen/orders/ann")[0] == 409
    assert shop.call("GET", "/health")[1]["ok"] is True


def test_200_requests_at_once_are_each_answered_with_their_own(shop):
    shop.call("PUT", "/stock/pen/120")
    sold = shop.at_once(*[("POST", f"/stock/pen/orders/buyer{number}") for number in range(REQUESTS)])
    assert Counter(status for status, _ in sold) == {201: 120, 409: 80}
    assert sorted(answer["left"] for _, answer in sold if answer) == list(range(120))
    (_, answer) = shop.call("GET", "/stock/pen/orders")
    assert set(answer["orders"]) == {f"buyer{number}" for number, (status, _) in enumerate(sold) if status == 201}

    visits = shop.at_once(*[("POST", f"/visits/page{number % 50}") for number in range(REQUESTS)])
    assert sorted((answer["page"], answer["visits"]) for _, answer in visits) == sorted(
        (f"page{number % 50}", number // 50 + 1) for number in range(REQUESTS)
    )
    users = shop.at_once(*[("POST", f"/users/user{number}") for number in range(REQUESTS)])
    assert [answer for _, answer in users] == [{"user": f"user{number}"} for number in range(REQUESTS)]
    shown = shop.at_once(*[("GET", f"/users/user{number}") for number in range(REQUESTS)])
    assert [answer["name"] for _, answer in shown] == [f"user{number}" for number in range(REQUESTS)]


def test_a_lock_lets_one_in_after_the_other(shop):
    shop.call("PUT", "/stock/pen/100")
    sold = shop.at_once(*[("POST", "/stock/pen/sales/3")] * 40)
    assert Counter(status for status, _ in sold) == {201: 33, 409: 7}
    assert sorted(answer["left"] for _, answer in sold if answer) == list(range(1, 100, 3))


@pytest.mark.needs("elections")
def test_200_requests_at_once_survive_that_a_primary_is_killed(shop, live_cluster):
    numbers = count()

    def visit(key: str) -> tuple[int, Any]:
        number = next(numbers)
        asked = shop.call("POST", f"/visits/{key}")
        shown = shop.call("GET", f"/visits?page=number{number}&page={key}")
        assert shown[0] == 200
        return asked

    with through_a_failover(live_cluster, visit, workers=REQUESTS, keys=2) as load:
        assert load.errors == []
    met = Counter(status for _, (status, _) in load.ended)
    assert set(met) <= {200, 503}
    assert met[503] <= REQUESTS, "each had at most one write under way when the node was killed"
    acknowledged, doubtful = Counter(), Counter()
    for key, (status, answer) in load.ended:
        (acknowledged if status == 200 else doubtful)[key] += 1
        assert status == 503 or answer["page"] == key
    for key in acknowledged:
        (_, answer) = shop.call("GET", f"/visits?page={key}")
        assert 0 < answer[key] <= acknowledged[key] + doubtful[key], "no visit was counted twice"
    eventually(lambda: shop.call("GET", "/health")[1].get("ok") is True)
