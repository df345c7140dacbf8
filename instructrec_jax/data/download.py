"""Fetching the published files: resumable, checked, whole or not at all.

A file grows as NAME.part, with what the server said of it in NAME.part.json,
and takes its own name when its size (and SHA-256, where one is given) fits.
By hand, since pooch cannot resume a partial file.
"""

import http.client
import os
import pathlib
import time
import urllib.error
import urllib.request

from instructrec_jax import locks, storage
from instructrec_jax.errors import InputError
from instructrec_jax.progress import progress

# The authors' host, and those that had the same files before.
AMAZON_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
MIRRORS = (
  "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2",
  "https://jmcauley.ucsd.edu/data/amazon_v2",
)
AMAZON_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
# Of the 2023 release's own splits of its 5-core.
OFFICIAL_SPLITS = ("last_out", "timestamp")
# The paper's two; the server has others by the same scheme.
CATEGORIES = ("Video_Games", "CDs_and_Vinyl")

_PIECE_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
# Tries in a row that bring nothing; any progress starts the count again.
_TRIES = 5
# Timeout and Too Many Requests.
_WORTH_A_RETRY = (408, 429)
# Of a file's .part.json; a server may say neither length nor validator.
_ABOUT = {"url": str, "bytes": object, "validator": object}


def amazon_files(category: str) -> tuple[str, str]:
  """Returns the paths of a category's reviews and of its items.

  The reviews are the 5-core: titles and repeats are dropped before our own
  5-core is taken, and that never needs a review outside of the larger one.
  """
  return (
    f"categoryFilesSmall/{category}_5.json.gz",
    f"metaFiles2/meta_{category}.json.gz",
  )


def official_files(category: str, split: str, *, texts: bool) -> list[str]:
  """Returns the paths of a category's items and of an official split of 2023.

  Args:
    category: such as Video_Games.
    split: one of `OFFICIAL_SPLITS`.
    texts: of its reviews too, which are by far the largest.
  """
  reviews = [f"raw/review_categories/{category}.jsonl.gz"] if texts else []
  return [
    f"raw/meta_categories/meta_{category}.jsonl.gz",
    *(
      f"benchmark/5core/{split}/{category}.{part}.csv.gz"
      for part in ("train", "valid", "test")
    ),
    *reviews,
  ]


def download(
  url: str,
  path: pathlib.Path,
  *,
  sha256: str | None = None,
  wait_seconds: float = 1.0,
) -> str:
  """Fetches a file, resuming an earlier run; returns its SHA-256.

  A server that ignores ranges, or whose file has changed since, makes it start
  anew. A file that is there already is only checked.

  Args:
    url: where it is.
    path: where it goes.
    sha256: hex digest that it must have.
    wait_seconds: before the first repeated try; doubles with each.

  Raises:
    InputError: the server refuses, is not reached or stops sending, or the
      digest is another.
  """
  path = pathlib.Path(path)
  if not url.startswith(("http://", "https://")):
    raise InputError(f"{url}: not a URL that begins with http:// or https://.")
  with locks.writing(path):
    return _download(url, path, sha256=sha256, wait_seconds=wait_seconds)


def _download(
  url: str, path: pathlib.Path, *, sha256: str | None, wait_seconds: float
) -> str:
  if path.exists():
    return _checked(path, sha256, f"{path}: delete it to fetch it again")
  part = path.with_name(path.name + ".part")
  about = path.with_name(path.name + ".part.json")
  if about.exists() and storage.read_json(about, _ABOUT)["url"] != url:
    about.unlink()
  if not about.exists():
    part.unlink(missing_ok=True)
  tries = 0
  while True:
    size = _size(part)
    try:
      if _fetch_more(url, part, about):
        break
      reason = "the connection was cut"
    except urllib.error.HTTPError as error:
      reason = f"the server answers {error.code} {error.reason}"
      if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        # There is more here than there: it is another file now.
        part.unlink(missing_ok=True)
      elif error.code < 500 and error.code not in _WORTH_A_RETRY:
        raise InputError(f"{url}: {reason}; try another base URL.") from None
    except (OSError, http.client.HTTPException) as error:
      reason = str(getattr(error, "reason", error)) or type(error).__name__
    tries = 1 if _size(part) > size else tries + 1
    if tries == _TRIES:
      raise InputError(
        f"{url}: {_TRIES} tries in a row brought nothing ({reason}); run again "
        f"to go on after {_size(part):,} bytes."
      )
    time.sleep(wait_seconds * 2 ** (tries - 1))
  try:
    digest = _checked(part, sha256, f"{url}: the published file changed")
  except InputError:
    part.unlink()
    about.unlink()
    raise
  os.replace(part, path)
  about.unlink()
  return digest


def _fetch_more(url: str, part: pathlib.Path, about: pathlib.Path) -> bool:
  """Asks once for what is missing; returns whether all is there now."""
  size = _size(part)
  facts = storage.read_json(about, _ABOUT) if size else {}
  if size and size == facts["bytes"]:
    return True
  headers = {"Accept-Encoding": "identity", "User-Agent": "instructrec-jax"}
  if size:
    headers["Range"] = f"bytes={size}-"
    if facts["validator"]:
      # Of a file that has changed since, the server then sends the whole.
      headers["If-Range"] = facts["validator"]
  request = urllib.request.Request(url, headers=headers)
  with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
      sent = answer.headers["Content-Range"] or ""
      if not sent.startswith(f"bytes {size}-") or not sent.endswith(
        f"/{facts['bytes']}"
      ):
        part.unlink()
        return False
    else:
      part.unlink(missing_ok=True)
      etag, length = answer.headers["ETag"], answer.headers["Content-Length"]
      strong = etag if etag and not etag.startswith("W/") else None
      facts = {
        "url": url,
        "bytes": None if length is None else int(length),
        "validator": strong or answer.headers["Last-Modified"],
      }
      storage.write_json(about, facts)
    with (
      open(part, "ab") as file,
      progress(
        desc=part.stem,
        initial=file.tell(),
        total=facts["bytes"],
        unit="B",
        unit_scale=True,
      ) as bar,
    ):
      # What has arrived, so that a cut connection loses nothing.
      while piece := answer.read1(_PIECE_BYTES):
        file.write(piece)
        bar.update(len(piece))
  return facts["bytes"] in (None, _size(part))


def _size(part: pathlib.Path) -> int:
  return part.stat().st_size if part.exists() else 0


def _checked(path: pathlib.Path, sha256: str | None, trouble: str) -> str:
  digest = storage.sha256_of(path)
  if sha256 is not None and digest != sha256.lower():
    raise InputError(f"{trouble} (its SHA-256 is {digest}, not {sha256}).")
  return digest
