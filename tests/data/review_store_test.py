"""Tests for instructrec_jax/data/review_store.py."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data import review_store

BLOCKS = st.lists(
  st.lists(st.tuples(st.integers(0, 9), st.booleans())), min_size=1, max_size=9
)


@settings(deadline=None, max_examples=40)
@given(BLOCKS, st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 1000]))
def test_what_stays_comes_back_sorted(
  tmp_path_factory, blocks, users_of_a_file, piece, waiting
):
  folder = tmp_path_factory.mktemp("store")
  rows = [row for block in blocks for row in block]
  stays = [n for n, (_, kept) in enumerate(rows) if kept]
  # By user, and of each the latest first.
  order = sorted(stays, key=lambda n: (rows[n][0], -n))
  place = np.full(len(rows), -1, np.int32)
  place[order] = np.arange(len(order))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(review_store, "_USERS", users_of_a_file)
    patch.setattr(review_store, "_PIECE", piece)
    patch.setattr(review_store, "_WAITING_BYTES", waiting)
    with review_store.ReviewStore(folder / "files") as store:
      start = 0
      for block in blocks:
        texts = [f"text {start + n} é" for n in range(len(block))]
        start += len(block)
        frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
        store.add(frame, np.array([user for user, _ in block], np.int32))
      users = np.array([rows[n][0] for n in order], np.int32)
      pieces = list(store.sorted(place, users))
      assert all(0 < frame.height <= piece for frame in pieces)
      got = [text for frame in pieces for text in frame["text"]]
      assert got == [f"text {n} é" for n in order]
  assert not list(folder.iterdir())


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(review_store, "_WAITING_BYTES", 1)

  def fail(*_, **__):
    raise OSError(28, "No space left on device")

  with (
    pytest.raises(OSError, match="No space left"),
    review_store.ReviewStore(tmp_path / "files") as store,
  ):
    monkeypatch.setattr(review_store.pyarrow.ipc, "new_stream", fail)
    for _ in range(2):
      store.add(pl.DataFrame({"text": ["x"]}), np.zeros(1, np.int32))
  assert not list(tmp_path.iterdir())
