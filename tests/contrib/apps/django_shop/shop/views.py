"""The views: carts are in the session, the catalogue is in the cache, the rest in Redis."""

from uuid import uuid4

from django.core.cache import cache
from django.http import JsonResponse

from shop import store

PRICES = {"book": 20, "pen": 2}


def catalogue(request):
    """Prices, made once in a minute, and how often they were looked at."""
    prices = cache.get_or_set("catalogue", lambda: PRICES, 60)
    if not cache.add("visits", 1, None):
        cache.incr("visits")
    return JsonResponse({"prices": prices, "visits": cache.get("visits")})


def into_the_cart(request, item):
    """One more of it."""
    request.session["cart"] = [*request.session.get("cart", []), item]
    return JsonResponse({"cart": request.session["cart"]})


def checkout(request):
    """Buy what is in the cart, as far as it is there."""
    user = request.session.setdefault("user", uuid4().hex)
    cart = request.session.pop("cart", [])
    bought = [item for item in cart if store.take(item)]
    if bought:
        store.note_order(user, bought)
    return JsonResponse({"bought": bought, "sold_out": [item for item in cart if item not in bought]})


def orders(request):
    """What this user has bought."""
    return JsonResponse({"orders": store.orders(request.session.get("user"))})


def sold(request):
    """What was sold, and what is left."""
    return JsonResponse({"sold": store.sold(), "left": store.stock(*PRICES)})
