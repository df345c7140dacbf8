"""Tests for instructrec_jax/baselines/kept_weights.py."""

import numpy as np
import pytest

from instructrec_jax import processes
from instructrec_jax.baselines import kept_weights
from instructrec_jax.baselines.kept_weights import load_or_fit

from .markov_chain import chain_folder, changed

WEIGHTS = {"layer": {"kernel": np.ones((2, 3), np.float32)}}


@pytest.fixture
def folder(tmp_path):
  return chain_folder(tmp_path, users=20)


def keep(folder, fit, *, options=None):
  return load_or_fit(folder, "any", options=options or {}, fit=fit)


def fit():
  return WEIGHTS, {"epochs": 3}


def never():
  raise AssertionError("fitted again")


def test_they_are_fitted_anew_only_for_other_data_or_options(folder):
  first = keep(folder, fit)
  again = keep(folder, never)
  for weights, report in (first, again):
    np.testing.assert_array_equal(
      weights["layer"]["kernel"], WEIGHTS["layer"]["kernel"]
    )
    assert report == {"epochs": 3}
  with pytest.raises(AssertionError, match="fitted again"):
    keep(folder, never, options={"width": 8})
  item = folder.sequences.user(0)[0]
  with pytest.raises(AssertionError, match="fitted again"):
    keep(changed(folder, 0, 0, item + 1), never)


def test_damaged_ones_are_fitted_anew(folder):
  keep(folder, fit)
  (folder.path / "baselines" / "any" / "weights.safetensors").write_bytes(b"")
  weights, _ = keep(folder, fit)
  np.testing.assert_array_equal(weights["layer"]["kernel"], np.ones((2, 3)))


def test_of_several_processes_the_first_fits_and_all_read(folder, monkeypatch):
  slept = []

  def sleep(seconds):
    """The first process is done only when the second has slept twice."""
    slept.append(seconds)
    if len(slept) == 2:
      with monkeypatch.context() as first:
        first.setattr(processes, "is_first", lambda: True)
        keep(folder, fit)

  monkeypatch.setattr(processes, "is_first", lambda: False)
  monkeypatch.setattr(kept_weights.time, "sleep", sleep)
  for _ in range(2):
    weights, report = keep(folder, never)
    assert report == {"epochs": 3}
    np.testing.assert_array_equal(weights["layer"]["kernel"], np.ones((2, 3)))
  assert len(slept) == 2
