"""The page: a few files of the package, under a strict content policy."""

import pathlib
from collections.abc import Callable

from fastapi import FastAPI, Response

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


def add_page(app: FastAPI) -> None:
  """Serves the files of the page, and nothing else."""
  for path in sorted(_PAGE.iterdir()) if _PAGE.is_dir() else ():
    if path.suffix in _MEDIA:
      at = "/" if path.name == "index.html" else f"/page/{path.name}"
      app.add_api_route(at, _static(path), include_in_schema=False)


def _static(path: pathlib.Path) -> Callable[[], Response]:
  content = path.read_bytes()

  def send() -> Response:
    return Response(
      content, media_type=_MEDIA[path.suffix], headers=_PAGE_HEADERS
    )

  return send
