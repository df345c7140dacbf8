"""Answering a file of requests: any number, bounded memory, resumable."""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from instructrec_jax import mesh as mesh_lib
from instructrec_jax import storage
from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.generation.generator import Answer, Decoding, Generator
from instructrec_jax.progress import progress
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring import stream

if TYPE_CHECKING:
  import pyarrow as pa

# Requests that are answered, and stored, together.
CHUNK = 1024


def generate_file(
  *,
  requests: pathlib.Path,
  model: pathlib.Path,
  out: pathlib.Path,
  decoding: Decoding,
  titles: Sequence[str] = (),
  step: int | str | None = None,
  limit: int | None = None,
  batch: int = 16,
  chunk: int = CHUNK,
  vocabulary: pathlib.Path | None = None,
  force: bool = False,
) -> int:
  """Answers every request of a file; returns how many.

  Finished chunks are kept as `scoring.stream.score_file` keeps them.

  Args:
    requests: .parquet or .jsonl; see `requests.read_requests`. Candidates are
      not needed, and not read.
    model: a folder of `train` or `export`, or a checkpoint of T5X.
    out: .parquet or .jsonl of request_id and, the best answer first, texts,
      log_likelihoods, scores and is_whole; see `generator.Answer`.
    decoding: how.
    titles: the only answers, if there are any.
    step: a checkpoint's number or "best"; the latest if None.
    limit: only the first so many requests.
    batch: requests at a time on a device.
    chunk: requests between two savings.
    vocabulary: of a checkpoint of T5X; that of the dataset folder that the
      requests are in if None.
    force: replace `out` if it exists.

  Raises:
    InputError: `out` exists, a request or an option is wrong, or there is no
      such model.
  """
  requests, model, out = map(pathlib.Path, (requests, model, out))
  check_counts(batch=batch, chunk=chunk)
  if limit is not None:
    check_counts(limit=limit)
  if out.suffix not in (".parquet", ".jsonl"):
    raise InputError(f"{out}: answers are written to .parquet or .jsonl files.")
  parts = stream.parts_of(out)
  stream.refuse_other_parts(parts)
  with storage.output_file(
    out,
    force=force,
    is_ours=functools.partial(
      stream.has_columns, names=("request_id", "texts", "is_whole")
    ),
    inputs=(requests, model),
    leaves=(parts.with_suffix(".done"),),
  ):
    # A bad line is told before hours of decoding.
    total = sum(1 for _ in _read(requests, limit))
    if not total:
      raise InputError(f"{requests}: there is no request in it.")
    vocabulary = vocabulary or stream.vocabulary_beside(requests)
    identity, found = stream.identity_of(model, step, vocabulary)
    generator = Generator.load(
      model,
      step=found,
      vocabulary=vocabulary,
      titles=titles,
      mesh=mesh_lib.make_mesh(),
      batch=batch,
    )
    for name, instruction in _read(requests, limit):
      generator.check(
        instruction, f"{requests}: the instruction of {name!r:.80}"
      )
    stream.recover_parts(parts)
    stream.open_parts(
      parts,
      {
        "requests": storage.sha256_of(requests),
        **identity,
        **dataclasses.asdict(decoding),
        "titles": hashlib.sha256("\n".join(titles).encode()).hexdigest(),
        "limit": limit,
        "batch": batch,
        "chunk": chunk,
      },
    )
    try:
      _answer_all(requests, parts, generator, decoding, limit, chunk, total)
    except InputError:
      # Another file of requests will come, to which these parts do not belong.
      shutil.rmtree(parts)
      raise
    with stream.closed_parts(parts, out) as partial:
      stream.join_parts({parts: total}, partial, _schema())
  return total


def _read(
  requests: pathlib.Path, limit: int | None
) -> Iterator[tuple[str, str]]:
  found = read_requests(requests, limit=limit, needs_candidates=False)
  return ((request.request_id, request.instruction) for request in found)


def _answer_all(
  requests: pathlib.Path,
  parts: pathlib.Path,
  generator: Generator,
  decoding: Decoding,
  limit: int | None,
  chunk: int,
  total: int,
) -> None:
  members = _read(requests, limit)
  first = 0
  with progress(total=total, desc="generate", unit="request") as bar:
    while of_chunk := list(itertools.islice(members, chunk)):
      part = parts / f"{first // chunk:06d}.jsonl"
      if not part.exists():
        answers = generator.generate(
          [instruction for _, instruction in of_chunk],
          decoding,
          numbers=range(first, first + len(of_chunk)),
        )
        with storage.staged_file(part) as partial:
          _write_part(partial, [name for name, _ in of_chunk], answers)
      first += len(of_chunk)
      bar.update(len(of_chunk))


def _write_part(
  path: pathlib.Path,
  names: Sequence[str],
  answers: Sequence[tuple[Answer, ...]],
) -> None:
  with path.open("w", encoding="utf-8") as file:
    for name, of_request in zip(names, answers, strict=True):
      line: dict[str, Any] = {
        "request_id": name,
        "texts": [answer.text for answer in of_request],
        "log_likelihoods": [answer.log_likelihood for answer in of_request],
        "scores": [answer.score for answer in of_request],
        "is_whole": [answer.is_whole for answer in of_request],
      }
      file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _schema() -> "pa.Schema":
  import pyarrow as pa

  return pa.schema(
    [
      ("request_id", pa.string()),
      ("texts", pa.list_(pa.string())),
      ("log_likelihoods", pa.list_(pa.float32())),
      ("scores", pa.list_(pa.float32())),
      ("is_whole", pa.list_(pa.bool_())),
    ]
  )
