"""Tests for instructrec_jax/scoring/beam.py."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

beam = pytest.importorskip("apache_beam", reason="Apache Beam is not installed")

from apache_beam.ml.inference.base import RunInference  # noqa: E402
from apache_beam.runners.portability.fn_api_runner import (  # noqa: E402
  FnApiRunner,
)

from instructrec_jax.errors import InputError  # noqa: E402
from instructrec_jax.requests import (  # noqa: E402
  read_requests,
  write_requests,
)
from instructrec_jax.scoring import stream  # noqa: E402
from instructrec_jax.scoring.beam import RankerHandler  # noqa: E402


def test_scores_are_those_of_one_process(tmp_path, model_dir, requests):
  path = tmp_path / "requests.parquet"
  write_requests(path, requests)
  alone = tmp_path / "alone.parquet"
  stream.score_file(
    requests=path, model=model_dir, out=alone, normalisation="mean"
  )
  handler = RankerHandler(
    model_dir, normalisation="mean", min_batch_size=2, max_batch_size=16
  )
  with beam.Pipeline(runner=FnApiRunner()) as pipeline:
    _ = (
      pipeline
      | beam.Create([path])
      | beam.FlatMap(read_requests)
      | RunInference(handler)
      | beam.Map(json.dumps)
      | beam.io.WriteToText(f"{tmp_path}/scores.jsonl", shard_name_template="")
    )
  lines = (tmp_path / "scores.jsonl").read_text().splitlines()
  found = {row["request_id"]: row for row in map(json.loads, lines)}
  assert len(found) == len(lines) == len(requests)
  for row in pq.read_table(alone).to_pylist():
    other = found[row["request_id"]]
    assert other.pop("normalisation") == "mean"
    assert other.keys() == row.keys()
    np.testing.assert_allclose(other["scores"], row["scores"], rtol=1e-5)
    assert other["ranks"] == row["ranks"]
    assert other["target_rank"] == row["target_rank"]


def test_a_wrong_normalisation_is_refused_at_once(model_dir):
  with pytest.raises(InputError, match="normalisation"):
    RankerHandler(model_dir, normalisation="sums")
