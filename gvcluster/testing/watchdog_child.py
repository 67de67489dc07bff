"""The program that runs in the watchdog process: it starts the servers, and does not leave before they are gone.

The servers are its children, so it can neither signal a recycled pid nor overlook one that was just started, and it
reaps them at once. It ends them and removes their folder when it is told to stop, when its standard input ends
because the owner died, also by `kill -9`, or when it has another parent although a fork of the owner still holds the
pipe. If it is killed itself, the kernel kills the servers: PR_SET_PDEATHSIG is safe here, as there is one thread only.

One line of JSON per request on standard input, one per answer on standard output. Only the standard library is used:
it runs with `python -I -S`, which is 10 ms faster and knows no site-packages.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

# How often to look for servers that ended and for an owner that died while a fork of it holds the pipe.
TICK = 0.25
# A process that was sent SIGKILL and is still there after so many seconds waits for a disk: go on without it.
LONGEST_DEATH = 10.0
PR_SET_PDEATHSIG = 1


class Servers:
    """The processes started so far, by pid."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._before_exec = _die_with_parent()

    def start(self, arguments: list[str], folder: str, log: str) -> int:
        """Start one in `folder`, its output appended to `log`, and return its pid."""
        with open(log, "ab") as output:
            process = subprocess.Popen(
                arguments,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=self._before_exec,
            )
        self._processes[process.pid] = process
        return process.pid

    def signal(self, pid: int, number: int) -> None:
        """Send it and return when it has worked: a killed process is gone then, a stopped one stands still."""
        process = self._processes[pid]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait(LONGEST_DEATH)
        elif number == signal.SIGSTOP and process.poll() is None and sys.platform == "linux":
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def exit_codes(self) -> dict[int, int]:
        """Reap those that have ended, and tell how, by pid."""
        codes = ((pid, process.poll()) for pid, process in self._processes.items())
        return {pid: code for pid, code in codes if code is not None}

    def end(self) -> None:
        """Kill all, wait until they are gone, and remove the folder."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            try:
                process.wait(LONGEST_DEATH)
            except subprocess.TimeoutExpired:
                pass
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _requests(owner: int, servers: Servers) -> Iterator[dict[str, Any]]:
    """What the owner asks, until it is gone."""
    buffer = b""
    while os.getppid() == owner:
        if not select.select([0], [], [], TICK)[0]:
            servers.exit_codes()
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from map(json.loads, lines)


def _obey(servers: Servers, request: dict[str, Any]) -> Any:
    match request["do"]:
        case "start":
            return servers.start(request["arguments"], request["folder"], request["log"])
        case "signal":
            return servers.signal(request["pid"], request["number"])
        case "exit_codes":
            return servers.exit_codes()
        case "stop":
            return servers.end()
    raise ValueError(request["do"])


def _answer(fields: dict[str, Any]) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def main(owner: int, parent_folder: str) -> None:
    """Serve the process `owner` until it stops us or is gone."""
    os.closerange(3, 65536)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Only the owner's end ends us. A handler, because servers would inherit SIG_IGN.
        signal.signal(number, lambda *_: None)
    folder = os.path.join(parent_folder, f"gvcluster-{owner}-{os.urandom(4).hex()}")
    os.mkdir(folder, 0o700)
    servers = Servers(folder)
    try:
        _answer({"id": 0, "value": folder})
        for request in _requests(owner, servers):
            try:
                _answer({"id": request["id"], "value": _obey(servers, request)})
            except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
                _answer({"id": request["id"], "error": f"{type(error).__name__}: {error}"})
            if request["do"] == "stop":
                return
    except BrokenPipeError:
        pass
    finally:
        servers.end()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
