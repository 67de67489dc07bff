"""A small shop, written for redis-py's RedisCluster; the tests serve it as it is, and with the one import changed."""

import os

import redis.exceptions
from flask import Flask, abort, request
from redis.cluster import ClusterNode, RedisCluster

SEEDS = [node.rsplit(":", 1) for node in os.environ["SHOP_NODES"].split(",")]
client = RedisCluster(
    startup_nodes=[ClusterNode(host, int(port)) for host, port in SEEDS],
    decode_responses=True,
    socket_timeout=20,
)
take_one = client.register_script(
    """
    local left = tonumber(redis.call('GET', KEYS[1]) or '0')
    if left == 0 then
        return -1
    end
    return redis.call('DECR', KEYS[1])
    """
)
app = Flask(__name__)


@app.errorhandler(redis.exceptions.RedisError)
def unavailable(error):
    """Say so instead of failing."""
    return {"error": type(error).__name__}, 503


@app.get("/health")
def health():
    """Whether all primaries answer, and which process this is."""
    return {"ok": client.ping(target_nodes=RedisCluster.PRIMARIES), "pid": os.getpid()}


@app.post("/visits/<page>")
def visit(page):
    """Count a visit, and how many pages were visited at all."""
    with client.pipeline() as pipe:
        pipe.incr(f"visits:{page}").expire(f"visits:{page}", 3600).sadd("pages", page)
        count, _, _ = pipe.execute()
    return {"page": page, "visits": count}


@app.get("/visits")
def visits():
    """The visits of some pages."""
    pages = request.args.getlist("page")
    counts = client.mget_nonatomic([f"visits:{page}" for page in pages])
    return {page: int(count or 0) for page, count in zip(pages, counts, strict=True)}


@app.post("/users/<user>")
def sign_up(user):
    """Keep a user, once."""
    if not client.hsetnx(f"user:{user}", "name", user):
        abort(409)
    client.hset(f"user:{user}", mapping={"points": 0, "mail": f"{user}@example.org"})
    return {"user": user}, 201


@app.get("/users/<user>")
def show_user(user):
    """What is known of a user."""
    return client.hgetall(f"user:{user}") or abort(404)


@app.post("/users/<user>/points/<int:points>")
def give_points(user, points):
    """Give points, and enter the user into the list of the best."""
    total = client.hincrby(f"user:{user}", "points", points)
    client.zadd("best", {user: total}, gt=True)
    return {"points": total}


@app.get("/best")
def best():
    """The three best users."""
    return {"best": client.zrevrange("best", 0, 2, withscores=True)}


@app.put("/stock/<item>/<int:number>")
def fill(item, number):
    """Have so many of an item."""
    client.set(f"{{{item}}}:stock", number)
    client.delete(f"{{{item}}}:sold", f"{{{item}}}:orders")
    return {"stock": number}


@app.post("/stock/<item>/orders/<buyer>")
def order(item, buyer):
    """Sell one, if there is one left."""
    left = take_one(keys=[f"{{{item}}}:stock"])
    if left < 0:
        abort(409)
    client.rpush(f"{{{item}}}:orders", buyer)
    return {"left": left}, 201


@app.get("/stock/<item>/orders")
def orders(item):
    """Who has bought it."""
    return {"orders": client.lrange(f"{{{item}}}:orders", 0, -1)}


@app.post("/stock/<item>/sales/<int:number>")
def sell(item, number):
    """Sell several at once under a lock: the stock falls, and the sales rise, by the same."""
    with client.lock(f"{{{item}}}:lock", timeout=30, blocking_timeout=30, sleep=0.01):
        left = int(client.get(f"{{{item}}}:stock") or 0)
        if left < number:
            abort(409)
        with client.pipeline() as pipe:
            pipe.set(f"{{{item}}}:stock", left - number).incrby(f"{{{item}}}:sold", number).execute()
    return {"left": left - number}, 201
