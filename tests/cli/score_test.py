"""Tests for instructrec_jax/cli/score.py."""

import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.checkpoints.training_run import Checkpoints
from instructrec_jax.cli.main import main
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import train_vocabulary
from instructrec_jax.training.state import TrainState

LINES = [
  {"instruction": "a green tent", "candidates": ["tent", "rope", "tent"]},
  {"instruction": "a long rope", "candidates": ["kayak", "pump"], "target": 1},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
  """A tiny model with checkpoints of steps 1 and 2; 1 is the best."""
  path = tmp_path_factory.mktemp("model")
  texts = ["a green tent", "a long rope", "kayak pump tent rope"]
  vocabulary = train_vocabulary(texts, path / "vocabulary.model", size=40)
  config = T5Config(
    vocab_size=vocabulary.model_vocab_size,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
  )
  model_folder.save_config(path, config)
  checkpoints = Checkpoints(path, best_metric=model_folder.BEST_METRIC)
  for step, metric in ((1, 0.9), (2, 0.1)):
    params = parameters.initial_variables(config, seed=step)["params"]
    state = TrainState(
      step=jax.numpy.int32(step),
      params=params,
      optimizer_state=optax.sgd(0.1).init(params),
    )
    checkpoints.save(state, metrics={model_folder.BEST_METRIC: metric})
  checkpoints.close()
  return path


@pytest.fixture
def requests(tmp_path):
  path = tmp_path / "requests.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
  return path


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_scores_and_says_so(model_dir, requests, tmp_path, capsys):
  out = tmp_path / "scores.jsonl"
  arguments = ["score", "--requests", requests, "--model", model_dir]
  arguments = list(map(str, [*arguments, "--out", out]))
  assert main(arguments) == 0
  printed = capsys.readouterr()
  assert printed.out == f"{out}: scores of 2 requests\n"
  assert (
    "1 requests, '1' the first, have candidates of the same score"
    in printed.err
  )
  first, second = read(out)
  assert first["ranks"][0] == first["ranks"][2]
  assert first["target_rank"] is None
  assert second["target_rank"] == second["ranks"][1]

  assert main(arguments) == 2
  assert "--force" in capsys.readouterr().err
  assert main([*arguments, "--force", "--json", "--limit", "1"]) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed == {"requests": 1, "out": str(out)}
  assert read(out)[0]["request_id"] == first["request_id"]


def test_a_shard_says_whether_the_scores_are_written(
  model_dir, requests, tmp_path, capsys
):
  out = tmp_path / "scores.jsonl"
  arguments = ["score", "--requests", requests, "--model", model_dir]
  arguments = list(map(str, [*arguments, "--out", out]))
  for force in ((), ("--force",)):
    # With --force, the scores of before are there still.
    assert main([*arguments, "--shard", "1/2", *force]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"{out} is written when all shards are\n")
    assert main([*arguments, "--shard", "2/2", *force]) == 0
    said = capsys.readouterr().out
    assert said == f"2 requests of shard 2/2 are scored; {out} is written\n"
    assert len(read(out)) == 2


@pytest.mark.parametrize(
  ("step", "means"), [("best", 1), ("1", 1), ("2", 2), (None, 2)]
)
def test_the_step_chooses_the_checkpoint(
  model_dir, requests, tmp_path, step, means
):
  out = tmp_path / "scores.jsonl"
  arguments = ["--requests", requests, "--model", model_dir, "--out", out]
  arguments += [] if step is None else ["--step", step]
  assert main(["score", *map(str, arguments)]) == 0
  ranker = T5Ranker.load(model_dir, step=means)
  for row, values in zip(
    read(out), ranker.score(list(read_requests(requests))), strict=True
  ):
    np.testing.assert_allclose(row["scores"], values, rtol=1e-5)


@pytest.mark.parametrize("name", ["sum", "mean", "pmi"])
def test_the_scores_are_normalised_and_say_how(
  model_dir, requests, tmp_path, name
):
  out = tmp_path / "scores.jsonl"
  arguments = ["--requests", requests, "--model", model_dir, "--out", out]
  arguments += [] if name == "sum" else ["--normalisation", name]
  assert main(["score", *map(str, arguments)]) == 0
  ranker = T5Ranker.load(model_dir, normalisation=name)
  for row, values in zip(
    read(out), ranker.score(list(read_requests(requests))), strict=True
  ):
    assert row["normalisation"] == name
    np.testing.assert_allclose(row["scores"], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("option", "says"),
  [
    (("--step", "last"), "a number or best"),
    (("--step", "7"), "no checkpoint of step 7"),
    (("--limit", "0"), "limit is 0"),
    (("--requests", "nowhere.jsonl"), "no such file"),
  ],
)
def test_bad_input_is_one_sentence(
  model_dir, requests, tmp_path, capsys, option, says
):
  before = sorted(tmp_path.iterdir())
  arguments = ["--requests", requests, "--model", model_dir]
  arguments += ["--out", tmp_path / "scores.parquet", *option]
  assert main(["score", *map(str, arguments)]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and says in error
  assert sorted(tmp_path.iterdir()) == before


def test_the_tool_is_the_command(root):
  shown = subprocess.run(
    [sys.executable, root / "tools" / "score_batch.py", "--help"],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert "instructrec score" in shown
