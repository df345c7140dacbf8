"""Paired tests between two evaluations, or between two rankers of one.

Reads what `evaluate` keeps in the folders that it writes; see `scores`.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from instructrec_jax import parquet, storage
from instructrec_jax.errors import InputError, check_counts, check_seed
from instructrec_jax.evaluation.metrics import (
  RESAMPLES,
  auc,
  bootstrap_counts,
  bootstrap_means,
  bootstrap_pointwise,
  holm,
  metrics_of_ranks,
  paired_difference,
)
from instructrec_jax.evaluation.scores import FOLDER


def compare(
  a: pathlib.Path,
  b: pathlib.Path,
  *,
  rankers: tuple[str, str] | None = None,
  scenarios: Sequence[str] = (),
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Tests whether rankers differ on the same requests, by paired bootstrap.

  A ranker of a sample, as a chat model, is compared on its sample.

  Args:
    a: a folder of `evaluate`.
    b: another, or the same.
    rankers: the one of `a` and the one of `b`; None compares each ranker that
      both have with itself.
    scenarios: names; empty means all that both have.
    resamples: of the bootstrap over users.
    seed: of the bootstrap.

  Returns:
    A row for each scenario, pair and metric: "scenario", "metric", "a" and "b"
    (rankers), "difference" (b minus a), "low", "high" (its 95% interval), "p",
    "p_holm" (corrected for all rows by Holm's method) and "n".

  Raises:
    InputError: a folder or a name is missing, requests or candidates differ,
      or an argument is out of range.
  """
  a, b = pathlib.Path(a), pathlib.Path(b)
  check_counts(most=1_000_000, resamples=resamples)
  check_seed(seed)
  if rankers is None and a.resolve() == b.resolve():
    raise InputError(f"{a} does not differ from itself: name two rankers.")
  of_a, of_b = _scenarios(a), _scenarios(b)
  for path, found in ((a, of_a), (b, of_b)):
    for name in scenarios:
      if name not in found:
        raise InputError(
          f"{path}: there are no scores of {name!r}, but of {', '.join(found)}."
        )
  if rankers and rankers[0] == rankers[1] and a.resolve() == b.resolve():
    raise InputError(
      f"{rankers[0]} of {a} does not differ from itself: name two rankers."
    )
  chosen = [n for n in of_a if n in of_b and (not scenarios or n in scenarios)]
  if not chosen:
    raise InputError(f"{a} and {b} have no scenario in common.")
  rows = []
  for scenario in chosen:
    rows += _compare_scenario(
      of_a[scenario], of_b[scenario], rankers, resamples=resamples, seed=seed
    )
  if rankers and rankers[0] == rankers[1] and a.resolve() == b.resolve():
    raise InputError(f"{rankers[0]} does not differ from itself: name another.")
  if not rows:
    raise InputError(
      f"{a} and {b} have no scenario with {' and '.join(rankers or ())}."
      if rankers
      else f"{a} and {b} have no ranker in common."
    )
  for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
    row["p_holm"] = float(p)
  return rows


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the rows of `compare` as a Markdown table."""
  columns = (
    "scenario",
    "metric",
    "a",
    "b",
    "b - a",
    "95%",
    "p",
    "Holm's p",
    "n",
  )
  lines = [
    [
      row["scenario"],
      row["metric"].upper(),
      row["a"],
      row["b"],
      f"{row['difference']:+.4f}",
      f"{row['low']:+.4f} to {row['high']:+.4f}",
      f"{row['p']:.3f}",
      f"{row['p_holm']:.3f}",
      f"{row['n']:,}",
    ]
    for row in rows
  ]
  widths = [max(map(len, cells)) for cells in zip(columns, *lines, strict=True)]

  def line(cells: Sequence[str]) -> str:
    padded = [
      cell.ljust(width) if column < 4 else cell.rjust(width)
      for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"

  ruler = [
    "-" * width if column < 4 else "-" * (width - 1) + ":"
    for column, width in enumerate(widths)
  ]
  return "\n".join(map(line, (columns, ruler, *lines))) + "\n"


def _scenarios(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the files of scores by scenario, in the order of the results."""
  path = folder / "results.json"
  if not path.is_file():
    raise InputError(f"{folder}: no results.json of `instructrec evaluate`.")
  found = storage.read_json(path, {"scenarios": list})["scenarios"]
  names = [str(each.get("name")) for each in found if isinstance(each, dict)]
  paths = {name: folder / FOLDER / f"{name}.parquet" for name in names}
  found = {name: path for name, path in paths.items() if path.exists()}
  if not found:
    raise InputError(
      f"{folder / FOLDER}: no scores; `instructrec evaluate --out` keeps them."
    )
  return found


