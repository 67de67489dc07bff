"""F44: nobody waits for what has happened already, whoever else gives up at that moment."""

import time

import gevent
from gevent.event import Event

from gvcluster.net.loop import HubLoop


def test_f44_who_looks_again_after_a_timeout_is_not_forgotten_when_the_event_came_at_that_moment():
    """gevent's Event forgets, whatever their timeout, those who come between set() and its callback, if all who were
    there before leave: the set and their timeouts must come in one turn of the loop."""
    hub = gevent.get_hub()
    loop, event = HubLoop(hub), Event()

    def look_twice():
        return loop.wait(event, 0.020) or loop.wait(event, 1.0)

    waiting = [gevent.spawn(look_twice) for _ in range(3)]
    gevent.sleep(0)
    setting = hub.loop.timer(0.010)
    setting.start(event.set)
    time.sleep(0.050)  # both times pass while nobody looks
    ended = gevent.joinall(waiting, timeout=3)
    setting.close()
    assert [each.value for each in ended] == [True] * 3
