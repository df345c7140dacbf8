"""Scoring a file of requests: any number, bounded memory, resumable."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instructrec_jax import locks, storage
from instructrec_jax import mesh as mesh_lib
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.errors import InputError, check_counts, check_file
from instructrec_jax.progress import progress
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.scoring.reranker import T5Ranker, find_t5x
from instructrec_jax.workers import ahead

if TYPE_CHECKING:
  import pyarrow as pa

# Requests that are scored, and stored, together, unless they have so many
# candidates that memory would not be bounded.
CHUNK = 8192
_CANDIDATES_AT_ONCE = 1 << 17
_MOST_SHARDS = 10_000
# In a folder of parts: what they are of, and that a shard's are all there.
_RUN = "run.json"
_WHOLE = "whole.json"
# Of what is in it, finished or not.
_PART = re.compile(
  r"(\d{6,}|\.\d{6,}\.partial)\.jsonl|\.?(run|whole)(\.partial)?\.json"
)
_COLUMNS = ("request_id", "scores", "ranks", "target_rank")
REQUESTS_KEY = "requests_sha256"
"""Of the metadata of Parquet with scores: the file of requests they are of."""


def score_file(
  *,
  requests: pathlib.Path,
  model: pathlib.Path,
  out: pathlib.Path,
  step: int | str | None = None,
  limit: int | None = None,
  batch_tokens: int | None = None,
  normalisation: str = Normalisation.SUM,
  chunk: int = CHUNK,
  vocabulary: pathlib.Path | None = None,
  shard: tuple[int, int] | None = None,
  force: bool = False,
) -> int:
  """Scores every request of a file, or a shard of them; returns how many.

  Finished chunks are kept in a hidden folder beside `out` until all are, so
  that a killed run goes on where it was and ends with the same bytes. They are
  used again only for the same requests, model and options.

  Shards are for processes that share the folder of `out`, and nothing else.
  Each keeps its chunks in a hidden folder of its own, and the one that finds
  all others finished writes `out`, with the bytes that one process writes.

  Args:
    requests: .parquet or .jsonl; see `requests.read_requests`.
    model: a folder of `train` or `export`, or a checkpoint of T5X.
    out: .parquet or .jsonl of request_id, scores, ranks and target_rank, in
      the order of the requests; scores are log-likelihoods, normalised. It
      names the normalisation: in Parquet's metadata, or on each line.
    step: a checkpoint's number or "best"; the latest if None.
    limit: only the first so many requests.
    batch_tokens: about the most tokens that a device computes at a time; what
      suits the backend if None.
    normalisation: of the scores; see `normalisation.Normalisation`.
    chunk: requests between two savings; fewer where they are long.
    vocabulary: of a checkpoint of T5X, which has none with it; that of the
      dataset folder that the requests are in if None.
    shard: a number from 1 and how many there are; None for all requests.
    force: replace `out` if it exists, and drop what an unfinished run with
      another normalisation has scored.

  Raises:
    InputError: `out` exists or is begun with another normalisation, a request
      or an option is wrong, or there is no such model.
  """
  requests, model, out = map(pathlib.Path, (requests, model, out))
  options = {"limit": limit, "batch_tokens": batch_tokens, "chunk": chunk}
  check_counts(**{n: v for n, v in options.items() if v is not None})
  normalisation = Normalisation.parse(normalisation)
  if out.suffix not in (".parquet", ".jsonl"):
    raise InputError(f"{out}: scores are written to .parquet or .jsonl files.")
  guard = functools.partial(
    storage.output_file,
    out,
    force=force,
    is_ours=functools.partial(has_columns, names=_COLUMNS),
    inputs=(requests, model),
  )
  score = functools.partial(
    _score_parts,
    *(requests, model, step, options, normalisation),
    vocabulary=vocabulary or vocabulary_beside(requests),
    force=force,
  )
  if shard is not None:
    return _score_shard(requests, out, shard, normalisation, guard, score)
  refuse_other_parts(parts_of(out))
  with guard(leaves=(_done(parts_of(out)),)):
    recover_parts(parts_of(out))
    total = score(parts_of(out))
    with closed_parts(parts_of(out), out) as partial:
      schema = scores_schema(requests, normalisation)
      join_parts({parts_of(out): total}, partial, schema)
      tied = _ties([parts_of(out)])
      _remove_unjoined(out, [parts_of(out)])
  _tell_ties(requests, *tied)
  return total


def _score_shard(
  requests: pathlib.Path,
  out: pathlib.Path,
  shard: tuple[int, int],
  normalisation: Normalisation,
  guard: Callable[..., contextlib.AbstractContextManager[None]],
  score: Callable[..., int],
) -> int:
  """Scores a shard, and writes `out` if all others are finished."""
  number, count = shard
  if not 1 <= number <= count <= _MOST_SHARDS:
    raise InputError(
      f"the shard is {number} of {count}: a number from 1 to that of the "
      f"shards, at most {_MOST_SHARDS:,}, is needed."
    )
  folders = [shard_parts(out, (each, count)) for each in range(1, count + 1)]
  own = folders[number - 1]
  for folder in folders:
    refuse_other_parts(folder)
  # Shards that begin or end at once wait for each other, and not for a run
  # without shards, which may take hours.
  meeting = functools.partial(
    locks.writing, out.with_name(f"{out.name}.shards"), wait=True
  )
  with locks.writing(own):
    with meeting(), guard(leaves=[_done(folder) for folder in folders]):
      if out.exists():
        # It is to be replaced, and what made it is of no more use.
        shutil.rmtree(_done(own), ignore_errors=True)
      else:
        # A run was killed when it had joined all.
        for folder in folders:
          recover_parts(folder)
    total = score(own, shard=shard)
    storage.write_json(own / _WHOLE, {"requests": total})
  # One that ends just now may have joined this, too.
  with meeting():
    if not all(os.path.lexists(folder / _WHOLE) for folder in folders):
      return total
    if not all(map(_is_at_rest, folders)):
      # One is scored once more, or just done, and joins when it ends.
      return total
    begun = [_read_run(folder) for folder in folders]
    own_run = begun[number - 1]
    if other := [n for n, each in enumerate(begun, 1) if each != own_run]:
      raise InputError(
        f"{folders[other[0] - 1]}: shard {other[0]} of {count} is of other "
        f"requests, another model or other options than shard {number}, this "
        "one: score the wrong one again as the others."
      )
    counts = {
      folder: storage.read_json(folder / _WHOLE, {"requests": int})["requests"]
      for folder in folders
    }
    with guard(), storage.staged_file(out) as partial:
      join_parts(counts, partial, scores_schema(requests, normalisation))
      tied = _ties(folders)
      _remove_unjoined(out, folders)
      for folder in folders:
        os.replace(folder, _done(folder))
    for folder in folders:
      shutil.rmtree(_done(folder))
  _tell_ties(requests, *tied)
  return total


def _score_parts(
  requests: pathlib.Path,
  model: pathlib.Path,
  step: int | str | None,
  options: dict[str, Any],
  normalisation: Normalisation,
  parts: pathlib.Path,
  *,
  vocabulary: pathlib.Path | None,
  force: bool,
  shard: tuple[int, int] = (1, 1),
) -> int:
  """Scores what is not yet in `parts`; returns how many requests it has."""
  limit, chunk = options["limit"], options["chunk"]

  def chunks(of: Iterable[RankingRequest]) -> Iterator[list[RankingRequest]]:
    return _chunks(of, chunk)

  # A bad line is told before hours of scoring: 50 us a request.
  checked = progress(
    read_requests(requests, limit=limit), "requests", unit="request"
  )
  sizes = [len(members) for members in chunks(checked)]
  if not sizes:
    raise InputError(f"{requests}: there is no request in it.")
  number, count = shard
  own = range(len(sizes) * (number - 1) // count, len(sizes) * number // count)
  total = sum(sizes[each] for each in own)
  identity, step = identity_of(model, step, vocabulary)
  fingerprint = {
    "requests": storage.sha256_of(requests),
    **identity,
    **options,
    "candidates_at_once": _CANDIDATES_AT_ONCE,
    "normalisation": normalisation,
  }
  if not force:
    _check_normalisation(parts, fingerprint)
  ranker = T5Ranker.load(
    model,
    step=step,
    mesh=mesh_lib.make_mesh(),
    batch_tokens=options["batch_tokens"],
    normalisation=normalisation,
    vocabulary=vocabulary,
  )
  open_parts(parts, fingerprint)

  def part_of(each: int) -> pathlib.Path:
    return parts / f"{each:06d}.jsonl"

  def prepared() -> Iterator[tuple[int, list[RankingRequest], Any]]:
    for each, members in enumerate(
      chunks(read_requests(requests, limit=limit))
    ):
      if each >= own.stop:
        return
      if each not in own or part_of(each).exists():
        # Shapes follow from all that came before.
        yield each, members, ranker.plan(members)
      else:
        yield each, members, ranker.prepare(members)

  # Read and tokenised in a thread while the device computes the last chunk.
  stream = ahead(prepared()) if ranker.prepares_ahead else prepared()
  try:
    with progress(total=total, desc="score", unit="request") as bar:
      for each, members, ready in stream:
        if ready:
          with storage.staged_file(part_of(each)) as partial:
            scores = ranker.score(members, ready)
            _write_part(partial, members, scores, normalisation)
        bar.update(len(members) if each in own else 0)
  except InputError:
    # Another file of requests will come, to which these parts do not belong.
    shutil.rmtree(parts)
    raise
  return total


def _tell_ties(requests: pathlib.Path, tied: int, first: str) -> None:
  if tied:
    print(
      f"{requests}: {tied:,} requests, {first!r:.80} the first, have "
      "candidates of the same score, such as those that the model reads as the "
      "same text: they share a rank.",
      file=sys.stderr,
    )


def parts_of(out: pathlib.Path) -> pathlib.Path:
  """Returns the folder of what an unfinished run has finished."""
  return out.with_name(f".{out.name}.parts")


def shard_parts(out: pathlib.Path, shard: tuple[int, int]) -> pathlib.Path:
  """Returns the folder of what a shard has finished, until all are joined."""
  number, count = shard
  return parts_of(out.with_name(f"{out.name}.{number}-of-{count}"))


def identity_of(
  model: pathlib.Path, step: int | str | None, vocabulary: pathlib.Path | None
) -> tuple[dict[str, Any], int | str | None]:
  """Tells this checkpoint from any other, at little cost.

  Returns:
    What it is known by, and the step to load it with: that of a checkpoint of
    T5X stays as it is, since one that is named itself has none.

  Raises:
    InputError: there is no such model or step.
  """
  if foreign := find_t5x(model, step):
    return _identity_of_t5x(model, foreign.step, vocabulary), step
  model_folder.load_config(model)
  found = model_folder.find_step(model, step)
  return _identity(model, found), found


def _done(parts: pathlib.Path) -> pathlib.Path:
  """Returns what a folder of parts is called when all is joined."""
  return parts.with_suffix(".done")


def refuse_other_parts(parts: pathlib.Path) -> None:
  """Raises InputError if what has the name of a folder of parts is none."""
  for folder in (parts, _done(parts)):
    if not _holds_parts(folder):
      raise InputError(
        f"{folder} has the name of unfinished work, and is none: move it away."
      )


def _holds_parts(folder: pathlib.Path) -> bool:
  if folder.is_symlink():
    return False
  try:
    return all(_PART.fullmatch(name) for name in os.listdir(folder))
  except FileNotFoundError:
    return True
  except NotADirectoryError:
    return False


def recover_parts(parts: pathlib.Path) -> None:
  """Takes back the parts of a run killed just before `out` was replaced."""
  done = _done(parts)
  if done.exists():
    shutil.rmtree(parts, ignore_errors=True)
    os.replace(done, parts)


def _is_at_rest(parts: pathlib.Path) -> bool:
  try:
    with locks.writing(parts):
      return True
  except InputError:
    return False


@contextlib.contextmanager
def closed_parts(
  parts: pathlib.Path, out: pathlib.Path
) -> Iterator[pathlib.Path]:
  """Yields the scratch file of `out`, made of the parts, which then go."""
  done = _done(parts)
  with storage.staged_file(out) as partial:
    yield partial
    os.replace(parts, done)
  shutil.rmtree(done)


def _remove_unjoined(out: pathlib.Path, joined: Sequence[pathlib.Path]) -> None:
  """Removes parts of `out` that are not `joined`, but those in use; and locks.

  Before `out` is there: then a run that is killed here is run again.
  """
  shard = rf"\.{re.escape(out.name)}(\.\d+-of-\d+)?\.(parts|done)"
  # A lock may be all that a killed run left.
  name = re.compile(rf"({shard})|\.({shard})\{locks.INSIDE}")
  matches = filter(None, (name.fullmatch(p.name) for p in out.parent.iterdir()))
  for folder in sorted({match[1] or match[4] for match in matches}):
    parts = out.with_name(folder)
    with contextlib.suppress(InputError), locks.writing(parts):
      if parts.exists() and parts not in joined and _holds_parts(parts):
        shutil.rmtree(parts)


def average_ranks(scores: np.ndarray) -> np.ndarray:
  """Returns each candidate's rank, 1 the best; ties share their average."""
  # Negated: the best first.
  ordered = np.sort(-scores)
  first, last = (
    np.searchsorted(ordered, -scores, side=side) for side in ("left", "right")
  )
  return (first + 1 + last) / 2


