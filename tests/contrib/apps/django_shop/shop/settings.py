"""Django's settings of the shop. SHOP_NODES is where the cluster is: "host:port,host:port"."""

import os

NODES = os.environ["SHOP_NODES"]

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
    },
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "for tests only")
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
INSTALLED_APPS = ["shop"]
MIDDLEWARE = [
    "shop.middleware.tell_worker",
    "shop.middleware.sorry",
    "django.contrib.sessions.middleware.SessionMiddleware",
]
USE_TZ = True
