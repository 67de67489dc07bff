"""What the shop answers."""

from django.urls import path

from shop import views

urlpatterns = [
    path("", views.catalogue),
    path("cart/<str:item>", views.into_the_cart),
    path("checkout", views.checkout),
    path("orders", views.orders),
    path("sold", views.sold),
]
