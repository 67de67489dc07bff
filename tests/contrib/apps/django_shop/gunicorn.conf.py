"""gunicorn's settings of the shop, which it finds by this name."""

from gevent import monkey

monkey.patch_all()  # in the first line: what preload_app imports must find everything patched

worker_class = "gevent"
workers = 2
preload_app = True
graceful_timeout = 30
