"""Runs: the scores of other tools read as a ranker, and ours written for them.

A run says of requests and items how well they fit, the higher the better:

- a TREC run (.run, .trec or .txt): lines of request id, Q0, item id, rank,
  score and the run's name, of which rank and name are not read;
- Parquet of the columns `request_id`, `item_id` and `score`, a row each;
- Parquet that `instructrec score` wrote, of a scenario's own file of requests.

A name with a `*` is that of several files, the shards of one.

Request ids are those of a dataset folder's requests (`sequential-12`), item ids
the catalogue's own. As lines are split at white space, ids in a TREC file have
it, and "%", as URLs do (`%20`).
"""

import pathlib
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import polars as pl

from instructrec_jax import parquet, storage
from instructrec_jax.errors import InputError, check_file, read_number
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.records import Item, RankingRequest
from instructrec_jax.scoring.stream import REQUESTS_KEY

FOLDER = "trec"
SUFFIXES = (".run", ".trec", ".txt", ".parquet")
_COLUMNS = ("request_id", "item_id", "score")
_AGAIN = "write it again with `instructrec score`"


def is_run(name: str) -> bool:
  """Whether a ranker's name is that of a file."""
  return pathlib.PurePath(name).suffix in SUFFIXES


class RunRanker:
  """Another tool's scores as a ranker.

  Candidates that the run does not list are tied behind those that it does, as
  a run of the best items alone has it.

  Attributes:
    path: of the file.
    name: the file's name.
    candidates: how many were scored since `start`.
    missing: how many of these the run does not list.
  """

  def __init__(self, path: pathlib.Path, items: Sequence[Item]):
    """Reads a file; `items` are the catalogue.

    Raises:
      InputError: it is missing, no run, lists an item of a request twice, or
        none of the catalogue.
    """
    self.name = path.name
    self.start()
    self.path = path
    read = _read_parquet if path.suffix == ".parquet" else _read_trec
    frame = pl.concat(map(read, _files(path)))
    if not frame.height:
      raise InputError(f"{path}: it has no scores.")
    twice = frame.select("request_id", "item_id").is_duplicated()
    if twice.any():
      request, item, _ = frame.row(int(twice.arg_max() or 0))
      raise InputError(
        f"{path}: request {request!r:.80} has two scores of the item "
        f"{item!r:.80}: give each one."
      )
    self._requests = set(frame["request_id"].unique())
    numbers = pl.DataFrame(
      {
        "item_id": [item.item_id for item in items],
        "item": np.arange(len(items), dtype=np.int32),
      }
    )
    known = frame.join(numbers, on="item_id", how="inner")
    if not known.height:
      raise InputError(
        f"{path}: none of its items, such as {frame['item_id'][0]!r:.80}, is "
        "in the catalogue; the item ids of items.parquet are expected."
      )
    known = known.sort("request_id", "item")
    bounds = known.group_by("request_id", maintain_order=True).len()
    ends = bounds["len"].cum_sum().to_list()
    starts = [0, *ends[:-1]]
    self._places = dict(
      zip(bounds["request_id"], zip(starts, ends, strict=True), strict=True)
    )
    self._items = known["item"].to_numpy()
    self._scores = known["score"].to_numpy()

  def covers(self, requests: Iterable[RankingRequest]) -> bool:
    """Whether it has scores of requests: of all of them, or of none.

    Raises:
      InputError: it has some.
    """
    ids = [request.request_id for request in requests]
    lacking = [name for name in ids if name not in self._requests]
    if lacking and len(lacking) < len(ids):
      raise InputError(
        f"{self.path}: no scores of {len(lacking):,} of {len(ids):,} requests, "
        f"such as {lacking[0]!r:.80}: a run ranks all of a scenario, or none."
      )
    return not lacking

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns the run's scores; below them all for those that it lacks."""
    return list(map(self._score, requests))

  def start(self) -> None:
    """Starts to count anew."""
    self.candidates, self.missing = 0, 0

  def _score(self, request: RankingRequest) -> np.ndarray:
    start, end = self._places.get(request.request_id, (0, 0))
    items, scores = self._items[start:end], self._scores[start:end]
    wanted = np.array(request.candidate_items, np.int32)
    self.candidates += len(wanted)
    if not len(items):
      self.missing += len(wanted)
      return np.zeros(len(wanted))
    places = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
    found = items[places] == wanted
    self.missing += int((~found).sum())
    # One step lower than any: minus infinity is no score that can be compared.
    return np.where(found, scores[places], np.nextafter(scores.min(), -np.inf))


class ScoresRanker(RunRanker):
  """What `score` wrote as a ranker: a score of each candidate, in their order.

  Attributes:
    requests_sha256: of the file of requests that it is of.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the files; raises InputError if they are of several requests."""
    self.name = path.name
    self.start()
    self.path = path
    columns = {"request_id": str, "scores": [float]}
    files = _files(path)
    frames = [parquet.read(f, columns, remedy=_AGAIN) for f in files]
    frame = pl.concat(frames, how="vertical_relaxed")  # of any width of floats
    known = {
      parquet.metadata(file, remedy=_AGAIN).get(REQUESTS_KEY) for file in files
    }
    if len(known) > 1 or None in known:
      raise InputError(
        f"{path}: it does not say what requests these are scores of, or they "
        f"are of several: {_AGAIN}."
      )
    (self.requests_sha256,) = known
    if frame["request_id"].is_duplicated().any():
      raise InputError(f"{path}: a request has scores twice: name each once.")
    ends = np.cumsum(frame["scores"].list.len().to_numpy()).tolist()
    bounds = zip([0, *ends], ends, strict=False)
    self._places = dict(zip(frame["request_id"], bounds, strict=True))
    self._requests = set(self._places)
    scores = frame["scores"].explode(empty_as_null=False)
    self._scores = scores.to_numpy()
    if not np.isfinite(self._scores).all():
      raise InputError(f"{path}: a score is no finite number: {_AGAIN}.")

  def _score(self, request: RankingRequest) -> np.ndarray:
    start, end = self._places[request.request_id]
    self.candidates += end - start
    if end - start != len(request.candidate_items):
      raise InputError(
        f"{self.path}: request {request.request_id!r:.80} has {end - start} "
        f"scores, and {len(request.candidate_items)} candidates: {_AGAIN}."
      )
    return self._scores[start:end]


