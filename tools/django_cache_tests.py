#!/usr/bin/env python3
"""Run Django's own tests of caches and of sessions in caches against gvcluster.contrib.django, on a real cluster.

    python tools/django_cache_tests.py [--server valkey-9.1.2] [--seeds h1:6379,h2:6379] [--tests FOLDER]

They are not in Django's wheel: pip fetches the sdist of the version that is installed, into a folder that is removed at
the end. `--tests` names a `tests` folder that is there already. With `--seeds` the cluster named is used, and
Django's keys there are deleted. Exit status 1 if a test fails, or if others are skipped than those named here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.test import TestCase, override_settings
from django.test.runner import DiscoverRunner

from gvcluster import ReplyError
from gvcluster.contrib.django import close_clusters
from gvcluster.testing import LocalCluster

BACKEND = "gvcluster.contrib.django.GvClusterCache"
WANTED = ("cache", "sessions_tests")  # the folders of Django's `tests`
# What of Django's suite does not apply, and why.
CULLING = "nothing is culled by the client: the servers' maxmemory decides what goes"
SKIPPED = dict.fromkeys(("test_cull", "test_cull_delete_when_store_empty", "test_zero_cull"), CULLING)
_INSIDE = "looks into the redis-py client of Django's own backend"
LEFT_OUT = {
    "test_cache_client_class": _INSIDE,
    "test_client_driver_info": _INSIDE,
    "test_get_client": _INSIDE,
    "test_get_connection_pool": _INSIDE,
    "test_get_connection_pool_index": _INSIDE,
    "test_incr_write_connection": _INSIDE,
    "test_redis_pool_options": _INSIDE,
    "test_serializer_dumps": "looks for the serializer at `_cache`; it is the same serializer",
}
# Of Django's tests of its own Redis backend, what is no look inside.
TAKEN_OVER = ("test_get_backend_timeout_method",)


@contextmanager
def django_tests(given: Path | None) -> Iterator[Path]:
    """The folder with Django's tests of the version that is installed."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"django=={django.get_version()}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "django", "-d", folder]
        subprocess.run([*pip, wanted], check=True)
        (sdist,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            inside = [each for each in archive if Path(each.name).parts[1:3] in [("tests", name) for name in WANTED]]
            archive.extractall(folder, inside, filter="data")
        (tests,) = Path(folder).glob("*/tests")
        yield tests


def configure(seeds: str) -> None:
    """Django's settings: all that its tests of caches ask for."""
    settings.configure(
        CACHES={"default": {"BACKEND": BACKEND, "LOCATION": seeds}},
        DATABASES={name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for name in ("default", "other")},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=["django.contrib.sessions", "cache", "sessions_tests"],
        SECRET_KEY="of no use to anybody",
        USE_TZ=False,
    )
    django.setup()


def cases(seeds: str, tests: Any) -> Iterator[type[unittest.TestCase]]:
    """Django's test cases: of caches, for our cache; of sessions in it, and in it and the database."""
    for_tests = tests.caches_setting_for_tests(
        base={"BACKEND": BACKEND, "LOCATION": seeds}, exclude=tests.redis_excluded_caches
    )
    taken = {name: getattr(tests.RedisCacheTests, name) for name in TAKEN_OVER}
    body = {"incr_decr_type_error": ReplyError, "__module__": __name__, **taken}
    yield override_settings(CACHES=for_tests)(type("GvClusterCacheTests", (tests.BaseCacheTests, TestCase), body))
    of_sessions = import_module("sessions_tests.tests")
    yield from (of_sessions.CacheSessionTests, of_sessions.CacheDBSessionTests)


def left_out(tests: Any) -> list[str]:
    """Django's tests of its own Redis backend that are not run."""
    names = set(dir(tests.RedisCacheTests)).difference(dir(tests.BaseCacheTests), TAKEN_OVER)
    return sorted(name for name in names if name.startswith("test_"))


def run(seeds: str) -> bool:
    """Run them, and say what became of each. Returns whether all is well."""
    configure(seeds)
    runner = DiscoverRunner(verbosity=1)
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    tests = import_module("cache.tests")
    suite = unittest.TestSuite(load(case) for case in cases(seeds, tests))
    runner.setup_test_environment()
    databases = runner.setup_databases()
    try:
        result = runner.run_suite(suite)
    finally:
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
        close_clusters()
    skipped = {test.id().rpartition(".")[2]: reason for test, reason in result.skipped}
    for name, reason in skipped.items():
        print(f"skipped by Django: {name}: {reason} ({SKIPPED.get(name, 'not expected')})")
    for name in left_out(tests):
        print(f"left out: {name}: {LEFT_OUT.get(name, 'unknown to this tool: look whether it applies')}")
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(skipped)
    print(f"Django {django.get_version()}: {passed} passed, {len(skipped)} skipped, {failed} failed")
    return result.wasSuccessful() and skipped.keys() == SKIPPED.keys()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", default="valkey-9.1.2")
    parser.add_argument("--seeds", help="the nodes of a cluster that runs already")
    parser.add_argument("--tests", type=Path, help="the `tests` folder of Django's sdist")
    given = parser.parse_args()
    with ExitStack() as stack:
        sys.path.insert(0, str(stack.enter_context(django_tests(given.tests))))
        seeds = given.seeds or stack.enter_context(LocalCluster(given.server, replicas=0)).seeds
        return 0 if run(seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
