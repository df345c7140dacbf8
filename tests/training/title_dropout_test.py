"""Tests for instructrec_jax/training/title_dropout.py."""

import json
import shutil

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.text import packed_dataset
from instructrec_jax.text.packed_dataset import pack_pairs
from instructrec_jax.text.vocabulary import EOS_ID, train_vocabulary
from instructrec_jax.training.batches import token_counts
from instructrec_jax.training.title_dropout import TitleDropout

TITLES = ("Alder Rope", "Borea Tent", "Corvo Kayak", "Fjord Stove")


def pack(pairs, vocabulary, out, manifest):
  return pack_pairs(
    pairs,
    vocabulary=vocabulary,
    out=out,
    encoder_length=128,
    decoder_length=32,
    manifest=manifest,
  )


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
  path = tmp_path_factory.mktemp("packed")
  texts = [*TITLES, "; ".join(TITLES), "a; a"] * 3
  vocabulary = train_vocabulary(texts, path / "vocabulary.model", size=60)
  pairs = [("; ".join(TITLES), TITLES[0]), ("", TITLES[1])] * 200
  manifest = {packed_dataset.SEPARATOR_KEY: "; "}
  return pack(pairs, vocabulary, path / "packed", manifest)


@pytest.fixture(scope="module")
def dropout(packed):
  found = TitleDropout.of(packed, rate=0.4, seed=3)
  assert found is not None
  return found


def dropped(packed, dropout, *, step=5, rows=None):
  rows = np.arange(16) if rows is None else rows
  return dropout.batch(packed.batch(rows), step=step, rows=rows)


def examples(batch):
  """Yields each example's tokens of the encoder, row by row."""
  for tokens, segments in zip(
    batch["encoder_input_tokens"], batch["encoder_segment_ids"], strict=True
  ):
    yield [
      tokens[segments == segment].tolist()
      for segment in range(1, segments.max() + 1)
    ]


def test_whole_titles_go_at_the_rate_and_nothing_else(packed, dropout):
  vocabulary = packed.vocabulary
  kept, all_of_them = 0, 0
  before = packed.batch(np.arange(16))
  after = dropped(packed, dropout)
  for old, new in zip(examples(before), examples(after), strict=True):
    assert len(old) == len(new)
    for history, left in zip(old, new, strict=True):
      assert history[-1] == left[-1] == EOS_ID
      titles = vocabulary.decode(history).split("; ")
      told = vocabulary.decode(left).rstrip("; ").split("; ")
      told = [title for title in told if title]
      # Each in its place, and none cut.
      assert [t for t in titles if t in told] == told
      kept += len(told)
      all_of_them += len([t for t in titles if t])
  share = kept / all_of_them
  assert abs(share - 0.6) < 4 * (0.24 / all_of_them) ** 0.5
  for name in before:
    if name.startswith("decoder"):
      np.testing.assert_array_equal(before[name], after[name])


def test_padding_is_behind_and_positions_count_what_is_left(packed, dropout):
  after = dropped(packed, dropout)
  real = after["encoder_input_tokens"] > 0
  assert (np.diff(real.astype(int), axis=1) <= 0).all()
  np.testing.assert_array_equal(real, after["encoder_segment_ids"] > 0)
  first = after["encoder_segment_ids"][:, 0] > 0
  assert (after["encoder_positions"][first, 0] == 0).all()
  assert (after["encoder_positions"][~real] == 0).all()


def test_it_depends_on_seed_step_and_place_alone(packed, dropout):
  whole = dropped(packed, dropout)["encoder_input_tokens"]
  rows = np.arange(8, 16)
  part = dropped(packed, dropout, rows=rows)["encoder_input_tokens"]
  np.testing.assert_array_equal(whole[8:], part)
  other = dropped(packed, dropout, step=6)["encoder_input_tokens"]
  assert not np.array_equal(whole, other)


def test_counts_are_of_what_is_left(packed, dropout):
  counts = token_counts(packed, 2, batch_size=8, seed=3, dropout=dropout)
  plain = token_counts(packed, 2, batch_size=8, seed=3)
  assert (counts[:, 0] <= plain[:, 0]).all()
  assert counts[:, 0].sum() < 0.9 * plain[:, 0].sum()
  np.testing.assert_array_equal(counts[:, 1], plain[:, 1])


def test_none_for_nothing(packed):
  assert TitleDropout.of(packed, rate=0.0, seed=0) is None


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "much"])
def test_refuses_a_rate_that_is_none(packed, rate):
  with pytest.raises(InputError, match="title_dropout"):
    TitleDropout.of(packed, rate=rate, seed=0)


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
  """Rows of prompts whose titles are one piece each."""
  path = tmp_path_factory.mktemp("instructions")
  vocabulary = train_vocabulary(
    [*TITLES, "bought by one", "choose from"],
    path / "vocabulary.model",
    size=60,
    whole=TITLES,
  )
  listed = "; ".join(TITLES)
  pairs = [(f"bought by one: {listed}. choose from: {listed}", TITLES[0])] * 300
  return pack(pairs, vocabulary, path / "packed", {})


def test_instructions_lose_titles_that_are_one_piece_and_no_words(instructions):
  vocabulary = instructions.vocabulary
  dropout = TitleDropout.of(instructions, rate=0.4, seed=3)
  rows = np.arange(32)
  before = instructions.batch(rows)
  after = dropped(instructions, dropout, rows=rows)
  titles = {vocabulary.encode_one(title)[0] for title in TITLES}
  assert len(titles) == len(TITLES)
  kept, all_of_them = 0, 0
  for old, new in zip(examples(before), examples(after), strict=True):
    for prompt, left in zip(old, new, strict=True):
      words = [token for token in prompt if token not in titles]
      assert [token for token in left if token not in titles] == words
      kept += len(left) - len(words)
      all_of_them += len(prompt) - len(words)
  assert all_of_them == 768
  share = kept / all_of_them
  assert abs(share - 0.6) < 4 * (0.24 / all_of_them) ** 0.5


def test_refuses_rows_that_have_other_titles(packed, tmp_path, monkeypatch):
  shutil.copytree(packed.path, tmp_path / "mixed")
  manifest = tmp_path / "mixed" / packed_dataset.MANIFEST_FILE
  found = json.loads(manifest.read_text())
  del found[packed_dataset.SEPARATOR_KEY]
  manifest.write_text(json.dumps(found))
  monkeypatch.setattr(packed_dataset.checksums, "verify", lambda *a, **k: None)
  mixed = packed_dataset.PackedDataset.open(tmp_path / "mixed")
  # Nor is any title one piece.
  with pytest.raises(InputError, match="TITLE_DROPOUT leaves titles out"):
    TitleDropout.of(mixed, rate=0.1, seed=0)
