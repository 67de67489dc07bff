"""The corpus of fuzz.py: inputs that once met something else, or are worth feeding each time, as Python literals.

One input a file, tests/fuzz/corpus/TARGET/NAME.txt. `nan`, `inf` and the escapes of str and bytes mean what they mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[1] / "tests" / "fuzz" / "corpus"


def keep(target: str, given: Any) -> Path:
    """Write an input down, under a name made of what it is."""
    text = repr(_plain(given))
    path = CORPUS / target / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    return path


def inputs() -> Iterator[tuple[str, Path]]:
    """The target and the file of each input."""
    for path in sorted(CORPUS.glob("*/*.txt")):
        yield path.parent.name, path


def read(path: Path) -> Any:
    """The input that is written there."""
    return eval(path.read_text(), {"__builtins__": {}}, {"nan": math.nan, "inf": math.inf})


def _plain(given: Any) -> Any:
    """Named tuples as tuples."""
    if isinstance(given, tuple):
        return tuple(_plain(each) for each in given)
    return [_plain(each) for each in given] if isinstance(given, list) else given
