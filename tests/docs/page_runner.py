"""Runs the snippets of one page, in their order and in one namespace: `python page_runner.py PLAN`.

The plan is JSON: `seeds` of a cluster, `root` of the checkout, and the `snippets`. It runs in the page's own folder,
and ends with 1 and a message when something is not as the page says.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import io
import json
import linecache
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tokenize
import traceback
from fcntl import ioctl
from pathlib import Path
from typing import Any

# What a page may call the nodes of the reader's cluster, and the port of his own server.
_NODE = re.compile(r"\b(?:10\.0\.0\.\d{1,3}:\d{4,5}|127\.0\.0\.1:(?:700\d|[3-6]\d{4}))\b")
_HOST_AND_PORT = re.compile(r'host="10\.0\.0\.\d{1,3}", port=\d{4,5}|"HOST": "10\.0\.0\.\d{1,3}", "PORT": \d{4,5}')
_OWN_PORT = re.compile(r"\b(127\.0\.0\.1|localhost|0\.0\.0\.0):(80\d\d|5000)\b")
# What differs from run to run: addresses, ids, times, ports.
_VARIES = (
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "ID"),
    (re.compile(r"\bnode [0-9a-f]{8}\b"), "node ID"),
    (re.compile(r"\d+(?:\.\d+)? ms\b"), "N ms"),
    (re.compile(r"\b[0-9a-f]{8,}\b"), "HEX"),
    (re.compile(r" at 0x[0-9a-f]+"), ""),
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")
_WIPED = re.compile(r"[^\n]*\r?\n(?:\x1b\[\?25h)?\r?\x1b\[1A\x1b\[2K|[^\n]*\x1b\[2K")
_INSTALLS = re.compile(r"\b(pip|apt|apt-get) install\b")
_PATIENCE = 240
_LOOKS = 5
_ONLY_LOOKS = re.compile(r"gvcluster (doctor|topology)\b")


class Wrong(Exception):
    """Something is not as the page says."""


class Page:
    """One page being run."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.root, self.seeds = plan["root"], plan["seeds"].split(",")
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""
        self.ports: dict[str, str] = {}
        self.children: list[subprocess.Popen[bytes]] = []
        self._servers: Any = None

    @property
    def servers(self) -> Any:
        """A cluster of the page's own, which it may kill."""
        if self._servers is None:
            from gvcluster.testing import LocalCluster

            self._servers = LocalCluster().start()
            self.seeds = self._servers.seeds.split(",")
        return self._servers

    def lose_a_replica(self) -> None:
        """Kill the last shard's replica, and wait until all nodes have given it up."""
        lost = self.servers.replicas_of(self.servers.primaries()[-1])[0]
        self.servers.kill(lost)
        deadline = time.monotonic() + _PATIENCE
        while not all(_has_failed(lost.id, node) for node in self.servers.live_nodes()):
            if time.monotonic() > deadline:
                raise Wrong("the nodes do not give up a replica that was killed")
            time.sleep(0.1)

    def serve_tls(self) -> None:
        """Be a cluster that takes TLS only; ca.pem, client.pem and client.key are in the page's folder."""
        import trustme

        from gvcluster.testing import LocalCluster, ServerTls

        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path("ca.pem")
        certificate.cert_chain_pems[0].write_to_path("client.pem")
        certificate.private_key_pem.write_to_path("client.key")
        files = (str(Path(name).resolve()) for name in ("ca.pem", "client.pem", "client.key"))
        self._servers = LocalCluster("redis-7.0.15", tls=ServerTls(*files)).start()
        self.seeds = self._servers.seeds.split(",")

    def end(self) -> None:
        """Stop what runs in the background, and the page's own cluster."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
        if self._servers is not None:
            self._servers.stop()

    def here(self, text: str) -> str:
        """The page's addresses replaced by those of this machine."""

        def node(found: re.Match[str]) -> str:
            number = int(found[0].partition(":")[0].rpartition(".")[2])  # 10.0.0.4: the first replica
            return self.seeds[(number - 1) % len(self.seeds)]

        def host_and_port(found: re.Match[str]) -> str:
            port = self.seeds[0].rpartition(":")[2]
            return re.sub(r"\d{4,5}$", port, re.sub(r"10\.0\.0\.\d+", "127.0.0.1", found[0]))

        def own(found: re.Match[str]) -> str:
            return f"{found[1]}:{self.ports.setdefault(found[2], _free_port())}"

        return _OWN_PORT.sub(own, _HOST_AND_PORT.sub(host_and_port, _NODE.sub(node, text)))

    def run(self, snippet: dict[str, Any]) -> None:
        """Do what the page shows."""
        marks, language = snippet["marks"], snippet["language"]
        if "before" in marks:
            exec(marks["before"], {"servers": self.servers, "page": self})
        text = self.here(snippet["text"])
        if "output" in marks:
            _compare(text, self.printed)
        elif "file" in marks:
            file = Path(marks["file"])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if file.suffix == ".py":
                compile(text, str(file), "exec")
        elif not snippet["is_run"]:
            if language == "python":
                compile(text, snippet["name"], "exec")
        elif language == "python":
            self.python(text, snippet["name"])
        elif "background" in marks:
            self.background(self.here(snippet["commands"][0]) if snippet["commands"] else text, marks["background"])
        elif snippet["commands"]:
            self.printed = "".join(self.shell(self.here(command)) for command in snippet["commands"])
        elif language == "sh":
            self.printed = self.shell(text)
        else:
            self.console(text, compares="output varies" not in marks)

    # -- Python -------------------------------------------------------------------------------------------------------

    def python(self, text: str, name: str) -> None:
        """Execute it; a literal in the comment behind a statement is its value."""
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # for tracebacks
        told, printed = _values_told(text), io.StringIO()

        def said(value: Any, line: int) -> Any:
            if value != told[line]:
                raise Wrong(f"{name}, line {line}: {text.splitlines()[line - 1].strip()}\nis {value!r}")
            return value

        self.namespace["__said__"] = said
        tree = ast.fix_missing_locations(_Checked(told).visit(ast.parse(text)))
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, name, "exec"), self.namespace)
        self.printed = printed.getvalue()

    # -- shell --------------------------------------------------------------------------------------------------------

    def shell(self, text: str, *, may_fail: bool = False) -> str:
        """Run it by bash on a terminal of 80 columns; return what that has shown."""
        child, terminal = self._spawn(text)
        shown, deadline = b"", time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                piece = _read(terminal)
                shown += piece
                if not piece:
                    break
        else:
            os.killpg(child.pid, signal.SIGKILL)
            raise Wrong(f"{text}\ntakes longer than {_PATIENCE} s. It has shown:\n{_plain(shown)}")
        os.close(terminal)
        code = child.wait()
        if code and not may_fail:
            raise Wrong(f"{text}\nended with {code}:\n{_plain(shown)}")
        return _plain(shown)

    def background(self, text: str, until: str) -> None:
        """Let it run until the end of the page."""
        child, terminal = self._spawn(text)
        self.children.append(child)
        shown, deadline = b"", time.monotonic() + _PATIENCE
        while until.encode() not in shown:
            if select.select([terminal], [], [], 0.2)[0]:
                piece = _read(terminal)
                shown += piece
                if not piece:
                    raise Wrong(f"{text}\nended before it said {until!r}:\n{_plain(shown)}")
            if time.monotonic() > deadline:
                raise Wrong(f"{text}\ndid not say {until!r} but:\n{_plain(shown)}")

    def console(self, text: str, *, compares: bool) -> None:
        """Run what follows each `$`, and compare what it prints."""
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            command, _, output = re.sub(r"\\\n> ?", "", part).partition("\n")
            self.printed = self.shell(command, may_fail=bool(output.strip()) or not compares)
            if compares:
                self._compare_again(command, output)

    def _compare_again(self, command: str, output: str) -> None:
        """A busy machine may be told of once, as slow nodes: what only looks may look again."""
        looks = _LOOKS if _ONLY_LOOKS.match(command) else 1
        for attempt in range(looks):
            try:
                return _compare(output, self.printed)
            except Wrong as error:
                if attempt == looks - 1:
                    raise Wrong(f"$ {command}\n{error}") from None
            self.printed = self.shell(command, may_fail=True)

    def _spawn(self, text: str) -> tuple[subprocess.Popen[bytes], int]:
        if _INSTALLS.search(text):
            raise Wrong(f"{text}\ninstalls something: say <!-- not run: … --> or <!-- run as: … -->")
        terminal, end = pty.openpty()
        ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        folder = self.root if re.search(r"\b(tools|tests)/", text) else "."
        child = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
        os.close(end)
        return child, terminal


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody has it open any more
        return b""


