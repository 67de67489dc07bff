"""A Flask application with a cache and with limits, on one cluster: gunicorn -k gevent -w 4 flask_app:app"""

from flask import Flask
from flask_caching import Cache
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

import gvcluster.contrib.limits  # noqa: F401  # it makes gvcluster:// known to limits
from gvcluster import Cluster

cluster = Cluster("10.0.0.1:6379,10.0.0.2:6379", client_name="shop")
app = Flask(__name__)
cache = Cache(
    app,
    config={
        "CACHE_TYPE": "gvcluster.contrib.flask_caching.GvClusterCache",
        "CACHE_KEY_PREFIX": "shop:",
        "CACHE_OPTIONS": {"cluster": cluster},
    },
)
limiter = Limiter(
    get_remote_address,
    app=app,
    strategy="moving-window",
    storage_uri="gvcluster://",
    storage_options={"cluster": cluster},
    swallow_errors=True,
)


@app.get("/price/<item>")
@cache.cached(timeout=60)
def price(item):
    """A page that is made once a minute."""
    return f"{item} costs {cluster.execute('INCR', 'made')}"


@app.get("/login")
@limiter.limit("5/minute")
def login():
    """A page of which everybody gets five a minute."""
    return "welcome"
