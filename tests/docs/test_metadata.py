"""What `pip install gvcluster` brings: gevent and hiredis, and nothing else unless an extra asks for it."""

import ast
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gvcluster

CORE = {"gevent", "hiredis"}
# What only an extra installs may be imported here, and only there.
ADAPTERS = ("cli", "compat", "contrib")


@pytest.fixture(scope="module")
def wheel() -> metadata.Distribution:
    """What pip has installed: tox the wheel, `pip install -e` the same of a checkout."""
    try:
        return metadata.distribution("gvcluster")
    except metadata.PackageNotFoundError:
        pytest.fail("gvcluster is not installed here: python3 -m pip install -e '.[docs,test]', or tox -e docs")


def requirements(wheel: metadata.Distribution) -> list[Requirement]:
    return [Requirement(line) for line in wheel.requires or ()]


def wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_without_an_extra_it_is_gevent_and_hiredis(wheel: metadata.Distribution) -> None:
    assert {each.name for each in requirements(wheel) if wanted(each, "")} == CORE


def test_an_extra_brings_its_own_and_not_that_of_others(wheel: metadata.Distribution) -> None:
    extras = wheel.metadata.get_all("Provides-Extra") or []
    assert {"demo", "cli", "bench", "redis", "valkey", "test", "docs"} <= set(extras)
    for extra in extras:
        brought = {each.name for each in requirements(wheel) if wanted(each, extra)}
        assert brought > CORE, extra
    assert {each.name for each in requirements(wheel) if wanted(each, "redis")} == CORE | {"redis"}
    assert {each.name for each in requirements(wheel) if wanted(each, "valkey")} == CORE | {"valkey"}
    assert {each.name for each in requirements(wheel) if wanted(each, "cli")} == CORE | {"click", "rich"}


def test_every_requirement_beyond_the_core_belongs_to_an_extra(wheel: metadata.Distribution) -> None:
    loose = [str(each) for each in requirements(wheel) if each.name not in CORE and "extra ==" not in str(each.marker)]
    assert loose == []


def test_each_entry_point_leads_to_a_module_of_ours(wheel: metadata.Distribution) -> None:
    assert "gvcluster" in {each.name for each in wheel.entry_points if each.group == "console_scripts"}
    for entry in wheel.entry_points:
        assert entry.module.startswith("gvcluster."), entry
        file = _file_of(entry.module)
        assert file.is_file(), entry
        assert entry.attr.split(".")[0] in _names_in(file), entry


def test_it_says_what_it_is(wheel: metadata.Distribution) -> None:
    assert wheel.version == gvcluster.__version__
    assert wheel.metadata["License-Expression"] == "MIT"
    assert wheel.metadata["Requires-Python"] == ">=3.11"
    assert (Path(gvcluster.__file__).parent / "py.typed").is_file()


# -- what the modules import ------------------------------------------------------------------------------------------


def modules() -> list[Path]:
    """All modules that `pip install gvcluster` alone must be able to run."""
    package = Path(gvcluster.__file__).parent
    every = [file.relative_to(package) for file in sorted(package.rglob("*.py"))]
    return [package / file for file in every if file.parts[0] not in ADAPTERS]


def test_no_module_of_the_core_imports_what_only_an_extra_installs() -> None:
    assert len(modules()) > 100
    allowed = CORE | {"gvcluster", "greenlet"} | set(sys.stdlib_module_names)
    foreign = {(file.name, name) for file in modules() for name in _imported(file) if name not in allowed}
    assert foreign == set()


def test_no_module_of_the_core_imports_an_adapter() -> None:
    adapters = tuple(f"gvcluster.{name}" for name in ADAPTERS)
    found = [(file, name) for file in modules() for name in _imported(file, whole=True) if name.startswith(adapters)]
    assert found == []


def _imported(file: Path, *, whole: bool = False) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        yield from names if whole else (name.partition(".")[0] for name in names)


def _file_of(module: str) -> Path:
    base = Path(gvcluster.__file__).parent.parent.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    return defined | imported


def test_what_is_imported_anywhere_in_a_module_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("import os.path\ndef late():\n    from click.core import Command\n    from . import other\n")
    assert set(_imported(file)) == {"os", "click"}


def test_the_modules_are_looked_for_where_they_are() -> None:
    assert find_spec("gvcluster.cluster") is not None
    assert _file_of("gvcluster.cluster").is_file()
    assert _file_of("gvcluster.cli").name == "__init__.py"
