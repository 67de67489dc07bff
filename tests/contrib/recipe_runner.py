"""Code of the pages, run as it stands there, in processes of its own."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent.subprocess

DOCS = Path(__file__).parents[2] / "docs"
# What stands on the pages for a cluster.
SEEDS = re.compile(r"10\.0\.0\.1:6379(,10\.0\.0\.2:6379)?")


def blocks_of(page: str) -> dict[str, str]:
    """The first Python block under each heading of a page."""
    text = (DOCS / page).read_text()
    return dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def on_cluster(text: str, seeds: str) -> str:
    """The code, with the addresses of a cluster that is there."""
    replaced, count = SEEDS.subn(lambda found: seeds if found[1] else seeds.partition(",")[0], text)
    assert count, "it names no cluster"
    return replaced


class Recipe:
    """A recipe in a folder of its own, as the module `app`, and processes that use it."""

    def __init__(self, folder: Path, text: str, seeds: str) -> None:
        self._folder = folder
        (folder / "app.py").write_text(on_cluster(text, seeds))
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GEVENT_LOOP": "libev-cext"}
        self._environment["HOME"] = str(folder)

    @contextmanager
    def running(self, *command: str) -> Iterator[gevent.subprocess.Popen]:
        """A process, which is ended; its output is shown when something fails."""
        with (self._folder / "log").open("ab") as output:
            process = gevent.subprocess.Popen(
                [sys.executable, *command], env=self._environment, cwd=self._folder, stdout=output, stderr=output
            )
        try:
            yield process
        except BaseException:
            print(self.log())
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                finally:
                    process.kill()

    def log(self) -> str:
        """What was printed so far."""
        return (self._folder / "log").read_text()

    def check(self, *lines: str, patched: bool = True) -> None:
        """Run these lines after the recipe, in a process that is monkey-patched."""
        patch = ["from gevent import monkey", "monkey.patch_all()"] * patched
        (self._folder / "check.py").write_text("\n".join([*patch, "from app import *", *lines, "print('all done')"]))
        with self.running("check.py") as process:
            assert process.wait(timeout=90) == 0
        assert "all done" in self.log()
