"""Chords: parts are counted in one hash per chord, and the body is sent once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from celery import states
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result
from celery.utils.functional import _regen
from celery.utils.log import get_logger

from gvcluster.cluster import Cluster
from gvcluster.contrib.celery import chord_scripts
from gvcluster.contrib.celery.chord_scripts import DOUBT, READY
from gvcluster.errors import GvClusterError
from gvcluster.records import Record
from gvcluster.scripts import Script

logger = get_logger(__name__)

# Seconds for which the parts of a chord that is over are refused, where the chord itself would live for ever: brokers
# deliver again after an hour or two.
_DAY = 86400
# Seconds after which a worker that has not begun to send the body is given up, in addition to the time for a join.
_SILENCE = 60


class _Scripts(Record):
    """One for each step: see chord_scripts."""

    begin: Script
    size: Script
    extra: Script
    part: Script
    send: Script
    over: Script


class Chords:
    """What `ClusterBackend` does for chords."""

    # Of Celery's backends, and of ClusterBackend.
    app: Any
    client: Cluster
    transport: Any
    chord_expires: Any
    ensure: Any
    _write: Any
    _chord_scripts: _Scripts

    @staticmethod
    def chord_scripts(client: Cluster) -> _Scripts:
        """Make the scripts. Nothing is sent."""
        names = _Scripts.__match_args__
        return _Scripts(**{name: client.script(getattr(chord_scripts, name.upper())) for name in names})

    def _run(self, script: Script, gid: Any, *args: Any) -> Any:
        key = self.get_key_for_chord(gid)  # type: ignore[attr-defined]
        return self.ensure(lambda: script(keys=[key], args=args, retry="always"))

    @property
    def _chord_seconds(self) -> int:
        return int(self.chord_expires or 0)

    # -- the header ---------------------------------------------------------------------------------------------------

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Begin a chord. Blocks: until the cluster has noted it.

        The structure of the header is kept only where groups are in it: else the parts are all that the body needs.
        """
        gid, results = header_result_args[:2]
        self._run(self._chord_scripts.begin, gid, self._patience)
        if not isinstance(results, _regen) and any(isinstance(each, GroupResult) for each in results):
            header = self.app.GroupResult(*header_result_args)
            value = self.encode({"result": header.as_tuple()})  # type: ignore[attr-defined]
            key = self.get_key_for_group(header.id)  # type: ignore[attr-defined]
            self.ensure(self._write, (key, value, self._chord_seconds))

    def set_chord_size(self, group_id: Any, chord_size: int) -> None:
        """Tell how many parts there will be. Blocks: until the cluster has noted it."""
        self._run(self._chord_scripts.size, group_id, chord_size, self._chord_seconds)

    def add_to_chord(self, group_id: Any, result: Any) -> None:
        """Tell of one part more. Blocks: until the cluster has noted it."""
        self._run(self._chord_scripts.extra, group_id, str(result.id), self._chord_seconds)

    # -- the parts ----------------------------------------------------------------------------------------------------

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Take in the result of a task of the header; with the last one, send the body.

        Blocks: until the cluster has noted it, and until the body is sent.
        """
        tid, gid, index = request.id, request.group, request.group_index
        if not gid or not tid:
            return
        encoded = self.encode([1, tid, state, self.encode_result(result, state)])  # type: ignore[attr-defined]
        field = f"p:{'' if index is None else index}:{tid}"
        token = uuid4().hex
        args = (field, encoded, token, self._chord_seconds, self._patience)
        answer = self._run(self._chord_scripts.part, gid, *args)
        if answer == READY:
            self._end_chord(maybe_signature(request.chord, app=self.app), gid, token)
        elif answer == DOUBT:
            logger.error(
                "A worker was about to send the body of chord %s when it was last heard of. It is not sent again: if"
                " task %s never runs, apply the chord anew",
                gid,
                getattr(maybe_signature(request.chord, app=self.app), "id", None),
            )

    @property
    def _join_timeout(self) -> float:
        return float(self.app.conf.result_chord_join_timeout or 0)

    @property
    def _patience(self) -> int:
        return _SILENCE + int(self._join_timeout)

    def _end_chord(self, body: Any, gid: Any, token: str) -> None:
        """All parts are there, and the chord is ours: send the body, or tell its result what has failed."""
        try:
            results = self._chord_results(gid)
        except Exception as error:
            if self._may_send(gid, token):
                self._fail_body(body, gid, error if isinstance(error, ChordError) else _error("Join error", error))
                self._over(gid, token)
            return
        if not self._may_send(gid, token):
            return
        try:
            self._send(body, results)
        except Exception as error:
            self._fail_body(body, gid, _error("Callback error", error))
        self._over(gid, token)

    def _may_send(self, gid: Any, token: str) -> bool:
        """Say that we send now, unless another worker has replaced us meanwhile."""
        if self._run(self._chord_scripts.send, gid, token):
            return True
        logger.warning("The body of chord %s is left to another worker: this one was too slow", gid)
        return False

    def _send(self, body: Any, results: list[Any]) -> None:
        patient = getattr(self.app.amqp, "_retry_publish", None)  # Celery 5.7: waits between its attempts
        if patient is None:
            body.delay(results)
        else:
            patient(body.delay, results)

    def _fail_body(self, body: Any, gid: Any, error: ChordError) -> None:
        logger.error("Chord %s: %s", gid, error, exc_info=error.__cause__)
        self.chord_error_from_stack(body, error)  # type: ignore[attr-defined]

    def _over(self, gid: Any, token: str) -> None:
        """Say that it was sent. If that fails, others find that we were about to, and send nothing either."""
        try:
            self._run(self._chord_scripts.over, gid, token, self._chord_seconds or _DAY)
        except GvClusterError as error:
            logger.warning("The cluster was not told that chord %s is over: %s", gid, error)

    # -- the results for the body -------------------------------------------------------------------------------------

    def _chord_results(self, gid: Any) -> list[Any]:
        """What the header has returned, in its order and structure.

        Raises:
            ChordError: A task has failed.
        """
        header = GroupResult.restore(gid, backend=self, app=self.app)
        if header is not None:
            header.on_ready()  # all parts are there: nothing is waited for
            with allow_join_result():
                joined: list[Any] = header.join_native(timeout=self._join_timeout or None, propagate=True)
            return joined
        key = self.get_key_for_chord(gid)  # type: ignore[attr-defined]
        fields = self.ensure(lambda: self.client.execute("HGETALL", key, bulk=True))
        return [self._part(encoded) for encoded in _in_order(fields, by_index=self.transport.is_ordered)]

    def _part(self, encoded: bytes) -> Any:
        _, tid, state, value = self.decode(encoded)  # type: ignore[attr-defined]
        if state in states.EXCEPTION_STATES:
            value = self.exception_to_python(value)  # type: ignore[attr-defined]
        if state in states.PROPAGATE_STATES:
            raise _error(f"Dependency {tid} raised", value, after=" ")
        return value


def _in_order(fields: Any, *, by_index: bool) -> Iterator[bytes]:
    """The encoded parts of a chord's hash."""
    pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    parts = []
    for field, value in pairs:
        if field.startswith(b"p:"):
            index, _, _ = field[2:].partition(b":")
            came, _, encoded = value.partition(b":")
            place = float(index) if index and by_index else float("inf")
            parts.append((place, int(came), encoded))
    return (encoded for _, _, encoded in sorted(parts))


def _error(what: str, cause: Any, after: str = ": ") -> ChordError:
    error = ChordError(f"{what}{after}{cause!r}")
    if isinstance(cause, BaseException):
        error.__cause__ = cause
    return error
