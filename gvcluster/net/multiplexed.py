"""The multiplexed connection: all greenlets of a hub share it, and their commands share writes and reads.

A *waiter* is one call: its bytes, whom to wake, and at the end its reply. It stands in the *queue* until its bytes go
to the kernel, then in the *line* of those that are owed a reply. The rules that keep replies and waiters together:

- Bytes and waiter enter the queue in one C call, and only the flush moves waiters from the queue to the line, before
  it sends. A garbage collection or a signal handler may run any code between two bytecodes; nothing can come between
  what is in line and what was sent. For the same reason a waiter is looked at first and taken out last.
- A call that leaves early stays in line, with nobody to wake; its reply is read and dropped.
- Whatever else goes wrong in the frames of flush or read poisons the connection: it is closed, and each waiter is told.
- Only the hub wakes and reads, and only what really is the waiter counts as woken.
- A closed connection keeps its waiters where they are: frames that are still running find nothing missing.

The line has an end: when `max_in_flight` are in it, the flush leaves the others in the queue, where they wait for room
in the order of their arrival. So a place is never handed to anybody who may be gone by then: the flush, which comes
after each read, takes the oldest who still waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import chain, islice, repeat
from sys import maxsize
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent.exceptions import InvalidSwitchError
from greenlet import getcurrent

from gvcluster.core.announced import TooMuch
from gvcluster.core.resp import INCOMPLETE, MALFORMED, Push, ReplyReader, encode
from gvcluster.errors import BlockedInHub, ConnectionLost, PoolFull, ProtocolError, ReplyError
from gvcluster.net.dial import Connection
from gvcluster.net.hoard import Hoard
from gvcluster.net.large import LARGE
from gvcluster.net.loop import HubLoop
from gvcluster.net.waiter import Block, Waiter
from gvcluster.net.watch import SHORTEST, Watch

if TYPE_CHECKING:
    from gvcluster.net.tls import Transport

CHUNK = 64 * 1024
# Where a read fills the buffer there is more: so many reads in a row, 1 MiB, before the loop looks at others. With it
# a reply of 1 MiB came at 0.7 of a bare socket's speed in CPU time, without at 0.6. A larger buffer gained nothing.
READS = 16
# After a pause like this the peer may have gone without anybody having looked: a look costs 1 µs, a lost write more.
IDLE = 1.0
# Commands that are joined for one write, and for one that is mostly of large ones: the kernel takes 2 to 6 MB, and what
# it does not take is joined again. Joining 64 MiB took 30 ms.
BURST, LARGE_BURST = 1024, 1

_ASKING = encode(("ASKING",))


class MultiplexedConnection:
    """Many calls in flight on one transport. Belongs to one hub."""

    # Beyond 30 attributes CPython 3.11 keeps no inline values, and its way to all of them is a little longer.
    __slots__ = (
        *(
            "__weakref__",
            "address",
            "closed",
            "commands",
            "hoard",
            "greetings",
            "is_stream",
            "listener",
            "on_empty",
            "on_large",
            "on_push",
            "peer",
        ),
        *("_again", "_buffer", "_burst", "_cause", "_due", "_enough", "_given_up", "_heard", "_hub", "_is_stuck"),
        *("_knows_what_was_sent", "_least_room", "_line", "_loop", "_measured", "_measured_bytes", "_most_bytes"),
        *(
            "_most_in_flight",
            "_most_waiting",
            "_on_lost",
            "_queue",
            "_readable",
            "_reader",
            "_recv_into",
            "_rest",
            "_send",
        ),
        *("_is_told", "_soon", "_transport", "_watch", "_writable", "takes_multi"),
    )

    def __init__(
        self,
        transport: Transport,
        loop: HubLoop,
        peer: Connection,
        on_lost: Callable[[MultiplexedConnection, BaseException | None], object],
    ) -> None:
        self.peer, self.address = peer, peer.address
        self.closed = self._is_told = False
        self.is_stream = False  # a Block is in line that is owed replies for ever: nobody need wait for its end
        # Commands sent so far; and how many of them shook hands, infinitely many until that is over.
        self.commands, self.greetings = 0, math.inf
        self.takes_multi = False  # whether a transaction is known to be one here: net/multi.py
        self.on_empty: Callable[[], object] | None = None
        self.on_large: Callable[[bytes], object] | None = None  # is told of commands whose reply is large
        self.on_push: Callable[[Push], object] | None = None
        self.listener: Any = None  # of one that only listens: see net/listening.py
        self._on_lost = on_lost
        self._loop, self._hub, self._soon = loop, loop.hub, loop.soon
        self._transport, self._send, self._recv_into = transport, transport.send, transport.recv_into
        self._readable, self._writable = transport.readable, transport.writable
        self._queue: deque[Waiter] = deque()
        self._line: deque[Waiter] = deque()
        self._given_up = 0  # how many of those in the queue wait no longer
        self._measured = self._measured_bytes = 0  # how many of the oldest in the queue were measured, and their bytes
        self._most_in_flight = self._most_bytes = self._most_waiting = maxsize
        self._burst = self._least_room = BURST
        self._rest = memoryview(b"")  # of the youngest in line: what the transport has not taken yet
        self._is_stuck = False  # the kernel takes no more: the write watcher will tell
        self._due = self._soon(int)  # the flush of this turn of the loop: what counts is whether it is pending
        self._due.stop()
        self._knows_what_was_sent = True
        self._cause: BaseException | None = None
        self._heard = monotonic()  # when the last byte came, or went while nothing was owed
        self._reader, self._buffer = ReplyReader(), bytearray(CHUNK)
        self._enough = 1 if loop.tells_of_errors_once else CHUNK  # of bytes, to read once more
        self.hoard = Hoard(self._reader)
        self._again = loop.timer(0, ref=True)
        self._watch = Watch(self, loop)
        self._readable.start(self._on_readable)
        loop.watch_over(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._line)} in flight, {len(self._queue)} queued"
        return f"<MultiplexedConnection {self.address} {state}, {self.commands} sent>"

    @property
    def in_flight(self) -> int:
        """How many calls are queued or owed a reply."""
        return 0 if self.closed or self.is_stream else len(self._queue) + len(self._line)

    @property
    def waiting_for_room(self) -> int:
        """How many calls are not sent because too many others are in flight."""
        beyond = len(self._line) + len(self._queue) - self._given_up - self._most_in_flight
        return 0 if self.closed else max(0, beyond)

    def limit(self, in_flight: int, queued_bytes: int, waiting: int, burst: int) -> None:
        """Set how many calls may be sent and not answered, how many bytes unsent, and how many calls wait beyond.

        burst: so many commands at most are joined for one write.
        """
        self._burst, self._least_room = burst, min(in_flight, burst)
        self._most_in_flight, self._most_bytes, self._most_waiting = in_flight, queued_bytes, waiting

    def keep_memory(self, size: int) -> None:
        """Keep so many bytes of the memory that an unfinished reply has taken, for the next one."""
        self._reader.setmaxbuf(size)

    def is_full(self, beyond: int = 0) -> bool:
        """Whether a call would have to wait for room, behind at least so many others that do. A Block is one call."""
        unsent = len(self._queue) - self._given_up
        if unsent + len(self._line) >= self._most_in_flight + beyond:
            return True
        return unsent > 0 and unsent >= beyond and self._queued_bytes() >= self._most_bytes

    def _queued_bytes(self) -> int:
        """How many bytes are in the queue. The fast path counts nothing: only those are measured that are new."""
        queue = self._queue
        if not self._measured:
            self._measured_bytes = 0
        for waiter in islice(reversed(queue), len(queue) - self._measured):
            self._measured_bytes += len(waiter.data)
        self._measured = len(queue)
        return self._measured_bytes

    def full(self) -> PoolFull:
        """What is said to a call for which there is no room."""
        text = f"too many calls wait for {self.address} already: {self.in_flight:,}"
        return PoolFull(text, address=self.address, limit=self._most_in_flight, waiting=self.waiting_for_room)

    # -- calling ------------------------------------------------------------------------------------------------------

    def call(self, data: bytes, deadline: float) -> Any:
        """Send one packed command; return its reply, or the error that came instead of one.

        Many deadlines share one timer, which is armed for the oldest: a deadline nearer than those of the calls
        before it is for `call_within`. Where the lane is full, it waits for room, or gets PoolFull.
        """
        hub = self._hub
        if getcurrent() is hub:
            self._refuse_in_hub()
        return self._wait(Waiter(data, hub, deadline))

    def call_within(self, data: bytes, deadline: float, *, asking: bool = False) -> Any:
        """The same with a timer of its own, and with ASKING in front if needed: one block, it must hit no other."""
        if not asking:
            self._refuse_in_hub()
            return self._watch.wait(self._wait, Waiter(data, self._hub, deadline))
        *earlier, reply = self.call_together(_ASKING + data, 2, deadline)
        # Where ASKING is refused, the command is only sent back to where it came from: say what was wrong first.
        refused = next((each for each in earlier if isinstance(each, ReplyError)), None)
        return refused if refused is not None and isinstance(reply, ReplyError) else reply

    def call_together(self, data: bytes, owed: int, deadline: float) -> list[Any]:
        """So many commands as one block: their replies, and in place of each that did not come, why."""
        self._refuse_in_hub()
        block = Block(data, owed, self._hub, deadline)
        reply = self._watch.wait(self._wait, block)
        return [*block.earlier, *[reply] * (owed - len(block.earlier))]

    def post(self, waiter: Waiter) -> PoolFull | None:
        """Queue a call of which nobody parks: its `wake` is a function, called in the hub. Never switches.

        A deadline nearer than those of the calls before it needs a timer: see `time`. Who leaves says so: `give_up`.

        Returns:
            PoolFull if too many wait for room already: then it is not queued.
        """
        if len(self._queue) >= self._most_waiting and self.is_full(self._most_waiting):
            waiter.is_queued = False  # who leaves takes no place with him
            return self.full()
        self._queue.append(waiter)
        if not self._due.pending:
            self._due = self._soon(self._flush)
        if not self._watch.is_running:
            self._watch.start()
        return None

    def post_stream(self, block: Block) -> None:
        """Queue a block that is owed replies for ever: nobody, nor the loop, need wait for its end. Never switches."""
        self.is_stream, self._readable.ref = True, False
        self.post(block)

    def time(self, waiter: Waiter) -> Any:
        """Give a posted call a timer of its own. Who is told closes it."""
        return self._watch.time(waiter)

    def _refuse_in_hub(self) -> None:
        if getcurrent() is self._hub:
            raise BlockedInHub("this call would wait, and the hub must not: spawn a greenlet for it")

    def _wait(self, waiter: Waiter) -> Any:
        queue = self._queue
        if len(queue) >= self._most_waiting and self.is_full(self._most_waiting):
            return self.full()
        try:
            queue.append(waiter)
            if not self._due.pending:
                self._due = self._soon(self._flush)
            if not self._watch.is_running:
                self._watch.start()
            woken = waiter.parking.get()
            if woken is not waiter:
                # Never its value: a greenlet that ends here hands over its result.
                raise InvalidSwitchError(f"a {type(woken).__name__} was switched into a call that waits for a reply")
        except BaseException as error:
            waiter.leave()
            self.give_up(waiter)
            self._loop.halt_copy(error)
            raise
        waiter.wake = None  # as `leave` does, without a call
        if waiter.scheduled is not None:
            waiter.scheduled.stop()
        return waiter.reply

    def give_up(self, waiter: Waiter) -> bool:
        """It waits no longer, or is about to. Returns whether it takes a place in the queue, and is never sent."""
        if not waiter.is_queued:
            return False
        waiter.is_queued = False
        self._given_up += 1
        return True

    # -- writing ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Hand all that is queued to the kernel in one write. Only here do waiters enter the line."""
        try:
            if self.closed:
                self._fail_all()
                return
            if self._is_stuck:
                self._wait_writable()
                return
            if not self._line:
                self._begin()
            elif self.is_stream:
                self._forget_sent()
            queue, line, parts = self._queue, self._line, []
            room = self._least_room
            if len(queue) + len(line) > room:
                room = min(self._most_in_flight - len(line), self._burst)
            for _ in repeat(None, min(len(queue), room)):
                waiter = queue[0]
                # Else it left, or was told, before its first byte: it is never sent.
                if waiter.wake is not None and waiter.scheduled is None:
                    line.append(waiter)
                    parts.append(waiter.data)
                else:
                    self._given_up -= 1
                waiter.is_queued = False
                queue.popleft()
            self._measured = 0
            if self.closed:
                self._fail_all()
            elif parts:
                self._write(b"".join(parts), len(parts))
            else:
                self._let_loop_end()
            if queue:
                self._flush_again()
        except BaseException as error:
            self._poison(error)
            raise

    def _flush_again(self) -> None:
        """Have the flush called once more, if there is room for those in the queue."""
        has_room = len(self._line) < self._most_in_flight and not self._is_stuck
        if self._queue and has_room and not self._due.pending:
            self._due = self._soon(self._flush)

    def _forget_sent(self) -> None:
        """All in line are with the kernel, and what answers those behind a stream's block is the block's."""
        line = self._line
        while len(line) > 1 and type(line[0]) is Block:
            line.pop()

    def _begin(self) -> None:
        """Replies will be owed, after none were: the loop stays alive, and the node's silence counts from now."""
        now = monotonic()
        if now - self._heard > IDLE and self._transport.is_at_eof():
            self._lose(ConnectionError("the node ended the connection while it was idle"))
            return
        self._heard = now
        self._readable.ref = not self.is_stream

    def _write(self, data: bytes, commands: int) -> None:
        self.commands += commands
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._take_back(len(data))
            self._lose(error)
            return
        if sent < len(data) or self._transport.unsent:
            self._take_back(len(data) - sent)
            self._is_stuck = True
            self._wait_writable()

    def _wait_writable(self) -> None:
        """Go on when the kernel takes more. Once more is harmless: a signal handler that raised stopped the watcher."""
        self._writable.start(self._on_writable)

    def _take_back(self, unsent: int) -> None:
        """Return to the queue those of whom the transport took no byte, so that they can still leave unsent."""
        line, queue = self._line, self._queue
        while unsent and unsent >= len(line[-1].data):
            waiter = line[-1]
            unsent -= len(waiter.data)
            waiter.is_queued = True
            queue.appendleft(waiter)
            line.pop()
            self.commands -= 1
        if unsent:
            self._rest = memoryview(line[-1].data)[-unsent:]

    def _on_writable(self) -> None:
        if self.closed:
            return
        try:
            self._rest = self._rest[self._send(self._rest) :]
            self._heard = monotonic()
            if not self._rest and not self._transport.unsent:
                self._writable.stop()
                self._is_stuck = False
                self._flush()
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
        except BaseException as error:
            self._poison(error)
            raise

    # -- reading ------------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        """Read what is there and wake whom it belongs to."""
        if self.closed:
            return
        try:
            for _ in range(READS):
                if not self._read():
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
        except MALFORMED as error:
            self._lose(self._malformed(error))
        except BaseException as error:
            self._poison(error)
            raise

    def _read(self) -> bool:
        """Read once. Returns whether there is more that may be read now."""
        count = self._recv_into(self._buffer)
        if not count:
            self._lose(ConnectionError("the node ended the connection"))
            return False
        self._heard = monotonic()
        self._reader.feed(self._buffer, 0, count)
        delivered = self._deliver()
        if delivered:
            self.hoard.size = 0
        else:
            self._keep(count)
        if count < self._enough or self.closed or self.is_behind():
            return False
        # Each read by itself may wake too few for `_deliver` to look at the time.
        return count < CHUNK or not delivered or monotonic() < self._loop.turn_ends()

    def _deliver(self) -> int:
        """Give each parsed reply to the oldest in line, until none is left or the turn is over. Returns how many."""
        gets, line, ends = self._reader.gets, self._line, self._loop.turn_ends()
        count, waiter = 0, None
        try:
            while (reply := gets()) is not INCOMPLETE:
                count += 1
                if type(reply) is Push:  # it answers nobody
                    if self.on_push is not None:
                        self.on_push(reply)
                    continue
                waiter = line[0]
                if type(waiter) is Block and not waiter.is_complete_with(reply):
                    if not self.is_stream:
                        count += waiter.take(gets, self.on_push)
                    continue
                waiter.reply = reply
                line.popleft()
                wake = waiter.wake
                if wake is not None:
                    try:
                        wake(waiter)
                    except BaseException as error:  # a signal handler's; what the woken one raises stays there
                        waiter.wake_later(self._soon)
                        self._hub.handle_error(self, type(error), error, error.__traceback__)
                    if self.closed:
                        return count
                if not count & 31 and monotonic() > ends and not self.closed:
                    self._readable.stop()
                    self._again.start(self._resume)
                    self._flush_again()
                    return count
        except BaseException:
            if waiter is not None and (not line or line[0] is not waiter):
                waiter.wake_later(self._soon)  # out of the line, its reply in hand
            raise
        self._let_loop_end()
        if self._queue and not self._due.pending:
            self._flush_again()
        return count

    def _keep(self, count: int) -> None:
        """A read has completed no reply."""
        objection = self.hoard.objection(self._buffer, count)
        if objection is not None:
            self._lose(self._protocol_error(objection))
        elif LARGE < self.hoard.size <= LARGE + count and self.on_large is not None and self._line:
            self.on_large(self._line[0].data)

    def _resume(self) -> None:
        """Go on where the last turn ended."""
        try:
            if not self.closed:
                self._readable.start(self._on_readable)
                self._deliver()
        except MALFORMED as error:
            self._lose(self._malformed(error))
        except BaseException as error:
            self._poison(error)
            raise

    def _let_loop_end(self) -> None:
        """Let the loop end, if it has nothing else to do, once no reply is owed."""
        if not self._line and not self._queue and not self.closed:
            self._readable.ref = False
            self._given_up = 0
            if self.on_empty is not None:
                self._soon(self.on_empty)

    # -- time: what the watch wants to know --------------------------------------------------------------------------

    def look(self) -> None:
        """Read once more, for what may be in the kernel already, and see that what is unsent will be sent."""
        if self._is_stuck and not self.closed:
            self._wait_writable()
        if not self.closed and not self.is_behind():
            self._readable.start(self._on_readable)
            self._on_readable()

    def is_untouched(self) -> bool:
        """Read while nothing is owed: whether the node is still there, and has sent nothing that nobody asked for."""
        if not self.closed:
            self._on_readable()
        return not (self.closed or self._line or self._queue or self._reader.has_data())

    def is_behind(self) -> bool:
        """Whether replies were read and wait for the next turn of the loop."""
        return bool(self._again.active)

    def owes_since(self, now: float) -> float:
        """For how many seconds the node has been silent while it owes a reply."""
        return now - self._heard if self._line else 0.0

    @property
    def owed_from_the_first(self) -> float | None:
        """Seconds for which it owes the reply to all that was sent since hands were shaken; None: some came already."""
        has_heard_nothing = 0 < self.commands - self.greetings <= len(self._line) and not self.is_stream
        return self.owes_since(monotonic()) if has_heard_nothing else None

    def waiting(self) -> list[Waiter]:
        """Those who wait for a reply, in line or queued."""
        return [waiter for waiter in chain(self._line, self._queue) if waiter.is_waiting]

    def keep_time(self, silence: float, patience: float) -> None:
        """Set how long the node may be silent while it owes replies, and how long most calls wait; in seconds."""
        self._watch.silence, self._watch.patience = silence, patience
        if self._watch.is_running:
            self._watch.start(SHORTEST)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self, cause: BaseException | None = None) -> None:
        """End it now. Every waiter is told; `cause` None means that the user asked for it. Never switches."""
        self._lose(cause)

    def abandon(self) -> None:
        """Let it go where its hub will not end it: nobody is woken or told, nothing is sent. Never switches."""
        self.closed = True
        self._transport.abandon()
        self._loop.drop(self._again)
        self._due.stop()
        self._watch.abandon()
        for waiter in chain(self._line, self._queue):
            waiter.abandon()

    def _poison(self, error: BaseException) -> None:
        """Replies and waiters may no longer match, and nobody knows what was sent last: nothing can be trusted."""
        self._knows_what_was_sent = False
        self._lose(error)

    def _malformed(self, error: Exception) -> ProtocolError:
        what = "a reply that nobody asked for" if isinstance(error, IndexError) else f"bytes that are not RESP: {error}"
        what = str(error) if isinstance(error, TooMuch) else what
        return self._protocol_error(what)

    def _protocol_error(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self.address} sent {what}", address=self.address, maybe_executed=True)

    def _lose(self, cause: BaseException | None) -> None:
        if not self.closed:
            self._cause = cause
            self._soon(self._clear_away)  # once more, for an exception may strike while it is done here
            self._clear_away()

    def _clear_away(self) -> None:
        self.closed = True
        self._transport.close()
        self._loop.end(self._again)
        self._watch.stop()
        self._fail_all()
        if not self._is_told:
            self._on_lost(self, self._cause)
            self._is_told = True

    def _fail_all(self) -> None:
        """Tell all that wait. Proved not executed are those at the end of the line whose last byte is still here."""
        unsent, proved = (len(self._rest) + self._transport.unsent) * self._knows_what_was_sent, 0
        for waiter in reversed(self._line):
            if unsent <= 0:
                break
            waiter.unsent = min(unsent, len(waiter.data))
            unsent -= len(waiter.data)
            proved += 1
        sent = len(self._line) - proved
        for position, waiter in enumerate(list(self._line)):
            self._fail(waiter, position < sent)
        for waiter in list(self._queue):
            self._fail(waiter, False)

    def _fail(self, waiter: Waiter, maybe_executed: bool) -> None:
        if not waiter.is_waiting:
            return
        why = "it was closed" if self._cause is None else str(self._cause) or type(self._cause).__name__
        text = f"lost the connection to {self.address}: {why}"
        error = ConnectionLost(text, address=self.address, maybe_executed=maybe_executed)
        error.__cause__ = self._cause
        waiter.reply = error
        waiter.wake_later(self._soon)