def has_columns(path: pathlib.Path, names: Iterable[str]) -> bool:
  """Whether a file has these columns, as .parquet or else as .jsonl."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    if path.suffix == ".parquet":
      found = pq.read_schema(path).names
    else:
      with path.open(encoding="utf-8") as file:
        found = list(json.loads(file.readline()))
  except (OSError, ValueError, TypeError, pa.ArrowException):
    return False
  return {*names} <= {*found}


def join_parts(
  counts: Mapping[pathlib.Path, int], out: pathlib.Path, schema: "pa.Schema"
) -> None:
  """Writes all parts one after the other, as the suffix of `out` says.

  Args:
    counts: by folder of parts, .jsonl files, how many lines these have.
    out: .jsonl, or .parquet of the schema.
    schema: of the columns that Parquet is to have.

  Raises:
    InputError: a part is damaged, or lines are missing.
  """
  import pyarrow.parquet as pq

  with contextlib.ExitStack() as opened:
    if out.suffix == ".jsonl":
      file = opened.enter_context(out.open("wb"))
    else:
      file = pq.ParquetWriter(out, schema, compression="zstd")
      opened.enter_context(file)
    for folder, count in counts.items():
      found = 0
      for part in _parts_in(folder):
        rows = _read_part(part, schema)
        found += rows.num_rows
        if isinstance(file, pq.ParquetWriter):
          file.write_table(rows)
        else:
          file.write(part.read_bytes())
      if found != count:
        raise InputError(
          f"{folder}: {found:,} requests are finished in it, where {count:,} "
          "were: delete the folder, and run the command that wrote it again."
        )


def _parts_in(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(folder.glob("*.jsonl"))


def _read_part(part: pathlib.Path, schema: "pa.Schema") -> "pa.Table":
  """Returns the columns of a schema; InputError if a line hasn't got them."""
  import pyarrow as pa

  check_file(part)
  try:
    with part.open(encoding="utf-8") as file:
      rows = [
        {n: row[n] for n in schema.names} for row in map(json.loads, file)
      ]
    return pa.Table.from_pylist(rows, schema=schema)
  except (ValueError, TypeError, KeyError, pa.ArrowException, RecursionError):
    raise InputError(
      f"{part}: what was finished is damaged: delete the file, and run the "
      "command that wrote it again."
    ) from None


