"""The application of the HTTP port: /healthz, /readyz, /metrics, the status as JSON, predictions, and the page."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onnxserve_server.errors import ServeError
from onnxserve_server.web.errors import error_response
from onnxserve_server.web.origin import check_reader
from onnxserve_server.web.predict import Predictions, Ungzip
from onnxserve_server.web.status import ServerStatus

_PAGE = Path(__file__).parent / "page"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# The page loads its own files and nothing else; scripts and styles in the text of a model's name stay text.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(status: ServerStatus, ungzip: Ungzip | None = None) -> Starlette:
    """Return the application that answers for a server; `ungzip` unpacks bodies, None: none may be compressed."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if status.ready() else PlainTextResponse("not ready\n", 503)

    async def metrics(request: Request) -> Response:
        try:
            check_reader(request)
        except ServeError as error:
            return error_response(error)
        scraped = await run_in_threadpool(status.scrape, request.headers.get("accept", ""))
        if scraped is None:
            return PlainTextResponse("no metrics: the server was started with --no-telemetry\n", 404)
        body, content_type = scraped
        return Response(body, headers={"Content-Type": content_type})

    async def api_status(request: Request) -> Response:
        try:
            check_reader(request)
        except ServeError as error:
            return error_response(error)
        body = await run_in_threadpool(status.as_json)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/api/status", api_status),
            Route("/api/predict", Predictions(status.engine, status.observer, ungzip).answer, methods=_METHODS),
            Mount("/", StaticFiles(directory=_PAGE, html=True)),
        ],
        middleware=[Middleware(_WithHeaders)],
    )


class _WithHeaders:
    """Adds the headers that bound what a browser does with a response; one in its cache it must revalidate by ETag."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await self._app(scope, receive, send_with_headers)
