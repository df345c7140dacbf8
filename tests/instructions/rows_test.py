import collections
import itertools

import numpy as np
import pytest

from instructrec_jax.data.candidates import draw_candidates, title_groups
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import leave_one_out
from instructrec_jax.instructions import rows as rows_lib
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.instructions.templates import load_templates

TEMPLATES = {template.name: template for template in load_templates()}
ITEMS = 80
TITLES = [f"thing{item:02d}z red" for item in range(ITEMS)]


def _sequences(lengths, rng) -> Sequences:
  return Sequences(
    items=np.concatenate(
      [rng.permutation(ITEMS)[:length] for length in lengths]
    ).astype(np.int32),
    offsets=np.concatenate([[0], np.cumsum(lengths)]),
  )


@pytest.fixture(scope="module")
def owned() -> Sequences:
  rng = np.random.default_rng(1)
  return _sequences(rng.integers(8, 30, 90), rng)


@pytest.fixture(scope="module")
def renderer(owned) -> rows_lib.Renderer:
  """Users' last eight items, as `prepare` keeps the last twenty."""
  kept = np.concatenate([owned.user(u)[-8:] for u in range(len(owned))])
  return rows_lib.Renderer(
    titles=TITLES,
    sequences=Sequences(items=kept, offsets=np.arange(0, len(kept) + 1, 8)),
    owned=owned,
    count_tokens=lambda text: len(text.split()),
    budget=512,
  )


def _training_rows(renderer, **more) -> list[rows_lib.Row]:
  options = {"templates": list(TEMPLATES.values()), "seed": 0, **more}
  return list(
    rows_lib.instruction_rows(
      renderer,
      targets=leave_one_out(renderer.sequences).training,
      split="train",
      **options,
    )
  )


def _shown(row, read_back) -> dict[str, list[int]]:
  """Item numbers in each slot."""
  found = read_back(TEMPLATES[row.template], row.inputs)
  return {
    slot: [TITLES.index(title) for title in titles]
    for slot, titles in found.items()
  }


def test_no_held_out_item_is_in_any_training_text(renderer):
  rows = _training_rows(renderer)
  assert {row.template for row in rows} == set(TEMPLATES)
  for row in rows:
    for held_out in renderer.sequences.user(row.user)[-2:]:
      assert TITLES[held_out] not in f"{row.inputs} {row.targets}"


def test_history_is_all_before_the_target_in_order(renderer, read_back):
  for row in _training_rows(renderer):
    sequence = renderer.sequences.user(row.user).tolist()
    history = sequence[: sequence.index(row.item)]
    assert _shown(row, read_back)["history"] == history


def test_one_row_for_each_target_and_family(renderer):
  targets = leave_one_out(renderer.sequences).training
  for repeats in (1, 3):
    rows = _training_rows(renderer, rows_per_target=repeats)
    counts = collections.Counter(
      (row.user, row.item, TEMPLATES[row.template].aspects.family)
      for row in rows
    )
    assert set(counts.values()) == {repeats}
    assert len(counts) == 3 * len(targets.users)
    assert len(rows) == rows_lib.count_rows(
      targets, list(TEMPLATES.values()), rows_per_target=repeats
    )


def test_reranking_shows_the_target_and_nine_foreign_items(
  renderer, owned, read_back
):
  slots = []
  for row in _training_rows(renderer, rows_per_target=4):
    shown = _shown(row, read_back)
    if "candidates" not in shown:
      continue
    candidates = shown["candidates"]
    assert len(set(candidates)) == 10
    assert row.targets == TITLES[row.item]
    own = set(owned.user(row.user).tolist())
    assert own & set(candidates) == {row.item}
    slots.append(candidates.index(row.item))
  counts = np.bincount(slots, minlength=10)
  # Each of ten slots a tenth, within five standard deviations.
  tenth = len(slots) / 10
  assert np.abs(counts - tenth).max() < 5 * np.sqrt(0.9 * tenth)


