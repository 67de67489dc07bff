"""Django, for the tests of gvcluster.contrib.django: set up once, with the caches that each test asks for."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("django") is None and "GVCLUSTER_TEST_CONTRIB" not in os.environ:
    pytest.skip("Django is not installed: tox -e contrib, or pip install gvcluster[django]", allow_module_level=True)

import django
from django.conf import settings
from django.core.cache import caches
from django.test import override_settings

from gvcluster.contrib.django import close_clusters

BACKEND = "gvcluster.contrib.django.GvClusterCache"
DOCS = Path(__file__).parents[2] / "docs"
# The app that was written for redis-py, and how gunicorn is told to serve it.
SHOP = Path(__file__).parents[1] / "contrib" / "apps" / "django_shop"
GUNICORN = ("-k", "gevent", "-w", "2", "--graceful-timeout", "30")

if not settings.configured:
    settings.configure(SECRET_KEY="of no use to anybody", USE_TZ=True)
    django.setup()


@contextmanager
def made(**given: dict[str, Any]) -> Iterator[Any]:
    """Django's `caches` with these, by alias, each a cache of gvcluster. Afterwards their clusters are closed."""
    with override_settings(CACHES={alias: {"BACKEND": BACKEND, **cache} for alias, cache in given.items()}):
        try:
            yield caches
        finally:
            close_clusters()


class Plain:
    """A serializer that writes str as they are, and says that it has read them."""

    def dumps(self, value: Any) -> Any:
        return value

    def loads(self, data: bytes) -> str:
        return f"read {data.decode()}"
