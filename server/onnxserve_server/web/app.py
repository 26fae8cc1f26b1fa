"""What the HTTP port answers: /healthz, /readyz, /metrics, the status as JSON, and the page that draws it."""

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from onnxserve_server.web.status import ServerStatus


def make_app(status: ServerStatus) -> Starlette:
    """Return the application that tells of a server."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if status.ready() else PlainTextResponse("not ready\n", 503)

    async def metrics(request: Request) -> Response:
        scraped = await run_in_threadpool(status.scrape, request.headers.get("accept", ""))
        if scraped is None:
            return PlainTextResponse("nothing is counted: the server was started with --no-telemetry\n", 404)
        body, content_type = scraped
        return Response(body, headers={"Content-Type": content_type})

    async def told(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(status.told), headers={"Cache-Control": "no-store"})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/api/status", told),
        ]
    )
