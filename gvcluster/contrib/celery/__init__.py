"""A Celery result backend: `result_backend="gvcluster://h1:7000,h2:7001"`, after `pip install gvcluster[celery]`.

How to use it: `docs/celery.md`. Celery finds it by an entry point, and nobody need import it.
"""

from gvcluster.contrib.celery.backend import ClusterBackend

__all__ = ["ClusterBackend"]