def _identity(model: pathlib.Path, step: int) -> dict[str, Any]:
  files = (
    model / model_folder.CONFIG_FILE,
    model / model_folder.VOCABULARY_FILE,
    model_folder.identity_file(model, step),
  )
  return {
    "step": step,
    "files": [storage.sha256_of(path) for path in files],
  }


def _identity_of_t5x(
  model: pathlib.Path, step: int, vocabulary: pathlib.Path | None
) -> dict[str, Any]:
  folder = model / f"checkpoint_{step}"
  folder = folder if folder.is_dir() else model
  names = ("checkpoint", "_CHECKPOINT_METADATA", "state/_METADATA")
  files = [folder / name for name in names if (folder / name).is_file()]
  files += [vocabulary] if vocabulary and vocabulary.is_file() else []
  return {
    "step": step,
    # Orbax's metadata has no time of its own.
    "written": [path.stat().st_mtime_ns for path in files],
    "files": [storage.sha256_of(path) for path in files],
  }


def vocabulary_beside(requests: pathlib.Path) -> pathlib.Path | None:
  """Returns the vocabulary of the dataset folder that requests lie in."""
  path = requests.absolute().parent.parent / model_folder.VOCABULARY_FILE
  return path if path.is_file() else None


def _check_normalisation(
  parts: pathlib.Path, fingerprint: dict[str, Any]
) -> None:
  """Raises InputError if the parts differ in their normalisation alone."""
  begun = _read_run(parts) if (parts / _RUN).exists() else fingerprint
  other = begun.get("normalisation")
  if begun == {**fingerprint, "normalisation": other} != fingerprint:
    raise InputError(
      f"{parts}: a run with the normalisation {other} is unfinished: finish it "
      f"with --normalisation {other}, or pass --force to drop it."
    )


