"""The application of test_gunicorn.py. Its Cluster is made at import, as most people do it."""

import os

from gvcluster import Cluster

cluster = Cluster(os.environ["GVCLUSTER_TEST_SEEDS"])
IMPORTED_IN = os.getpid()


def app(environ, start_response):
    """Store the token that the path names, read it back, and say who did it."""
    token = environ["PATH_INFO"].strip("/")
    cluster.execute("SET", f"token:{token}", token)
    value = cluster.execute("GET", f"token:{token}").decode()
    status = "200 OK" if value == token else "500 Wrong Reply"
    start_response(status, [("Content-Type", "text/plain")])
    return [f"{value} {os.getpid()} {IMPORTED_IN}".encode()]