def _has_failed(lost: str, node: Any) -> bool:
    lines = node.command("CLUSTER", "NODES").decode().splitlines()
    return any(line.startswith(lost) and "fail" in line.split()[2].split(",") for line in lines)


def _free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def _plain(shown: bytes) -> str:
    """What is left to see, without colours; bars that were wiped out again are not."""
    return _ESCAPES.sub("", _WIPED.sub("", shown.decode(errors="replace")))


def _values_told(text: str) -> dict[int, Any]:
    """Line → the literal with which the comment on it begins."""
    told = {}
    for each in tokenize.generate_tokens(io.StringIO(text).readline):
        if each.type == tokenize.COMMENT:
            with contextlib.suppress(ValueError, SyntaxError):  # else it is a comment in words
                words = re.split(r" [—–] |: |; | \(", each.string.lstrip("# "))[0]
                told[each.start[0]] = ast.literal_eval(words.strip())
    return told


class _Checked(ast.NodeTransformer):
    """Has the value of each statement compared that has one, and a literal in the comment behind it."""

    def __init__(self, told: dict[int, Any]) -> None:
        self._told = told

    def visit_Expr(self, statement: ast.Expr) -> ast.Expr:
        return self._checked(statement)

    def visit_Assign(self, statement: ast.Assign) -> ast.Assign:
        return self._checked(statement)

    def _checked(self, statement: Any) -> Any:
        if statement.end_lineno in self._told:
            asked = [statement.value, ast.Constant(statement.end_lineno)]
            statement.value = ast.Call(ast.Name("__said__", ast.Load()), asked, [])
        return statement