def open_parts(parts: pathlib.Path, fingerprint: dict[str, Any]) -> None:
  """Makes the folder of finished chunks, or keeps one of the same run."""
  path = parts / _RUN
  if path.exists() and _read_run(parts) == fingerprint:
    return
  if parts.exists():
    shutil.rmtree(parts)
  parts.mkdir(parents=True)
  storage.write_json(path, fingerprint)


def _read_run(parts: pathlib.Path) -> dict[str, Any]:
  """Returns the fingerprint of the run that parts are of."""
  begun = storage.read_json(parts / _RUN, dict)
  # Earlier versions have the model's path, which differs between hosts.
  begun.pop("model", None)
  return begun


def _write_part(
  path: pathlib.Path,
  requests: Sequence[RankingRequest],
  scores: Sequence[np.ndarray],
  normalisation: Normalisation,
) -> None:
  with path.open("w", encoding="utf-8") as file:
    for request, values in zip(requests, scores, strict=True):
      line = scored_line(request, values, normalisation)
      file.write(json.dumps(line) + "\n")


def scored_line(
  request: RankingRequest, scores: np.ndarray, normalisation: str
) -> dict[str, Any]:
  """Returns what is written of a request, and of scores for its candidates."""
  ranks = average_ranks(scores)
  return {
    "request_id": request.request_id,
    "normalisation": str(normalisation),
    "scores": scores.tolist(),
    "ranks": ranks.tolist(),
    "target_rank": None
    if request.target is None
    else float(ranks[request.target]),
  }


