"""The snippets of docs/celery.md."""

import re

import celery_support
import pytest
from celery_support import HERE

assert celery_support

PAGE = (HERE.parents[1] / "docs" / "celery.md").read_text()
SETTINGS = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "app.conf" in each]


def test_the_settings_of_the_page_make_a_backend_that_shows_no_secrets():
    from gvcluster.contrib.celery import ClusterBackend

    names: dict = {}
    exec(SETTINGS[0], names)
    assert type(names["app"].backend) is ClusterBackend
    assert names["app"].backend.as_uri() == "gvcluster://valkey-1:7000,valkey-2:7000"
    again: dict = {}
    exec(SETTINGS[0] + SETTINGS[1], again)
    backend = again["app"].backend
    assert backend.as_uri() == "gvcluster://"
    assert repr(backend.client) == "<Cluster valkey-1:7000,valkey-2:7000 no map yet>"
    assert (backend.client._state.options.timeout, backend._policy["max_retries"]) == (15.0, 60)
    assert "secret" not in repr(backend.client._state.options)


def test_celery_report_prints_the_second_form(tmp_path):
    names: dict = {}
    exec(SETTINGS[0] + SETTINGS[1], names)
    report = names["app"].bugreport()
    assert "gvcluster" in report
    assert "'secret'" not in report


@pytest.mark.parametrize("name", ["global_keyprefix", "retry_policy", "result_chord_ordered", "key_format", "push"])
def test_the_page_tells_of_each_transport_option(name):
    from gvcluster.contrib.celery import settings

    assert f"`{name}`" in PAGE
    assert name in settings._TRANSPORT
