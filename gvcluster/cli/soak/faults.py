"""What is done to the servers and the wire while the load goes on. Each fault lasts until it is told to end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType

import gevent

from gvcluster.cli.soak import trouble
from gvcluster.cli.soak.desk import Desk
from gvcluster.cli.soak.scene import SHARDS, Scene
from gvcluster.core.slots import hash_slot
from gvcluster.errors import ConfigError, GvClusterError
from gvcluster.testing import LocalClusterError, Node
from gvcluster.testing.faults import Cut, Delay, Rule, Split

# How many slots move key by key, and at once.
_ONE_BY_ONE, _AT_ONCE = 12, 200
# How long a slot stays half moved, seconds: less than a call may take.
_HALF_MOVED = 1.0
# What part of the replies is struck.
_STRUCK = 0.02
# In so many pieces a frame comes at most. Each takes two turns of the hub, which may be slow ones: a list that came
# byte by byte took its connection for half a minute, and all behind it were late.
_PIECES = 40


@dataclass
class Act:
    """One fault being played.

    Attributes:
        rng: Draws its details.
        until: When it is to end, on the monotonic clock.
        tell: Says what is done: the fault log.
        victims: The shard whose primary was hit; the others must not notice.
        cpu_down: Processor time of this process, in parts of a core, from 3 s after all nodes died until the first is
            started again.
    """

    scene: Scene
    rng: random.Random
    until: float
    tell: Callable[[str], None]
    victims: set[int]
    desk: Desk
    cpu_down: float = 0.0

    def goes_on(self) -> bool:
        """Whether there is time left."""
        return monotonic() < self.until

    def rest(self, seconds: float) -> None:
        """Wait, at most to the end."""
        gevent.sleep(max(0.0, min(seconds, self.until - monotonic())))

    def hit(self) -> Node:
        """Who serves the shard that is hit in this window: always the same, so that there are others to compare."""
        if not self.victims:
            self.victims.add(self.rng.randrange(SHARDS))
        return self.scene.primary(*self.victims)


def calm(act: Act) -> None:
    """Do nothing."""
    act.tell("no fault: what the others are measured by")


def failover(act: Act) -> None:
    """Let replicas take over, one shard after the other."""
    for shard in act.rng.sample(range(SHARDS), SHARDS):
        if act.goes_on():
            node = act.scene.primary(shard)
            act.tell(f"planned failover of shard {shard}, {node.address} hands over")
            act.scene.servers.failover(act.scene.servers.replicas_of(node)[0])
            act.rest(0.5)


def reshard(act: Act) -> None:
    """Move slots that are in use to another shard and back; leave one of them half moved for a while."""
    source, target = act.rng.sample(range(SHARDS), 2)
    slots = sorted({hash_slot(place.tag) for place in act.scene.places if place.shard == source})[:_ONE_BY_ONE]
    there, here = act.scene.primary(target), act.scene.primary(source)
    act.tell(f"{len(slots)} slots of shard {source} go to shard {target} key by key, and back")
    move = act.scene.servers.begin_move(slots[0], there)
    keys = here.command("CLUSTER", "GETKEYSINSLOT", slots[0], 10)
    if len(keys) > 1:
        move.move_keys(*keys[: len(keys) // 2])
    act.rest(_HALF_MOVED)
    act.scene.servers.finish_move(move)
    act.scene.servers.move_slots(slots[1:], there)
    act.rest(0.5)
    act.scene.servers.move_slots(slots, here)


def atomic(act: Act) -> None:
    """Move a range of slots to another shard at once, and back."""
    if not act.scene.servers.server.has_atomic_moves:
        raise ConfigError(f"{act.scene.servers.server.name} can not move slots atomically")
    source, target = act.rng.sample(range(SHARDS), 2)
    first = min(hash_slot(place.tag) for place in act.scene.places if place.shard == source)
    there, here = act.scene.primary(target), act.scene.primary(source)
    last = next(end for start, end in here.view().me.slots if start <= first <= end)
    last = min(last, first + _AT_ONCE)
    while act.goes_on():
        act.tell(f"slots {first} to {last} of shard {source} go to shard {target} at once, and back")
        act.scene.servers.move_slots_atomically(first, last, there)
        act.rest(0.5)
        act.scene.servers.move_slots_atomically(first, last, here)
        act.rest(0.5)


def client_kill(act: Act) -> None:
    """End all connections to all nodes, again and again."""
    while act.goes_on():
        act.tell("CLIENT KILL TYPE normal on all nodes")
        act.scene.everywhere("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        act.rest(0.8)


def proxy(act: Act) -> None:
    """Strike some replies and commands on the wire."""
    rules = (
        Rule(Cut(3, "rst"), probability=_STRUCK / 4),
        Rule(Cut(1), probability=_STRUCK / 4),
        Rule(Cut(9, "rst"), "request", probability=_STRUCK / 4),
        Rule(Cut(0), probability=_STRUCK / 4),
        Rule(Split(), when=lambda frame: len(frame.data) <= _PIECES, probability=_STRUCK),
        Rule(Split(3), "request", when=lambda frame: len(frame.data) <= 3 * _PIECES, probability=_STRUCK),
        Rule(Delay(0.03), probability=_STRUCK / 4),
    )
    proxies = list(act.scene.proxies.values())
    act.tell(f"{len(rules)} sorts of harm to replies and commands, at all nodes")
    for each in proxies:
        each.add(*rules)
    while act.goes_on():
        act.rest(0.7)
        chosen = act.rng.choice(proxies)
        what = act.rng.choice(("stall", "reset", "close"))
        act.tell(f"{what} of all connections to {chosen.target}")
        if what == "stall":
            chosen.stall(*act.rng.choice(((), ("reply",), ("request",))))
            act.rest(act.rng.uniform(0.1, 1.4))
            chosen.resume()
        else:
            chosen.reset_connections(rst=what == "reset")
    made = sum(rule.made for rule in rules)
    act.tell(f"{made} replies and commands were harmed")


def pause(act: Act) -> None:
    """Stop nodes for less than the node timeout."""
    most = min(1.2, act.scene.node_timeout * 0.6)
    while act.goes_on():
        node, seconds = act.hit(), act.rng.uniform(0.2, most)
        act.tell(f"SIGSTOP to {node.address} for {seconds:.2f} s")
        node.pause()
        gevent.sleep(seconds)
        node.resume()
        act.rest(1.0)


def kill(act: Act) -> None:
    """Kill primaries, and start each again when it was replaced."""
    while act.goes_on():
        node = act.hit()
        act.tell(f"SIGKILL to primary {node.address}")
        trouble.kill_and_replace(act.scene, node)
        act.tell(f"{node.address} is back, as a replica")


def long_pause(act: Act) -> None:
    """Stop a primary until it was replaced."""
    node = act.hit()
    heirs = act.scene.servers.replicas_of(node)
    act.tell(f"SIGSTOP to primary {node.address} until it was replaced")
    node.pause()
    trouble.wait_until_primary(heirs, 10 * act.scene.node_timeout + 10)
    act.rest(1.0)
    node.resume()
    act.tell(f"SIGCONT to {node.address}")


def play(fault: str, act: Act) -> str:
    """Play a fault to its end.

    Returns:
        Why the servers have not done it; empty if they have.

    Blocks: until it is over.
    """
    try:
        _PLAYED[fault](act)
        act.rest(act.until - monotonic())
    except (LocalClusterError, GvClusterError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


_PLAYED: MappingProxyType[str, Callable[[Act], None]] = MappingProxyType(
    {
        "calm": calm,
        "failover": failover,
        "reshard": reshard,
        "atomic": atomic,
        "client-kill": client_kill,
        "proxy": proxy,
        "pause": pause,
        "kill": kill,
        "long-pause": long_pause,
        "maxclients": trouble.maxclients,
        "requirepass": trouble.requirepass,
        "acl": trouble.acl,
        "all-down": trouble.all_down,
        "hub-stall": trouble.hub_stall,
        "fork": trouble.fork,
        "files": trouble.files,
    }
)