def test_pointwise_asks_for_the_target_or_a_foreign_item(
  renderer, owned, read_back
):
  answers = []
  for row in _training_rows(renderer, rows_per_target=4):
    shown = _shown(row, read_back)
    if "candidate" not in shown:
      continue
    (asked,) = shown["candidate"]
    assert row.targets == ("Yes" if asked == row.item else "No")
    assert row.targets == "Yes" or asked not in owned.user(row.user)
    answers.append(row.targets == "Yes")
  deviation = 0.5 / np.sqrt(len(answers))
  assert abs(np.mean(answers) - 0.5) < 5 * deviation


def test_rows_depend_on_the_seed_alone(renderer):
  rows = _training_rows(renderer)
  assert rows == _training_rows(renderer)
  assert rows != _training_rows(renderer, seed=1)
  # Adding a family leaves the rows of the others as they were.
  one_family = [TEMPLATES[name] for name in ("A01", "A04", "A05", "A06")]
  assert _training_rows(renderer, templates=one_family) == [
    row for row in rows if TEMPLATES[row.template] in one_family
  ]


def test_training_rows_are_well_mixed(renderer):
  users = [row.user for row in _training_rows(renderer)]
  changes = sum(a != b for a, b in itertools.pairwise(users))
  # Sorted by user there would be 89.
  assert changes > len(users) / 4


def test_stored_candidates_are_used_as_they_are(renderer, read_back):
  test = leave_one_out(renderer.sequences).test
  candidates = draw_candidates(
    owned=renderer.owned,
    title_groups=title_groups(TITLES),
    users=test.users,
    targets=test.items(renderer.sequences),
    negatives=9,
    rng=np.random.default_rng(3),
  )
  rows = rows_lib.instruction_rows(
    renderer,
    targets=test,
    split="test",
    templates=[TEMPLATES["A07"]],
    candidates=candidates,
    seed=0,
  )
  requests = rows_lib.ranking_requests(
    renderer,
    template=TEMPLATES["A07"],
    targets=test,
    candidates=candidates,
    name="sequential_test",
  )
  stored = candidates.candidates.tolist()
  for row, request, items in zip(rows, requests, stored, strict=True):
    assert _shown(row, read_back)["candidates"] == items
    assert request.instruction == row.inputs
    assert list(request.candidate_items) == items
    assert request.candidates == tuple(TITLES[item] for item in items)
    assert request.target is not None
    assert request.candidates[request.target] == row.targets
    history = renderer.sequences.user(row.user)[:-1].tolist()
    assert list(request.history_items) == history


def test_cuts_are_counted(renderer):
  tight = rows_lib.Renderer(
    titles=TITLES,
    sequences=renderer.sequences,
    owned=renderer.owned,
    count_tokens=lambda text: len(text.split()),
    budget=24,
  )
  rows = _training_rows(tight, templates=[TEMPLATES["A01"]])
  words = [len(row.inputs.split()) + 1 for row in rows]
  assert max(words) <= 24
  assert tight.cuts.rows == len(rows)
  assert 0 < tight.cuts.rows_with_dropped_items < len(rows)
  assert tight.cuts.items_dropped > tight.cuts.rows_with_dropped_items
  assert tight.cuts.rows_over_budget == 0


def test_no_held_out_item_on_real_data(shared, tmp_path, read_back):
  raw = shared / "data" / "musical_instruments_2014"
  prepare(
    out=tmp_path / "music",
    format="amazon2014",
    reviews=next(raw.glob("reviews*")),
    metadata=next(raw.glob("meta*")),
  )
  folder = DatasetFolder.open(tmp_path / "music")
  titles = display_titles(folder.items)
  real = rows_lib.Renderer(
    titles=titles,
    sequences=folder.sequences,
    owned=folder.owned,
    count_tokens=lambda text: len(text.split()),
    budget=10_000,
  )
  # By title, and without the full stop that a sentence may have taken over.
  bare = [title.rstrip(".!?") for title in titles]
  seen = set()
  for row in _training_rows(real):
    shown = read_back(TEMPLATES[row.template], row.inputs)
    texts = [title.rstrip(".!?") for slot in shown.values() for title in slot]
    sequence = folder.sequences.user(row.user)
    own = {bare[item] for item in sequence[:-2]}
    # A product may be listed twice under the very same title.
    assert not {bare[item] for item in sequence[-2:]} & set(texts) - own
    seen.add(row.template)
  assert seen == set(TEMPLATES)