def read_run(path: pathlib.Path, items: Sequence[Item]) -> RunRanker:
  """Reads a run of any kind; raises InputError as these do."""
  if path.suffix == ".parquet":
    if "scores" in parquet.columns(_files(path)[0], remedy=_AGAIN):
      return ScoresRanker(path)
  return RunRanker(path, items)


class RunWriter:
  """Writes a scenario's candidates and rankings for trec_eval and its like.

  FOLDER/SCENARIO.qrels has all candidates, 1 for the target and 0 for others;
  FOLDER/SCENARIO.RANKER.run the scores of one ranker. Where a ranker ties,
  tools break ties by item id, and do not take the mean over orders as we do.
  """

  def __init__(
    self, folder: pathlib.Path, scenario: Scenario, items: Sequence[Item]
  ):
    """Starts the files; `items` are the catalogue."""
    folder.mkdir(parents=True, exist_ok=True)
    self._prefix = folder / scenario.name
    self._ids = [_quoted(item.item_id) for item in items]
    self._files: dict[str, IO[str]] = {}

  def close(self) -> None:
    """Closes the files."""
    for file in self._files.values():
      file.close()

  def add_requests(self, requests: Sequence[RankingRequest]) -> None:
    """Writes the candidates of a batch."""
    file = self._file("qrels")
    for request in requests:
      name = _quoted(request.request_id)
      file.writelines(
        f"{name} 0 {self._ids[item]} {int(place == request.target)}\n"
        for place, item in enumerate(request.candidate_items)
      )

  def add(
    self,
    ranker: str,
    requests: Sequence[RankingRequest],
    scores: Sequence[np.ndarray],
  ) -> None:
    """Writes the scores of a batch, the best of a request first."""
    file = self._file(f"{ranker}.run")
    for request, of_request in zip(requests, scores, strict=True):
      name = _quoted(request.request_id)
      order = np.argsort(-of_request, kind="stable").tolist()
      file.writelines(
        f"{name} Q0 {self._ids[request.candidate_items[place]]} {rank} "
        f"{float(of_request[place])!r} {_quoted(ranker)}\n"
        for rank, place in enumerate(order, start=1)
        # Below the top of a catalogue, nothing is known of the rest.
        if np.isfinite(of_request[place])
      )

  def _file(self, suffix: str) -> IO[str]:
    if suffix not in self._files:
      path = f"{self._prefix}.{suffix}"
      self._files[suffix] = open(path, "w", encoding="utf-8")  # noqa: SIM115
    return self._files[suffix]


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a run's name; InputError if there is none."""
  if files := storage.matching(path):
    return files
  raise InputError(f"{path}: there is no such file.")


def _quoted(name: str) -> str:
  """Returns an id without white space."""
  if not any(c.isspace() or c == "%" for c in name):
    return name
  return "".join(
    urllib.parse.quote(c) if c.isspace() or c == "%" else c for c in name
  )


def _read_trec(path: pathlib.Path) -> pl.DataFrame:
  check_file(path)
  requests, items, scores = [], [], []
  try:
    with path.open(encoding="utf-8") as file:
      for number, line in enumerate(file, start=1):
        cells = line.split()
        if not cells:
          continue
        try:
          request, _, item, _, score, _ = cells
          value = read_number(score)
        except ValueError:
          raise InputError(
            f"{path}, line {number}: {line.strip()!r:.80}, but six columns are "
            "expected: request id, Q0, item id, rank, score, name."
          ) from None
        requests.append(urllib.parse.unquote(request))
        items.append(urllib.parse.unquote(item))
        scores.append(value)
        if not np.isfinite(value):
          raise InputError(
            f"{path}, line {number}: the score {score} is no finite number."
          )
  except UnicodeDecodeError:
    raise InputError(f"{path}: no TREC run: it is not UTF-8.") from None
  return pl.DataFrame(
    dict(zip(_COLUMNS, (requests, items, scores), strict=True)),
    schema={"request_id": str, "item_id": str, "score": float},
  )


def _read_parquet(path: pathlib.Path) -> pl.DataFrame:
  remedy = f"a run has the columns {', '.join(_COLUMNS)}"
  frame = parquet.read(path, dict.fromkeys(_COLUMNS), remedy=remedy)
  for name, dtype in frame.schema.items():
    is_number = name == "score" and dtype.is_numeric()
    is_id = name != "score" and (dtype.is_integer() or dtype == pl.String)
    if not (is_number or is_id) or frame[name].null_count():
      raise InputError(f"{path}: the column {name} is of {dtype}: {remedy}.")
  frame = frame.select(
    pl.col("request_id", "item_id").cast(pl.String),
    pl.col("score").cast(pl.Float64),
  )
  if not frame["score"].is_finite().all():
    raise InputError(f"{path}: a score is no finite number.")
  return frame
