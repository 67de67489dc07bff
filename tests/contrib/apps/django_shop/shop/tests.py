"""The shop's own tests: `python manage.py test`."""

from django.core.cache import cache
from django.test import SimpleTestCase

from shop import store


class ShopTests(SimpleTestCase):
    def setUp(self):
        cache.clear()
        store.client.flushall(target_nodes="primaries")
        store.fill(book=2, pen=10)

    def buy(self, *items):
        for item in items:
            self.client.post(f"/cart/{item}")
        return self.client.post("/checkout").json()

    def test_catalogue(self):
        assert self.client.get("/").json() == {"prices": {"book": 20, "pen": 2}, "visits": 1}
        assert self.client.get("/").json()["visits"] == 2
        assert cache.get_many(["catalogue", "visits"]).keys() == {"catalogue", "visits"}

    def test_cart_is_kept_in_the_session(self):
        self.client.post("/cart/pen")
        assert self.client.post("/cart/book").json() == {"cart": ["pen", "book"]}

    def test_carts_of_others_are_others(self):
        self.client.post("/cart/pen")
        other = self.client_class()
        assert other.post("/cart/book").json() == {"cart": ["book"]}

    def test_buying(self):
        assert self.buy("book", "pen") == {"bought": ["book", "pen"], "sold_out": []}
        assert self.client.get("/orders").json() == {"orders": ["book", "pen"]}
        assert self.client.get("/sold").json()["left"] == {"book": 1, "pen": 9}

    def test_nothing_is_sold_twice(self):
        for _ in range(2):
            self.buy("book")
        assert self.buy("book") == {"bought": [], "sold_out": ["book"]}
        assert self.client.get("/sold").json() == {"sold": {"book": 2}, "left": {"book": 0, "pen": 10}}

    def test_a_cart_is_bought_once(self):
        self.buy("pen")
        assert self.buy() == {"bought": [], "sold_out": []}
