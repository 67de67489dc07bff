"""What docs/django.md and docs/gunicorn.md show runs: here, or as a part of the shop that test_django_app.py serves."""

import ast
import re
from configparser import ConfigParser
from dataclasses import fields

import pytest
from contrib_django import DOCS, GUNICORN, SHOP, made

from gvcluster.options import Options
from gvcluster.testing import LocalCluster

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(document: str, language: str) -> list[str]:
    """The snippets of a document in this language."""
    return [text for found, text in _FENCE.findall((DOCS / document).read_text()) if found == language]


CACHES, FORMS, USE, SESSIONS, TESTING = shown("django.md", "python")
(CONFIG,) = shown("gunicorn.md", "python")


def test_nothing_else_is_shown() -> None:
    assert [len(_FENCE.findall((DOCS / name).read_text())) for name in ("django.md", "gunicorn.md")] == [6, 3]


def test_the_settings_are_those_that_the_shop_runs_with() -> None:
    assert CACHES.startswith("CACHES = {\n")  # what test_django_app.py puts into the shop's settings
    assert SESSIONS in (SHOP / "shop" / "settings.py").read_text()


@pytest.mark.parametrize(
    "location", [ast.literal_eval(line.removeprefix("LOCATION = ")) for line in FORMS.splitlines()], ids=str
)
def test_each_location_shown_names_both_nodes(location: object) -> None:
    with made(default={"LOCATION": location}) as caches:
        assert str(caches["default"].cluster).startswith("<Cluster 10.0.0.1:6379,10.0.0.2:6379 ")


def test_the_calls_shown_do_what_they_say(live_cluster: LocalCluster) -> None:
    with made(default={"LOCATION": live_cluster.seeds}) as caches:
        exec(USE, {})
        assert 0 < caches["default"].cluster.execute("TTL", caches["default"].make_key("pen")) <= 5


def test_the_test_shown_passes() -> None:
    exec(TESTING, {})


def test_the_options_told_of_exist() -> None:
    table = (DOCS / "django.md").read_text().partition("## OPTIONS")[2].partition("## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert told == ["timeout", "retry", "read_from", "serializer", "clear"]
    assert {*told} - {"serializer", "clear"} <= {each.name for each in fields(Options)}


def test_the_commands_shown_are_those_that_are_tested() -> None:
    setup = ConfigParser()
    setup.read(DOCS.parent / "setup.cfg")
    assert shown("django.md", "sh") == ["pip install gvcluster[django]\n"]
    assert "django" in setup["options.extras_require"]
    assert shown("gunicorn.md", "sh") == [f"gunicorn {' '.join(GUNICORN)} shop.wsgi\n", "gunicorn shop.wsgi\n"]
    assert (SHOP / "gunicorn.conf.py").read_text().endswith(f"\n{CONFIG}")