def scores_schema(requests: pathlib.Path, normalisation: str) -> "pa.Schema":
  """Returns that of Parquet with scores; it names what `evaluate` looks for."""
  import pyarrow as pa

  numbers = pa.list_(pa.float32())
  return pa.schema(
    [
      ("request_id", pa.string()),
      ("scores", numbers),
      ("ranks", numbers),
      ("target_rank", pa.float32()),
    ],
    metadata={
      "normalisation": str(normalisation),
      REQUESTS_KEY: storage.sha256_of(requests),
    },
  )


def _ties(folders: Iterable[pathlib.Path]) -> tuple[int, str]:
  """Counts requests with candidates of one score; and the first one's id."""
  count, first = 0, ""
  for part in itertools.chain.from_iterable(map(_parts_in, folders)):
    with part.open(encoding="utf-8") as file:
      for row in map(json.loads, file):
        if len(set(row["scores"])) < len(row["scores"]):
          first = first or row["request_id"]
          count += 1
  return count, first


def _chunks(
  requests: Iterable[RankingRequest], size: int
) -> Iterator[list[RankingRequest]]:
  members: list[RankingRequest] = []
  candidates = 0
  for request in requests:
    candidates += len(request.candidates)
    if len(members) == size or (members and candidates > _CANDIDATES_AT_ONCE):
      yield members
      members, candidates = [], len(request.candidates)
    members.append(request)
  if members:
    yield members
