"""The model over HTTP: a FastAPI application, its routes, errors and page."""

import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from instructrec_jax.errors import InputError
from instructrec_jax.serving import schemas
from instructrec_jax.serving.batcher import Batcher, Overloaded
from instructrec_jax.serving.conversations import UnknownConversation
from instructrec_jax.serving.middleware import BoundedRoute, Metrics
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.serving.service import NoCatalogue, Service

_PAGE = pathlib.Path(__file__).with_name("page")
_MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
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
  """

  max_waiting: int = 128
  max_batch: int = 16
  timeout: float = 30.0


def create_app(
  recommender: Recommender, *, limits: Limits | None = None
) -> FastAPI:
  """Returns the application.

  Args:
    recommender: owned by the application from now on.
    limits: of its load.
  """
  limits = limits or Limits()
  metrics = Metrics()

  @contextlib.asynccontextmanager
  async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    batcher = Batcher(
      recommender.ranker,
      max_waiting=limits.max_waiting,
      max_batch=limits.max_batch,
      observe=metrics.observe_batch,
    )
    metrics.watch(batcher, recommender.ranker)
    app.state.service = Service(recommender, batcher, limits.timeout)
    try:
      yield
    finally:
      await anyio.to_thread.run_sync(batcher.close)

  app = FastAPI(
    title="instructrec_jax",
    description="Ranks items for what a user says.",
    version="1",
    lifespan=lifespan,
    # FastAPI's pages of documentation load scripts from other hosts.
    docs_url=None,
    redoc_url=None,
  )
  app.add_middleware(metrics.middleware)
  app.include_router(_router)
  app.add_api_route("/metrics", metrics.expose, include_in_schema=False)
  for path in sorted(_PAGE.iterdir()):
    if path.suffix in _MEDIA:
      url = "/" if path.name == "index.html" else f"/page/{path.name}"
      app.add_api_route(url, _static(path), include_in_schema=False)
  _add_error_handlers(app, limits)
  return app


def _static(path: pathlib.Path) -> Callable[[], Response]:
  content = path.read_bytes()
  return lambda: Response(
    content, media_type=_MEDIA[path.suffix], headers=_PAGE_HEADERS
  )


_router = APIRouter(
  route_class=BoundedRoute,
  responses={
    status: {"model": schemas.Problem}
    for status in (400, 404, 408, 413, 415, 422, 503, 504)
  },
)


@_router.post("/v1/rerank", response_model_exclude_none=True)
async def rerank(
  asked: schemas.RerankRequest, request: Request
) -> schemas.RankingAnswer:
  """Ranks documents, as Cohere's first and Jina's form ask for it."""
  return await request.app.state.service.rerank(asked, "1")


@_router.post("/v2/rerank", response_model_exclude_none=True)
async def rerank_v2(
  asked: schemas.RerankRequest, request: Request
) -> schemas.RankingAnswer:
  """Ranks documents, as Cohere's second form asks for it."""
  return await request.app.state.service.rerank(asked, "2")


@_router.post("/v1/recommend")
async def recommend(
  asked: schemas.RecommendRequest, request: Request
) -> schemas.RankingAnswer:
  """Finds the best of the catalogue, without the history."""
  return await request.app.state.service.recommend(asked)


@_router.post("/v1/chat/recommend")
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
) -> schemas.Items:
  """Finds titles of the catalogue that contain a text."""
  found = await request.app.state.service.find(search, limit)
  return schemas.Items(items=found)


@_router.get("/healthz")
async def healthz(request: Request) -> schemas.Health:
  """Says that the server answers."""
  recommender = request.app.state.service.recommender
  return schemas.Health(
    status="ok", model=recommender.name, catalogue=len(recommender.titles)
  )


def _add_error_handlers(app: FastAPI, limits: Limits) -> None:
  """Has every error answered with one sentence: {"message": ...}."""
  answers: dict[type[Exception], Callable[[Any], Response]] = {
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
    elif step not in ("str", "constrained-str", "Text"):
      # Cut: an unknown field's name is the client's, of any length.
      name = f"{step:.80}"
      where += f".{name}" if where else name
  message = error["msg"]
  if error["type"] in ("model_attributes_type", "missing") and not where:
    return "the body must be a JSON object."
  return f"{where or 'the body'}: {message[:1].lower()}{message[1:]}."
