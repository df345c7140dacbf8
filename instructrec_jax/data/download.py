"""Fetching the published files: resumable, checked, whole or not at all.

A file grows as NAME.part, with what the server said of it in NAME.part.json,
and takes its own name when its size (and SHA-256, where one is given) fits.
"""

import http.client
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import tqdm

from instructrec_jax import storage
from instructrec_jax.errors import InputError

# The authors' host, and those that had the same files before.
AMAZON_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
MIRRORS = (
  "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2",
  "https://jmcauley.ucsd.edu/data/amazon_v2",
)
# The paper's two; the server has others by the same scheme.
CATEGORIES = ("Video_Games", "CDs_and_Vinyl")

_PIECE_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
# Tries in a row that bring nothing; any progress starts the count again.
_TRIES = 5
# Timeout and Too Many Requests.
_WORTH_A_RETRY = (408, 429)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def amazon_files(category: str) -> tuple[str, str]:
  """Returns the paths of a category's reviews and of its items.

  The reviews are the 5-core: titles and repeats are dropped before our own
  5-core is taken, and that never needs a review outside of the larger one.
  """
  return (
    f"categoryFilesSmall/{category}_5.json.gz",
    f"metaFiles2/meta_{category}.json.gz",
  )


def download(
  url: str,
  path: pathlib.Path,
  *,
  sha256: str | None = None,
  wait_seconds: float = 1.0,
) -> str:
  """Fetches a file, going on where an earlier run stopped.

  A server that ignores ranges, or whose file has changed since, makes it start
  anew. A file that is there already is only checked.

  Args:
    url: where it is.
    path: where it goes.
    sha256: hex digest that it must have.
    wait_seconds: before the first repeated try; doubles with each.

  Returns:
    The file's SHA-256.

  Raises:
    InputError: the server refuses, is not reached or stops sending, or the
      digest is another.
  """
  path = pathlib.Path(path)
  if not url.startswith(("http://", "https://")):
    raise InputError(f"{url}: not a URL that begins with http:// or https://.")
  if path.exists():
    return _checked(path, sha256, f"{path}: delete it to fetch it again")
  path.parent.mkdir(parents=True, exist_ok=True)
  part = _Part(url, path)
  _fetch_all(part, url, wait_seconds)
  try:
    digest = _checked(part.path, sha256, f"{url}: the published file changed")
  except InputError:
    part.remove()
    raise
  part.finish(path)
  return digest


def _fetch_all(part: "_Part", url: str, wait_seconds: float) -> None:
  """Tries until all is there, or nothing more comes."""
  tries = 0
  while True:
    size = part.size
    try:
      if part.fetch_more():
        return
      reason = "the connection was cut"
    except urllib.error.HTTPError as error:
      reason = f"the server answers {error.code} {error.reason}"
      if error.code < 500 and error.code not in _WORTH_A_RETRY:
        raise InputError(f"{url}: {reason}; try another base URL.") from None
    except (OSError, http.client.HTTPException) as error:
      reason = str(getattr(error, "reason", error)) or type(error).__name__
    tries = 1 if part.size > size else tries + 1
    if tries == _TRIES:
      raise InputError(
        f"{url}: {_TRIES} tries in a row brought nothing ({reason}); run again "
        f"to go on after {part.size:,} bytes."
      )
    time.sleep(wait_seconds * 2 ** (tries - 1))


class _Part:
  """A file that is not all there yet.

  Attributes:
    path: NAME.part.
  """

  def __init__(self, url: str, path: pathlib.Path):
    self.path = path.with_name(path.name + ".part")
    self._facts_path = path.with_name(path.name + ".part.json")
    self._url = url
    self._facts: dict[str, Any] = {}
    if self._facts_path.exists():
      self._facts = storage.read_json(self._facts_path)
    if self._facts.get("url") != url:
      self.remove()

  @property
  def size(self) -> int:
    """How many bytes are there."""
    return self.path.stat().st_size if self.path.exists() else 0

  def fetch_more(self) -> bool:
    """Asks once for what is missing; returns whether all is there now."""
    if self.size and self.size == self._facts["bytes"]:
      return True
    try:
      answer = urllib.request.urlopen(self._request(), timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
      if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise
      # There is more here than there: it is another file now.
      self.remove()
      return False
    with answer:
      if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = _CONTENT_RANGE.match(answer.headers["Content-Range"] or "")
        if not found or [int(n) for n in found.groups()] != [
          self.size,
          self._facts["bytes"],
        ]:
          self.remove()
          return False
      else:
        self._start(answer.headers)
      self._append(answer)
    return self._facts["bytes"] in (None, self.size)

  def finish(self, path: pathlib.Path) -> None:
    """Gives the file its name."""
    os.replace(self.path, path)
    self._facts_path.unlink(missing_ok=True)

  def remove(self) -> None:
    """Forgets all that has come."""
    self._facts = {}
    self.path.unlink(missing_ok=True)
    self._facts_path.unlink(missing_ok=True)

  def _request(self) -> urllib.request.Request:
    headers = {"Accept-Encoding": "identity", "User-Agent": "instructrec-jax"}
    if self.size:
      headers["Range"] = f"bytes={self.size}-"
      if self._facts["validator"]:
        # Of a file that has changed since, the server then sends the whole.
        headers["If-Range"] = self._facts["validator"]
    return urllib.request.Request(self._url, headers=headers)

  def _start(self, headers: Mapping[str, str]) -> None:
    """Notes what the server says of the file, before any of it comes."""
    self.remove()
    etag, length = headers.get("ETag"), headers.get("Content-Length")
    strong = etag if etag and not etag.startswith("W/") else None
    self._facts = {
      "url": self._url,
      "bytes": None if length is None else int(length),
      "validator": strong or headers.get("Last-Modified"),
    }
    storage.write_json(self._facts_path, self._facts)

  def _append(self, answer: http.client.HTTPResponse) -> None:
    with (
      open(self.path, "ab") as file,
      tqdm.tqdm(
        desc=self.path.name.removesuffix(".part"),
        initial=file.tell(),
        total=self._facts["bytes"],
        unit="B",
        unit_scale=True,
        disable=None,
      ) as bar,
    ):
      # What has arrived, so that a cut connection loses nothing.
      while piece := answer.read1(_PIECE_BYTES):
        file.write(piece)
        bar.update(len(piece))


def _checked(path: pathlib.Path, sha256: str | None, trouble: str) -> str:
  digest = storage.sha256_of(path)
  if sha256 is not None and digest != sha256.lower():
    raise InputError(f"{trouble} (its SHA-256 is {digest}, not {sha256}).")
  return digest
