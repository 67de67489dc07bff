"""ResultConsumer: what Celery asks for results that are to come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import ref

from celery import states
from celery.backends.asynchronous import BaseResultConsumer, geventDrainer
from celery.result import ResultSet
from celery.utils.log import get_logger
from gevent import GreenletExit, Timeout
from gevent.monkey import get_original
from kombu.utils.compat import detect_environment
from kombu.utils.encoding import bytes_to_str

from gvcluster.contrib.celery.mailbox import Mailbox
from gvcluster.errors import ClosedError

logger = get_logger(__name__)

# Seconds for a first look at what somebody waits for, even if he waits for less.
_LEAST = 1.0


class _OneDrainer(geventDrainer):
    """Celery's starts one for each of those who begin to wait in the same turn of the loop, and keeps them all."""

    _is_spawned = False

    def spawn(self, func: Any) -> Any:
        if self._is_spawned:
            return self._g
        self._is_spawned = True
        return super().spawn(func)


class ResultConsumer(BaseResultConsumer):
    """Tells result objects what has become of their tasks. One for each process.

    Under `monkey.patch_all()` Celery has one greenlet that calls `drain_events` for all who wait, and there is one
    mailbox, in its hub. Otherwise who waits calls it, and each thread has a mailbox of its own.
    """

    def __init__(self, backend: Any, app: Any, accept: Any, pending_results: Any, pending_messages: Any) -> None:
        super().__init__(backend, app, accept, pending_results, pending_messages)
        self._is_green = detect_environment() == "gevent"
        if self._is_green:
            self.drainer = _OneDrainer(self)
        self._thread = get_original("threading", "local")()
        self._mailboxes: dict[int, ref[Mailbox]] = {}  # changed by threads at the same time: never read and replaced
        self._wanted_early: dict[bytes, None] = {}  # before there was a mailbox
        self._shared: Mailbox | None = None

    def _mailbox(self) -> Mailbox | None:
        """The mailbox for those who wait here. None under gevent before the greenlet that drains has made it."""
        if self._is_green:
            return self._shared
        mailbox: Mailbox | None = getattr(self._thread, "mailbox", None)
        if mailbox is None or not mailbox.is_mine:  # a thread may have one hub after another
            mailbox = self._thread.mailbox = self._new_mailbox()
        return mailbox

    def _new_mailbox(self) -> Mailbox:
        backend = self.backend
        mailbox = Mailbox(backend.client, backend.mget, self._tell, backend.transport.is_pushed)
        name, mailboxes = id(mailbox), self._mailboxes

        def forget(gone: ref[Mailbox]) -> None:
            if mailboxes.get(name) is gone:  # or its place in memory has another one
                mailboxes.pop(name, None)

        mailboxes[name] = ref(mailbox, forget)
        return mailbox

    def _living(self) -> list[Mailbox]:
        return [mailbox for each in list(self._mailboxes.values()) if (mailbox := each()) is not None]

    # -- what Celery calls --------------------------------------------------------------------------------------------

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Be told of a result. Never waits."""
        self.consume_from(initial_task_id)

    def consume_from(self, task_id: str) -> None:
        """Be told of a result. Never waits: the subscription is made when somebody waits."""
        self._want(self.backend.get_key_for_task(task_id))

    def cancel_for(self, task_id: str) -> None:
        """Not any more. Comes from finalizers, in any thread: never waits."""
        key = self.backend.get_key_for_task(task_id)
        self._wanted_early.pop(key, None)
        for mailbox in self._living():
            mailbox.leave(key)

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Somebody begins to wait: subscribe to what is not there yet, and look what is.

        Blocks: for one reply of the cluster if all is there, else for its confirmation as well.
        """
        keys = [self.backend.get_key_for_task(each.id) for each in _leaves(result) if not each._cache]
        for each in keys:
            self._want(each)
        mailbox = self._mailbox()
        if mailbox is None or not mailbox.is_mine:
            return  # the greenlet that drains does it, in its next turn
        patience = self.backend.client._state.options.timeout
        mailbox.look(keys, may_raise=True, timeout=patience if timeout is None else min(patience, max(_LEAST, timeout)))
        if not mailbox.is_behind:
            mailbox.catch_up()

    def _want(self, key: bytes) -> None:
        mailbox = self._mailbox()
        if mailbox is not None:
            mailbox.want(key)
        else:
            self._wanted_early[key] = None

    def drain_events(self, timeout: float | None = None) -> None:
        """Tell results what came for them.

        Raises:
            TimeoutError: Nothing came.

        Blocks: until something comes, for `timeout` seconds at most (1 if None).
        """
        try:
            is_told = self._drain(1.0 if timeout is None else timeout)
        except ClosedError as error:
            if not self._is_green:
                raise
            self.drainer._exc = error  # for those whom the greenlet that drains wakes at its end
            raise GreenletExit from None  # else gevent would print how it ended
        if not is_told:
            raise TimeoutError

    def _drain(self, timeout: float) -> bool:
        if self._is_green and self._shared is None:
            self._shared = self._new_mailbox()
        mailbox = self._mailbox()
        assert mailbox is not None
        while self._wanted_early:
            mailbox.want(self._wanted_early.popitem()[0])
        return mailbox.await_news(timeout)

    def on_state_change(self, meta: Any, message: Any) -> None:
        """Tell results what has become of a task."""
        super().on_state_change(meta, message)
        if meta["status"] in states.READY_STATES:
            self.cancel_for(meta["task_id"])

    def stop(self) -> None:
        """End all subscriptions. Never waits."""
        for mailbox in self._living():
            mailbox.stop()

    # -- what mailboxes tell ------------------------------------------------------------------------------------------

    def _tell(self, key: bytes, value: bytes) -> None:
        try:
            meta = self.backend.decode_result(value)
            task_id, _ = meta["task_id"], meta["status"]
        except Exception as error:
            logger.exception("a result can not be read: %s", bytes_to_str(key))
            task_id = self.backend._strip_prefix(key)
            meta = {"task_id": task_id, "status": states.FAILURE, "result": error, "traceback": None, "children": []}
        try:
            self.on_state_change(meta, None)
        except (Exception, Timeout):
            if not self._is_green:
                raise
            # It was a callback of the user. The greenlet serves all who wait, and goes on.
            logger.exception("a callback for the result of %s has failed", task_id)


def _leaves(result: Any) -> Iterator[Any]:
    """The results of single tasks in it."""
    if isinstance(result, ResultSet):
        for each in result.results:
            yield from _leaves(each)
    else:
        yield result
