"""Django's own tests of caches and of sessions in caches, out of its sdist, against our cache on a real cluster."""

import re
import subprocess
import sys
from pathlib import Path

import contrib_django  # noqa: F401 (it skips where Django is absent)
import pytest

from gvcluster.testing import LocalCluster

TOOL = Path(__file__).parents[2] / "tools" / "django_cache_tests.py"


@pytest.mark.timeout(600)
def test_django_s_own_tests_pass(live_cluster: LocalCluster) -> None:
    command = [sys.executable, str(TOOL), "--seeds", live_cluster.seeds]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    print(ended.stderr, ended.stdout)
    assert ended.returncode == 0
    summary = re.search(r"^Django \S+: (\d+) passed, 3 skipped, 0 failed$", ended.stdout, re.MULTILINE)
    assert summary
    assert int(summary[1]) > 150
