"""A shop written for redis-py's RedisCluster and Django's cache; test_django_app.py says what it is for."""
