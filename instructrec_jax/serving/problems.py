"""What goes wrong, told in one sentence: {"message": ...}."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from instructrec_jax.errors import InputError
from instructrec_jax.serving.batcher import Overloaded
from instructrec_jax.serving.schemas import Problem
from instructrec_jax.serving.service import NoCatalogue

RESPONSES: dict[int | str, dict[str, Any]] = {
  status: {"model": Problem}
  for status in (400, 404, 408, 413, 415, 422, 503, 504)
}


def add_problems(app: FastAPI, *, places: int, seconds: float) -> None:
  """Has every error answered with a sentence.

  Args:
    app: to add to.
    places: that there are for waiting requests.
    seconds: that an answer may take.
  """

  @app.exception_handler(NoCatalogue)
  async def _(_: Request, error: Exception) -> Response:
    return _problem(
      404,
      "there is no catalogue: start the server with --dataset, or ask "
      "/v1/rerank with documents.",
    )

  @app.exception_handler(InputError)
  async def _(_: Request, error: Exception) -> Response:
    return _problem(422, str(error))

  @app.exception_handler(Overloaded)
  async def _(_: Request, error: Exception) -> Response:
    return _problem(
      503,
      f"{places} requests are waiting already: come again in a second.",
      {"Retry-After": "1"},
    )

  @app.exception_handler(TimeoutError)
  async def _(_: Request, error: Exception) -> Response:
    return _problem(504, f"there was no answer within {seconds:g} seconds.")

  @app.exception_handler(HTTPException)
  async def _(_: Request, error: Any) -> Response:
    return _problem(error.status_code, error.detail, error.headers)

  @app.exception_handler(Exception)
  async def _(_: Request, error: Exception) -> Response:
    return _problem(500, "the server failed at this; its log tells at what.")

  @app.exception_handler(RequestValidationError)
  async def _(_: Request, error: Any) -> Response:
    return _problem(422, _sentence(error.errors()[0]))


def _problem(status: int, message: str, headers: Any = None) -> Response:
  return JSONResponse({"message": message}, status, headers)


def _sentence(error: dict[str, Any]) -> str:
  """Says in a sentence what pydantic found."""
  _, *path = error["loc"] or ("body",)
  where = ""
  for step in path:
    # Members of a union have their types' names in between.
    if isinstance(step, int):
      where += f"[{step}]"
    elif step in ("str", "constrained-str", "Text"):
      continue
    else:
      # A field of ours, or whatever there is instead.
      name = f"{step:.80}"
      where += f".{name}" if where else name
  what = error["msg"]
  if error["type"] in ("model_attributes_type", "missing") and not where:
    return "the body must be a JSON object."
  return f"{where or 'the body'}: {what[:1].lower()}{what[1:]}."
