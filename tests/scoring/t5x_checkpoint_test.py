"""Scoring a checkpoint of T5X in place; t5x_test.py compares with T5X."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from instructrec_jax.checkpoints.t5x_checkpoint import write_t5x
from instructrec_jax.checkpoints.weights import Weights, leaves_of
from instructrec_jax.cli.main import main
from instructrec_jax.requests import write_requests
from instructrec_jax.scoring.reranker import T5Ranker


@pytest.fixture
def run(tmp_path, config, params, vocabulary, requests):
  """A dataset folder's requests, and a T5X folder of two checkpoints."""
  path = tmp_path / "data" / "requests" / "sequential_test.parquet"
  path.parent.mkdir(parents=True)
  write_requests(path, requests)
  for step in (3, 12):
    weights = Weights(tmp_path, config, leaves_of(params), step=step)
    write_t5x(tmp_path / "run", weights, dtype="float32")
  shutil.copy(vocabulary.path, tmp_path / "data" / "vocabulary.model")

  def score(model, *more):
    out = tmp_path / "scores.parquet"
    status = main(
      ["score", "--requests", str(path), "--model", str(tmp_path / model)]
      + ["--out", str(out), *more]
    )
    return status or pq.read_table(out).to_pylist()

  return score


@pytest.mark.parametrize(
  ("model", "more"),
  [("run", ()), ("run", ("--step", "3")), ("run/checkpoint_12", ())],
)
def test_scores_are_those_of_the_same_parameters(
  run, model, more, config, params, vocabulary, requests
):
  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  expected = ranker.score(requests)
  for row, values in zip(run(model, *more), expected, strict=True):
    np.testing.assert_allclose(row["scores"], values, atol=1e-4)


def test_without_a_vocabulary_or_a_step_it_is_one_sentence(
  run, tmp_path, capsys
):
  assert run("run", "--step", "best") == 2
  assert "T5X's steps are numbers" in capsys.readouterr().err
  assert run("run", "--step", "4") == 2
  assert "there are 3, 12" in capsys.readouterr().err
  (tmp_path / "data" / "vocabulary.model").unlink()
  assert run("run") == 2
  assert "(--vocabulary)" in capsys.readouterr().err
  assert not (tmp_path / "scores.parquet").exists()
