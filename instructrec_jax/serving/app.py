"""The model over HTTP: a FastAPI application, its routes, errors and page."""

import contextlib
import dataclasses
import importlib.util
import pathlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from instructrec_jax.errors import InputError
from instructrec_jax.serving import schemas
from instructrec_jax.serving.access import Access
from instructrec_jax.serving.batcher import Batcher, Overloaded
from instructrec_jax.serving.conversations import UnknownConversation
from instructrec_jax.serving.middleware import BoundedRoute, Metrics
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.serving.request_log import RequestLog
from instructrec_jax.serving.service import NoCatalogue, Service

_PAGE = pathlib.Path(__file__).with_name("page")
_MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Swagger UI, which FastAPI's own page would load from another host.
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
_PAGE_HEADERS = {
  "Content-Security-Policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' "
    "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
  ),
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cache-Control": "no-cache",
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """Load limits of a server.

  Attributes:
    max_waiting: requests that may wait for answers; others get a 503.
    max_batch: requests that are scored together, at most.
    timeout: seconds that an answer may take before it is a 504.
    truncate: texts that are too long are cut unless a request says otherwise.
  """

  max_waiting: int = 128
  max_batch: int = 16
  timeout: float = 30.0
  truncate: bool = False


def create_app(
  recommender: Recommender,
  *,
  limits: Limits | None = None,
  access: Access | None = None,
  log_requests: bool = False,
  images: bool = False,
) -> FastAPI:
  """Returns the application.

  Args:
    recommender: owned by the application from now on.
    limits: of its load.
    access: who may ask; everybody if None.
    log_requests: has each request logged, see `RequestLog`.
    images: has the page load the catalogue's pictures from where they are.
  """
  limits, access = limits or Limits(), access or Access()
  metrics = Metrics()

  @contextlib.asynccontextmanager
  async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    batcher = Batcher(
      recommender.ranker,
      max_waiting=limits.max_waiting,
      max_batch=limits.max_batch,
      observe=metrics.observe_batch,
    )
    metrics.watch(batcher, recommender.ranker, recommender.user_states)
    app.state.service = Service(
      recommender, batcher, limits.timeout, limits.truncate, images
    )
    try:
      yield
    finally:
      await anyio.to_thread.run_sync(batcher.close)

  app = FastAPI(
    title="instructrec_jax",
    description="Ranks items for what a user says.",
    version="1",
    lifespan=lifespan,
    # Ours are below: FastAPI's load scripts from other hosts.
    docs_url=None,
    redoc_url=None,
  )
  app.state.access = access
  app.state.started = int(time.time())
  app.add_middleware(_KnownHosts, access=access)
  app.add_middleware(metrics.middleware)
  if access.cors_origins:
    app.add_middleware(
      CORSMiddleware,
      allow_origins=access.cors_origins,
      allow_methods=["GET", "POST"],
      allow_headers=["Authorization", "Content-Type", "X-API-Key"],
      expose_headers=["Retry-After", "X-Request-ID"],
    )
  if log_requests:
    app.add_middleware(RequestLog)
  app.add_middleware(_Rooted, root_path=access.root_path)
  # Only where one is needed does the description have a field for it.
  key = [Security(HTTPBearer(auto_error=False))] if access.keys else []
  app.include_router(_router, dependencies=key)
  app.include_router(_open)
  private = APIRouter(route_class=BoundedRoute)
  private.add_api_route("/metrics", metrics.expose, include_in_schema=False)
  app.include_router(private)
  _add_pages(app, images)
  _add_error_handlers(app, limits)
  return app


class _KnownHosts:
  """Answers only requests for one of the server's names."""

  def __init__(self, app: Any, *, access: Access):
    self._app, self._access = app, access

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
      host = Headers(scope=scope).get("host", "")
      if not self._access.answers_to(host):
        refuse = _problem(
          421,
          f"this server does not answer to {host!r:.80}: start it with "
          "--allowed-hosts if that is a name of its own.",
        )
        return await refuse(scope, receive, send)
    await self._app(scope, receive, send)


