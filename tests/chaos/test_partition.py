"""A primary that is cut off from all other servers and not from us. It needs a network namespace of its own."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).with_name("partition_app.py")


@cache
def alone() -> tuple[str, ...]:
    """What begins a process in a network namespace of its own, as root or as somebody who is root only there."""
    check = ("sh", "-c", "ip link set lo up && ip rule add pref 9 from 127.0.0.2 ipproto tcp dport 17000 blackhole")
    for way in (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net")):
        if shutil.which("unshare") and shutil.which("ip") and not subprocess.run([*way, *check]).returncode:
            return way
    return ()


def test_f23_a_primary_that_is_cut_off_is_left_for_its_heir_and_the_map_does_not_flap(any_server: str) -> None:
    if not alone():
        pytest.skip("this machine lets us make no network namespace")
    done = subprocess.run([*alone(), sys.executable, str(APP), any_server], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    print(seen)
    assert seen["claimed by"] == "primary", "there were two"
    assert seen["wrong"] == []
    assert seen["errors of others"] == []
    # A write whose connection ended is in doubt; nothing else may be told.
    assert [text for text in seen["errors"] if not text.startswith(("ConnectionLost", "ReplyTimeout"))] == []
    assert seen["maps"] <= 6
    assert seen["refreshes"] < 100
    assert seen["retries"] < 3000
