"""No browser and no proxy keeps what the application answers."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


def keep_nothing(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware. After signing out, Back would show what is in the browser's memory
    (docs/decisions.md). A view that says otherwise has its way; static files, which
    WhiteNoise answers before this, are kept."""

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.setdefault("Cache-Control", "private, no-store")
        return response

    return answer
