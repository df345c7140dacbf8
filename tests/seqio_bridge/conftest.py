"""Two small shops, built once: one annotated, one without any words."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from instructrec_jax.data.prepare import prepare
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.teacher.annotate import annotate_offline

# SeqIO opens every task of a mixture, so a few families of each kind: rows
# that need nothing, a preference, a category, and both views of a review.
FAMILIES = (
  "p1_i0_t2",
  "p1_i0_t3",
  "p1_p2_i0_t3",
  "p0_i2_t3",
  "p1_i1_t3",
  "p1_i1star_t3",
  "p1_p2_turn_around",
)


def stored_rows(folder: pathlib.Path, split: str) -> list[dict]:
  """The rows of a split as plain TFDS reads them."""
  rows = tfds.load("instructrec/main", data_dir=folder, split=split)
  return list(tfds.as_numpy(rows))


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory):
  """Returns a function that prepares a shop without categories or reviews."""

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
def dataset(tmp_path_factory) -> pathlib.Path:
  """A built and annotated dataset folder of 40 users."""
  path = tmp_path_factory.mktemp("annotated") / "data"
  prepare(out=path, format="synthetic", users=40, min_count=0)
  annotate_offline(path)
  build(path, train_vocabulary_size=400, options=Options(families=FAMILIES))
  return path


@pytest.fixture(scope="session")
def bare_dataset(make_dataset) -> pathlib.Path:
  """One of 25 users, built with all families, that has words for none."""
  path = make_dataset(25)
  build(path, train_vocabulary_size=300)
  return path
