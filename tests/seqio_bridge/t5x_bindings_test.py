"""What gin/t5x checks for T5X."""

import jax
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.seqio_bridge.t5x_bindings import (
  initial_checkpoint,
  model_partitions,
)


def test_devices_that_divide_the_heads_pass(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 8)
  assert model_partitions(1, None, 32) == 1
  assert model_partitions(None, (1, 1, 1, 4), 4) is None
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert model_partitions(4, None, 4) == 4


def test_others_are_one_sentence(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 8)
  with pytest.raises(InputError, match=r"MODEL_SUBMESH=\"\(1, 4\)\""):
    model_partitions(1, None, 4)
  for partitions in (1, 4):
    with pytest.raises(InputError, match="over 8 devices .on a CPU.*4 heads"):
      model_partitions(partitions, None, 4)
  with pytest.raises(InputError, match=r"MODEL_SUBMESH=\"\(1, 1, 1, 2\)\""):
    model_partitions(None, (1, 1, 1, 4), 6)
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  with pytest.raises(InputError, match=r"pass --gin.MODEL_PARTITIONS=4\."):
    model_partitions(8, None, 12)


def test_an_initial_checkpoint_is_looked_for(tmp_path):
  for path in (None, "gs://bucket/checkpoint_3"):
    assert initial_checkpoint(path) == path
  with pytest.raises(InputError, match="INITIAL_CHECKPOINT_PATH is .*no check"):
    initial_checkpoint(str(tmp_path / "checkpoint_3"))
  (tmp_path / "checkpoint_3").mkdir()
  (tmp_path / "checkpoint_3" / "checkpoint").touch()
  path = str(tmp_path / "checkpoint_3")
  assert initial_checkpoint(path) == path