def _compare_scenario(
  a: pathlib.Path,
  b: pathlib.Path,
  rankers: tuple[str, str] | None,
  *,
  resamples: int,
  seed: int,
) -> Iterator[dict[str, Any]]:
  (of_a, scores_a), (of_b, scores_b) = _read(a), _read(b)
  if of_a["candidates_sha256"] != of_b["candidates_sha256"]:
    raise InputError(
      f"{a} and {b}: their requests or candidates differ, so they cannot be "
      "paired; evaluate both on the same dataset, split, --limit and --seed."
    )
  metrics = json.loads(of_a["metrics"])
  for name_a, name_b in [rankers] if rankers else [(n, n) for n in scores_a]:
    if name_a not in scores_a or name_b not in scores_b:
      continue
    first, second = scores_a[name_a], scores_b[name_b]
    if len(first) == len(second) == int(of_a["requests"]):
      # Ids of built requests differ from those of bare candidate lists.
      second = second.with_columns(first["request_id"])
    pairs = first.join(
      second, on="request_id", suffix="_b", maintain_order="left"
    )
    if pairs.is_empty():
      raise InputError(f"{a}: {name_a} and {name_b} have no request in common.")
    for metric, value, draws in _differences(
      pairs, metrics, resamples=resamples, seed=seed
    ):
      difference = paired_difference(value, draws)
      yield {
        "scenario": of_a["scenario"],
        "metric": metric,
        "a": name_a,
        "b": name_b,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
        "n": len(pairs),
      }


def _read(path: pathlib.Path) -> tuple[dict[str, str], dict[str, pl.DataFrame]]:
  """Returns the metadata, and by ranker what metrics follow from."""
  remedy = "not scores of `instructrec evaluate`, or damaged: evaluate again"
  metadata = parquet.metadata(path, remedy=remedy)
  found = metadata.get("metrics", "")
  if not {"scenario", "requests", "candidates_sha256"} <= metadata.keys() or (
    not (metadata["requests"].isdigit() and found.startswith("["))
  ):
    raise InputError(f"{path}: {remedy}.")
  # Of pointwise scenarios, whose metric is AUC, or of others.
  ranks = {"margin": float} if "auc" in found else {"above": int, "tied": int}
  columns = {"request_id": str, "ranker": str, "target": int} | ranks
  rows = parquet.read(path, columns, remedy=remedy)
  parts = rows.partition_by("ranker", as_dict=True, maintain_order=True)
  return metadata, {str(name): part for (name,), part in parts.items()}


def _differences(
  pairs: pl.DataFrame, metrics: Sequence[str], *, resamples: int, seed: int
) -> Iterator[tuple[str, float, np.ndarray]]:
  """Yields each metric, its difference b - a, and that of each resample."""
  if "margin" in pairs.columns:
    # AUC alone: calibration is of models whose margins are log odds.
    labels = (pairs["target"] == 0).cast(int).to_numpy()
    margins = pairs["margin"].to_numpy(), pairs["margin_b"].to_numpy()
    value = auc(margins[1], labels) - auc(margins[0], labels)
    draws = np.concatenate(
      [
        np.subtract(
          *(bootstrap_pointwise(m, labels, c)["auc"] for m in margins[::-1])
        )
        for c in bootstrap_counts(len(pairs), seed=seed, resamples=resamples)
      ]
    )
    # A resample of one label alone has no AUC.
    yield "auc", value, draws[~np.isnan(draws)]
    return
  first, second = (
    metrics_of_ranks(
      pairs[f"above{suffix}"].to_numpy(), pairs[f"tied{suffix}"].to_numpy()
    )
    for suffix in ("", "_b")
  )
  values_UxM = np.stack([second[m] - first[m] for m in metrics], axis=1)
  means_RxM = bootstrap_means(values_UxM, seed=seed, resamples=resamples)
  for metric, value, draws in zip(
    metrics, values_UxM.mean(0), means_RxM.T, strict=True
  ):
    yield metric, float(value), draws
