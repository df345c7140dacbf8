"""The model over HTTP: a FastAPI application."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Query, Request, Response

from instructrec_jax.serving import schemas
from instructrec_jax.serving.batcher import Batcher
from instructrec_jax.serving.bounded_request import BoundedRoute
from instructrec_jax.serving.metrics import Metrics
from instructrec_jax.serving.problems import RESPONSES, add_problems
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.serving.service import Service
from instructrec_jax.serving.static_page import add_page


@dataclasses.dataclass(frozen=True)
class Limits:
  """How much the server takes on.

  Attributes:
    places: requests that may wait for answers; others are told to come again.
    together: requests that are scored at a time, at most.
    seconds: that an answer may take.
  """

  places: int = 128
  together: int = 16
  seconds: float = 30.0


def create_app(
  recommender: Recommender, *, limits: Limits | None = None
) -> FastAPI:
  """Returns the application.

  Args:
    recommender: used by the application alone from now on.
    limits: how much to take on.
  """
  limits = limits or Limits()
  metrics = Metrics()

  @contextlib.asynccontextmanager
  async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    batcher = Batcher(
      recommender.ranker,
      places=limits.places,
      together=limits.together,
      observe=metrics.batch,
    )
    metrics.watch(batcher, recommender.ranker)
    app.state.service = Service(recommender, batcher, limits.seconds)
    try:
      yield
    finally:
      await anyio.to_thread.run_sync(batcher.close)

  app = FastAPI(
    title="instructrec_jax",
    description="Ranks items for what a user says.",
    version="1",
    lifespan=lifespan,
    # Their pages load scripts from elsewhere.
    docs_url=None,
    redoc_url=None,
  )
  app.add_middleware(metrics.counting)
  app.include_router(_router)
  app.add_api_route(
    "/metrics",
    lambda: Response(metrics.expose(), media_type="text/plain; version=0.0.4"),
    include_in_schema=False,
  )
  add_page(app)
  add_problems(app, places=limits.places, seconds=limits.seconds)
  return app


_router = APIRouter(route_class=BoundedRoute, responses=RESPONSES)


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
  search: str = Query("", max_length=schemas.LONGEST_TITLE),
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