def _compare(expected: str, shown: str) -> None:
    wanted, found = _lines(expected), _lines(shown)
    pattern = "\n".join(re.escape(line).replace("…", ".*") for line in wanted)
    if not re.fullmatch(pattern.replace("\n.*\n", "\n(?:.*\n)*"), "\n".join(found)):
        raise Wrong(
            "\n".join(difflib.unified_diff(wanted, found, "the page shows", "and this is printed", lineterm=""))
        )


def _lines(text: str) -> list[str]:
    for varying, name in _VARIES:
        text = varying.sub(name, text)
    return [re.sub(r"  +", "  ", line).strip() for line in text.splitlines() if line.strip()]


def main(plan: dict[str, Any]) -> int:
    """Run it all; the exit code."""
    page = Page(plan)
    try:
        for snippet in plan["snippets"]:
            began = time.monotonic()
            try:
                page.run(snippet)
            except BaseException as error:
                print(f"{snippet['name']}:", file=sys.stderr)
                if isinstance(error, Wrong):
                    print(error, file=sys.stderr)
                else:
                    traceback.print_exc()
                return 1
            print(f"{snippet['name']}: {time.monotonic() - began:.1f} s")
    finally:
        page.end()
    return 0


if __name__ == "__main__":
    sys.path.pop(0) if sys.path[0] == str(Path(__file__).parent) else None
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