class _Rooted:
  """Has paths served with a prefix and without it.

  Some proxies take it off, some do not; uvicorn's own option would put a second
  one before what comes with it.
  """

  def __init__(self, app: Any, *, root_path: str):
    self._app, self._root_path = app, root_path

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http" and self._root_path:
      scope = {**scope, "root_path": self._root_path}
    await self._app(scope, receive, send)


def _add_pages(app: FastAPI, images: bool) -> None:
  """Adds the page at /, and Swagger UI at /docs.

  Their own addresses of other files are relative, as a proxy may show them
  elsewhere than at its root.
  """
  names = {"index.html": "/", "docs.html": "/docs"}
  files = [path for path in _PAGE.iterdir() if path.suffix in _MEDIA]
  spec = importlib.util.find_spec("fastapi_offline")
  if spec is not None and spec.origin is not None:
    static = pathlib.Path(spec.origin).with_name("static")
    files += [static / name for name in _SWAGGER]
  for path in sorted(files):
    url = names.get(path.name, f"/page/{path.name}")
    answer = _static(path, images)
    app.add_api_route(url, answer, include_in_schema=False)


def _static(path: pathlib.Path, images: bool) -> Callable[[], Response]:
  content, headers = path.read_bytes(), dict(_PAGE_HEADERS)
  if images and path.name == "index.html":
    policy = headers["Content-Security-Policy"]
    headers["Content-Security-Policy"] = policy.replace(
      "img-src 'self'", "img-src 'self' https: http:"
    )
  if path.name == "docs.html":
    # Swagger UI sets styles from its script.
    policy = headers["Content-Security-Policy"]
    headers["Content-Security-Policy"] = policy.replace(
      "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    )
  return lambda: Response(
    content, media_type=_MEDIA[path.suffix], headers=headers
  )


_router = APIRouter(
  route_class=BoundedRoute,
  responses={
    status: {"model": schemas.Problem}
    for status in (400, 401, 404, 408, 413, 415, 421, 422, 503, 504)
  },
)
# What probes ask, and nobody has a key for.
_open = APIRouter()


# Some clients have the version in their base address, or none.
@_router.post(
  "/rerank", response_model_exclude_none=True, include_in_schema=False
)
@_router.post("/v1/rerank", response_model_exclude_none=True)
async def rerank(
  asked: schemas.RerankRequest, request: Request
) -> schemas.RankingAnswer:
  """Ranks documents, as Cohere's first and Jina's form ask for it."""
  return await request.app.state.service.rerank(asked, "1")


@_router.post("/infinity/rerank", include_in_schema=False)
async def rerank_infinity(
  asked: schemas.RerankRequest, request: Request
) -> dict[str, Any]:
  """Ranks documents in Infinity's form, which has them as bare texts."""
  answer = (await rerank(asked, request)).model_dump(exclude_none=True)
  for result in answer["results"]:
    if "document" in result:
      result["document"] = result["document"]["text"]
  return answer


@_router.post("/v2/rerank", response_model_exclude_none=True)
async def rerank_v2(
  asked: schemas.RerankRequest, request: Request
) -> schemas.RankingAnswer:
  """Ranks documents, as Cohere's second form asks for it."""
  return await request.app.state.service.rerank(asked, "2")


@_router.post("/v1/recommend", response_model_exclude_none=True)
async def recommend(
  asked: schemas.RecommendRequest, request: Request
) -> schemas.RankingAnswer:
  """Finds the best of the catalogue, without the history."""
  return await request.app.state.service.recommend(asked)


@_router.post("/v1/chat/recommend", response_model_exclude_none=True)
async def chat(
  asked: schemas.ChatRequest, request: Request
) -> schemas.ChatAnswer:
  """Answers the next turn of a conversation from the catalogue."""
  return await request.app.state.service.chat(asked)


@_router.post("/v1/explain")
async def explain(
  asked: schemas.ExplainRequest, request: Request
) -> schemas.Explanation:
  """Ranks documents, and says which words and titles weigh most."""
  return await request.app.state.service.explain(asked)


@_router.post("/v1/instructions")
async def instructions(
  asked: schemas.InstructionRequest, request: Request
) -> schemas.Instruction:
  """Composes the model instruction, and ranks nothing."""
  return await request.app.state.service.instruction(asked)


@_router.get("/v1/items")
async def items(
  request: Request,
  search: str = Query("", max_length=schemas.MAX_TITLE_LENGTH),
  limit: int = Query(20, ge=1, le=100),
  offset: int = Query(0, ge=0, le=10**9),
) -> schemas.Items:
  """Finds titles of the catalogue that have all words of a text."""
  return await request.app.state.service.find(search, limit, offset)


@_router.get("/v1/examples")
async def examples(request: Request) -> schemas.Examples:
  """Returns wishes to begin with, which the model is known to answer."""
  return await request.app.state.service.examples()


@_router.get("/v1/models")
async def models(request: Request) -> schemas.Models:
  """Lists the model that is served."""
  recommender = request.app.state.service.recommender
  served = schemas.ServedModel(
    id=recommender.name,
    created=request.app.state.started,
    catalogue=len(recommender.titles),
  )
  return schemas.Models(data=[served])


@_open.get("/healthz")
async def healthz(request: Request) -> schemas.Health:
  """Says that the server answers."""
  recommender = request.app.state.service.recommender
  return schemas.Health(
    status="ok", model=recommender.name, catalogue=len(recommender.titles)
  )


def _add_error_handlers(app: FastAPI, limits: Limits) -> None:
  """Has every error answered with one sentence: {"message": ...}."""
  answers: dict[type[Exception] | int, Callable[[Any], Response]] = {
    NoCatalogue: lambda _: _problem(
      404,
      "there is no catalogue: start the server with --dataset, or ask "
      "/v1/rerank with documents.",
    ),
    UnknownConversation: lambda _: _problem(
      404,
      "there is no such conversation, or no longer: begin another, without an "
      "id.",
    ),
    InputError: lambda error: _problem(422, str(error)),
    RequestValidationError: lambda error: _problem(
      422, _sentence(error.errors()[0])
    ),
    Overloaded: lambda _: _problem(
      503,
      f"{limits.max_waiting} requests are waiting already: come again in a "
      "second.",
      {"Retry-After": "1"},
    ),
    TimeoutError: lambda _: _problem(
      504, f"there was no answer within {limits.timeout:g} seconds."
    ),
    404: lambda _: _problem(
      404, "there is nothing at this path: /docs describes those that exist."
    ),
    405: lambda error: _problem(
      405,
      f"this path is asked with {error.headers['Allow']}: /docs describes all.",
      error.headers,
    ),
    HTTPException: lambda error: _problem(
      error.status_code, error.detail, error.headers
    ),
    Exception: lambda _: _problem(
      500, "the server failed at this; its log tells at what."
    ),
  }

  def handler(answer: Callable[[Any], Response]) -> Any:
    # A coroutine, or starlette would run it in another thread.
    async def handle(_: Request, error: Exception) -> Response:
      return answer(error)

    return handle

  for kind, answer in answers.items():
    app.add_exception_handler(kind, handler(answer))


def _problem(status: int, message: str, headers: Any = None) -> Response:
  return JSONResponse({"message": message}, status, headers)


def _sentence(error: dict[str, Any]) -> str:
  """Turns one of pydantic's errors into a sentence."""
  _, *path = error["loc"] or ("body",)
  where = ""
  for step in path:
    if isinstance(step, int):
      where += f"[{step}]"
    # Names of a union's members stand between the fields'.
    elif step not in ("str", "constrained-str", "Text", "Fields"):
      # Cut: an unknown field's name is the client's, of any length.
      name = f"{step:.80}"
      where += f".{name}" if where else name
  message = error["msg"]
  if error["type"] in ("model_attributes_type", "missing") and not where:
    return "the body must be a JSON object."
  return f"{where or 'the body'}: {message[:1].lower()}{message[1:]}."
