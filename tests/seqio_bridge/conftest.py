"""Two small shops, prepared and built once."""

import pathlib

import numpy as np
import pytest

from instructrec_jax.data.prepare import prepare
from instructrec_jax.seqio_bridge.build import build


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory):
  """Returns a function that prepares a shop of so many users."""

  def make(users: int) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(users)
    (folder / "items.csv").write_text(
      "item_id,title,categories\n"
      + "".join(f'i{n},"Lamp {n}, red",Home\n' for n in range(130))
    )
    (folder / "interactions.csv").write_text(
      "user_id,item_id,timestamp\n"
      + "".join(
        f"u{user},i{item},{time}\n"
        for user in range(users)
        for time, item in enumerate(rng.permutation(130)[:8])
      )
    )
    prepare(
      out=folder / "data",
      format="csv",
      interactions=folder / "interactions.csv",
      items=folder / "items.csv",
      min_count=0,
    )
    return folder / "data"

  return make


@pytest.fixture(scope="session")
def dataset(make_dataset) -> pathlib.Path:
  """A built dataset folder of 40 users."""
  path = make_dataset(40)
  build(path, train_vocabulary_size=300)
  return path


@pytest.fixture(scope="session")
def other_dataset(make_dataset) -> pathlib.Path:
  """Another one, of 25 users."""
  path = make_dataset(25)
  build(path, train_vocabulary_size=400)
  return path
