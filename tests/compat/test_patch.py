"""patch() replaces the libraries' classes, when it is called and not before; the core knows nothing of it."""

import subprocess
import sys

import pytest
from compat_library import CLASS, LIBRARY


def run(code: str) -> str:
    """What a process of its own prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_patch_replaces_the_class_wherever_the_library_shows_it() -> None:
    out = run(
        f"import {LIBRARY}, {LIBRARY}.cluster, gvcluster.compat\n"
        f"before = {LIBRARY}.{CLASS}\n"
        f"from gvcluster.compat.{LIBRARY} import {CLASS} as ours\n"
        f"assert {LIBRARY}.{CLASS} is before and ours is not before\n"
        "print(*gvcluster.compat.patch(), *gvcluster.compat.patch())\n"
        f"assert {LIBRARY}.{CLASS} is {LIBRARY}.cluster.{CLASS} is ours\n"
        f"from {LIBRARY}.cluster import {CLASS}\n"
        f"client = {CLASS}('127.0.0.1', 7000)\n"
        "assert type(client) is ours\n"
    )
    assert f"{LIBRARY}.{CLASS}" in out.split()
    assert f"{LIBRARY}.cluster.{CLASS}" in out.split()


@pytest.mark.parametrize("module", ["gvcluster", "gvcluster.compat"])
def test_neither_library_is_imported_by(module: str) -> None:
    out = run(f"import sys, {module}; print('redis' in sys.modules, 'valkey' in sys.modules)")
    assert out.split() == ["False", "False"]
    out = run("import sys, gvcluster; print(any('compat' in name for name in sys.modules if 'gvcluster' in name))")
    assert out.split() == ["False"]


def test_making_a_client_connects_to_nobody_and_makes_no_hub() -> None:
    out = run(
        "import os, gevent._hub_local\n"
        f"from gvcluster.compat.{LIBRARY} import {CLASS}\n"
        "before = sorted(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))\n"
        f"client = {CLASS}('127.0.0.1', 1)\n"
        "after = sorted(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))\n"
        "print(before == after, gevent._hub_local.get_hub_if_exists())"
    )
    assert out.split() == ["True", "None"]
