"""Around each view."""

import os

from django.http import JsonResponse
from redis.exceptions import ConnectionError, TimeoutError


def tell_worker(get_response):
    """Name the process that answers."""

    def with_name(request):
        response = get_response(request)
        response.set_cookie("worker", os.getpid())
        return response

    return with_name


def sorry(get_response):
    """Where Redis could not be talked to, ask the client to come again."""

    def answer(request):
        return get_response(request)

    def process_exception(request, error):
        if isinstance(error, ConnectionError | TimeoutError):
            return JsonResponse({"error": str(error)}, status=503, headers={"Retry-After": "1"})

    answer.process_exception = process_exception
    return answer
