"""What the shop keeps in Redis: stock, orders, and what was sold."""

from django.conf import settings
from redis.cluster import ClusterNode, RedisCluster

_NODES = [ClusterNode(host, int(port)) for host, port in (address.split(":") for address in settings.NODES.split(","))]
client = RedisCluster(startup_nodes=_NODES, decode_responses=True, socket_timeout=15)

_take = client.register_script("""
local left = tonumber(redis.call('GET', KEYS[1]) or 0)
if left < 1 then return -1 end
return redis.call('DECR', KEYS[1])
""")


def fill(**counts):
    """Set how many there are of each item."""
    client.mset_nonatomic({f"stock:{item}": count for item, count in counts.items()})


def stock(*items):
    """How many there are of each item."""
    counts = client.mget_nonatomic([f"stock:{item}" for item in items])
    return {item: int(count or 0) for item, count in zip(items, counts, strict=True)}


def take(item):
    """Take one, if there is one."""
    return _take(keys=[f"stock:{item}"]) >= 0


def note_order(user, items):
    """Keep who bought what."""
    with client.pipeline() as pipe:
        pipe.rpush(f"orders:{user}", *items)
        for item in items:
            pipe.hincrby("sold", item, 1)
        pipe.execute()


def orders(user):
    """What a user has bought."""
    return client.lrange(f"orders:{user}", 0, -1)


def sold():
    """How many of each item were sold."""
    return {item: int(count) for item, count in client.hgetall("sold").items()}
