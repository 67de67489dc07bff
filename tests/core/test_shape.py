"""The house is in shape, each rule catches its offender, and the tests meet the package that was installed."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import check_shape
import pytest
from check_shape import Exemption
from shape.source import Offence

import gvcluster

ROOT = Path(__file__).resolve().parents[2]
UNDER_TOX = pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="only tox installs the package")

# rule, file, subject, code that breaks it
BAD = [
    ("function-lines", "core/slots.py", "f", "def f():\n" + "    x = 1\n" * 40),
    ("function-lines", "core/slots.py", "C.f", "class C:\n    def f(self):\n" + "        x = 1\n" * 40),
    ("branches", "core/slots.py", "f", "def f(x):\n" + "    if x:\n        pass\n" * 8),
    ("branches", "core/slots.py", "f", "def f(x):\n    return x or x or x or x or x or x or x or x or x\n"),
    ("branches", "core/slots.py", "f", "def f(x):\n    match x:\n" + "        case 1:\n            pass\n" * 8),
    (
        "nesting",
        "core/slots.py",
        "f",
        "def f(x):\n    for y in x:\n        with y:\n            if y:\n                if x: pass\n",
    ),
    ("parameters", "core/slots.py", "f", "def f(a, b, c, /, d, e, *f, g, h): pass\n"),
    ("parameters", "core/slots.py", "C.f", "class C:\n    def f(self, a, b, c, d, e, f, g, h): pass\n"),
    ("file-lines", "core/slots.py", "", "x = 1\n" * 301),
    ("file-name", "core/utils.py", "", "x = 1\n"),
    ("file-name", "net/pool_manager.py", "", "x = 1\n"),
    ("empty-file", "core/slots.py", "", ""),
    ("empty-file", "core/slots.py", "", '"""Later."""\n'),
    ("empty-file", "core/__init__.py", "", ""),
    ("vocabulary", "core/slots.py", "master_of", "def master_of(): pass\n"),
    ("vocabulary", "core/slots.py", "SlaveNode", "class SlaveNode: pass\n"),
    ("vocabulary", "core/slots.py", "initialized", "def f(self):\n    self.initialized = True\n"),
    ("vocabulary", "core/slots.py", "reload_now", "def f(reload_now): pass\n"),
    ("module-state", "core/slots.py", "CACHE", "CACHE = {}\n"),
    ("module-state", "core/slots.py", "cache", "cache: dict[int, int] = dict()\n"),
    ("module-state", "core/slots.py", "seen", "import collections\nseen = collections.deque[int]()\n"),
    ("module-state", "core/slots.py", "ids", "try:\n    import itertools\nfinally:\n    ids = itertools.count()\n"),
    ("module-state", "core/slots.py", "PAIRS", "PAIRS = (1, [2])\n"),
    (
        "module-state",
        "core/slots.py",
        "generation",
        "generation = 0\ndef f():\n    global generation\n    generation += 1\n",
    ),
    ("open-kwargs", "core/slots.py", "f", "def f(**options): pass\n"),
    ("open-kwargs", "core/slots.py", "f", "def f(**options: object): pass\n"),
    ("docstring", "cluster.py", "", "def _f(): pass\n"),
    (
        "docstring",
        "cluster.py",
        "Cluster.execute",
        '"""M."""\nclass Cluster:\n    """C."""\n    def execute(self): pass\n',
    ),
    ("docstring", "testing/fake.py", "fake", '"""M."""\ndef fake(): pass\n'),
    ("docstring", "__init__.py", "connect", '"""M."""\ndef connect(): pass\n'),
    ("blocks", "cluster.py", "connect", '"""M."""\ndef connect():\n    """Wait until the map is known."""\n'),
    ("blocks", "cluster.py", "start", '"""M."""\ndef start():\n    """Begin.\n\n    Blocks: not at all.\n    """\n'),
    ("core-is-pure", "core/slots.py", "gevent.event", "import gevent.event\n"),
    ("core-is-pure", "core/slots.py", "socket", "def f():\n    from socket import socket\n"),
    ("core-is-pure", "core/slots.py", "time", "import time\n"),
    ("core-is-pure", "core/__init__.py", "random", "import random\n"),
    ("import-order", "core/slots.py", "net.pool", "from gvcluster.net.pool import NodePool\n"),
    ("import-order", "core/slots.py", "net.pool", "from ..net import pool\n"),
    ("import-order", "core/slots.py", "core.retry", "from . import retry\n"),
    ("import-order", "core/slots.py", "__init__", "import gvcluster\n"),
    ("import-order", "net/dial.py", "testing", "def f():\n    import gvcluster.testing.fake\n"),
    ("import-order", "net/dial.py", "net.pool", "if True:\n    import gvcluster.net.pool as pool\n"),
    ("import-order", "core/attic.py", "gvcluster.core.attic", "x = 1\n"),
]

GOOD = {
    "a long docstring, comments and blank lines": (
        "core/slots.py",
        'def f():\n    """A\n' + "    b\n" * 90 + '    """\n' + "    # why\n\n" * 90 + "    return 1\n",
    ),
    "a chain of elif, and seven decisions": (
        "core/slots.py",
        "def f(x):\n    if x:\n        pass\n" + "    elif x:\n        pass\n" * 6,
    ),
    "seven parameters and spelled out options": (
        "core/slots.py",
        "class C:\n    def f(self, a, b, c, d, e, f, g, **options: typing.Unpack[Options]): pass\n",
    ),
    "a ParamSpec": ("core/slots.py", "def f(*args: P.args, **kwargs: P.kwargs): pass\n"),
    "the libraries' own signatures": ("compat/client.py", '"""M."""\ndef f(**options):\n    """F."""\n'),
    "a generated file": ("core/command_table.py", "x = 1\n" * 1000),
    "the wire's words in strings, and names that others gave": (
        "core/slots.py",
        "def f(x):\n    return 'master' in x.flags or x.initialize()\n",
    ),
    "frozen module-level values": (
        "core/slots.py",
        "__all__ = ['f']\nA = (1, (2, 3))\nB = frozenset({1})\nC = MappingProxyType({1: 2})\nD = tuple([1])\n",
    ),
    "names for checkers only": (
        "core/slots.py",
        "if TYPE_CHECKING:\n    from gevent import Greenlet\n    from gvcluster.net.pool import NodePool\nx = 1\n",
    ),
    "an import from above": ("net/dial.py", "from gvcluster import errors\nfrom ..core.address import Address\n"),
    "an import within one package": ("testing/fake.py", '"""M."""\nfrom gvcluster.testing import nodes\n'),
    "public names used by what is above the public": ("cli/__init__.py", "from gvcluster import Cluster\n"),
    "a package with only a docstring": ("core/__init__.py", '"""What decides."""\n'),
    "documented overloads and setters": (
        "cluster.py",
        '"""M."""\nclass Cluster:\n    """C."""\n'
        '    @property\n    def t(self):\n        """T.\n\n        Blocks: never.\n        """\n'
        "    @t.setter\n    def t(self, t): pass\n    @overload\n    def u(self): pass\n    def _private(self): pass\n",
    ),
}


def check(
    root: Path, path: str, code: str, *exemptions: Exemption, no_switch: frozenset[str] = frozenset()
) -> list[Offence]:
    """What the tool says of a house with one file."""
    file = root / "gvcluster" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code, encoding="utf-8")
    return check_shape.check_tree(root, exemptions, no_switch)


def test_this_house_is_in_shape():
    offences = check_shape.check_tree(ROOT, check_shape.EXEMPTIONS, check_shape.NO_SWITCH)
    assert offences == [], "\n".join(map(str, offences))


@pytest.mark.parametrize(("rule", "path", "subject", "code"), BAD)
def test_each_rule_catches_its_offender(tmp_path, rule, path, subject, code):
    no_switch = frozenset({"start"}) if "def start" in code else frozenset()
    found = {(offence.rule, offence.subject) for offence in check(tmp_path, path, code, no_switch=no_switch)}
    assert (rule, subject) in found


@pytest.mark.parametrize(("path", "code"), GOOD.values(), ids=GOOD.keys())
def test_what_is_within_the_rules_passes(tmp_path, path, code):
    assert check(tmp_path, path, code) == []


def test_an_exemption_covers_one_rule_of_one_function(tmp_path):
    code = "def f(**options): pass\ndef g(**options): pass\n"
    exemption = Exemption("gvcluster/core/slots.py", "f", "open-kwargs", "shown to work")
    assert [offence.subject for offence in check(tmp_path, "core/slots.py", code, exemption)] == ["g"]


def test_an_exemption_that_is_no_longer_needed_is_an_offence(tmp_path):
    exemption = Exemption("gvcluster/core/slots.py", "f", "open-kwargs", "was needed once")
    (offence,) = check(tmp_path, "core/slots.py", "def f(): pass\n", exemption)
    assert (offence.rule, offence.subject) == ("stale", "f")


def test_a_function_that_never_switches_is_listed_as_long_as_it_is_there(tmp_path):
    code = '"""M."""\ndef start():\n    """Begin, and return at once."""\n'
    assert check(tmp_path, "cluster.py", code, no_switch=frozenset({"start"})) == []
    (offence,) = check(tmp_path, "cluster.py", code, no_switch=frozenset({"start", "gone"}))
    assert (offence.rule, offence.subject) == ("stale", "gone")


def test_test_files_may_be_longer(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_slots.py").write_text("x = 1\n" * 600)
    (tmp_path / "tests" / "test_retry.py").write_text("x = 1\n" * 601)
    assert [offence.path for offence in check_shape.check_tree(tmp_path, (), ())] == ["tests/test_retry.py"]


def test_the_command_prints_where_and_exits_with_1(tmp_path):
    check(tmp_path, "core/slots.py", "\nCACHE = {}\n")
    command = [sys.executable, str(ROOT / "tools" / "check_shape.py"), str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 1
    assert "gvcluster/core/slots.py:2: [module-state] CACHE" in ended.stdout


def test_a_folder_without_the_package_is_never_in_shape(tmp_path):
    assert check_shape.main([str(tmp_path)]) == 2


@UNDER_TOX
def test_tests_import_the_installed_package():
    assert Path(gvcluster.__file__).is_relative_to(sysconfig.get_paths()["purelib"])


@UNDER_TOX
def test_the_installed_package_holds_the_files_of_the_checkout_and_no_others():
    distributed = importlib.metadata.files("gvcluster") or []
    installed = {file.as_posix() for file in distributed if "__pycache__" not in file.parts}
    package = {file for file in installed if ".dist-info/" not in file and not file.endswith("bin/gvcluster")}
    checkout = {file.relative_to(ROOT).as_posix() for file in (ROOT / "gvcluster").rglob("*") if file.is_file()}
    assert package == {file for file in checkout if "__pycache__" not in file}
    assert "gvcluster/py.typed" in package
    assert any(file.endswith("/LICENSE") for file in installed)
