"""Every template and split of real data: nothing cut, lost, repeated or leaked.

Of musical_instruments_2014 and, in a crowd's words, gift_cards_2018, with T5's
own vocabulary and lengths.
"""

import collections
import re

import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.instructions.aspects import Response
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.paraphrases import Paraphrases
from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.instructions.rows import (
  Renderer,
  Row,
  group_families,
  instruction_rows,
)
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.teacher.annotate import annotate_offline
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.teacher.questions import plan
from instructrec_jax.text.vocabulary import Vocabulary

FAMILIES = group_families(load_templates("package", "crowd"))
FORMS = {form.name: form for forms in FAMILIES.values() for form in forms}
LENGTHS = 512, 64
_ITEM_LAST = {
  Response.ITEM: "",
  Response.QUERY_AND_ITEM: "The product: ",
  Response.HISTORY_AND_ITEM: "Bought next: ",
  Response.REASONED_ITEM: "What suits it: ",
}


@pytest.fixture(
  scope="module", params=["musical_instruments_2014", "gift_cards_2018"]
)
def folder(shared, tmp_path_factory, request) -> DatasetFolder:
  raw = shared / "data" / request.param
  path = tmp_path_factory.mktemp(request.param) / "data"
  folder = prepare(
    out=path,
    format="amazon2014" if "2014" in request.param else "amazon2018",
    reviews=next(p for p in raw.glob("*.gz") if not p.name.startswith("meta")),
    metadata=next(raw.glob("meta*")),
  )
  annotate_offline(path)
  return folder


@pytest.fixture(scope="module")
def vocabulary(shared) -> Vocabulary:
  return Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")


@pytest.fixture(scope="module")
def made(folder, vocabulary):
  """Each split's rows, and what was cut of them."""
  material = Material(folder, annotations=Annotations.load(folder))
  is_small = len(folder.items) < 200
  crowd = Paraphrases(folder.items) if is_small else None
  rows: dict[str, list[Row]] = {}
  renderer = Renderer(
    count_tokens=vocabulary.count_tokens,
    budget=LENGTHS[0],
    answer_budget=LENGTHS[1],
  )
  for split in SPLITS:
    rows[split] = list(
      instruction_rows(
        material,
        renderer,
        facts=material.facts(split),
        families=FAMILIES,
        paraphrases=crowd,
        seed=0,
      )
    )
  return material, rows, renderer.cuts


def test_no_answer_is_cut_and_no_item_lost(made, vocabulary):
  material, rows, cuts = made
  kinds = collections.Counter()
  for row in (row for of_split in rows.values() for row in of_split):
    kind = FORMS[row.form].template.response
    title, kinds[kind] = material.titles[row.item], kinds[kind] + 1
    if kind in _ITEM_LAST:
      assert row.targets.endswith(_ITEM_LAST[kind] + title), row
    assert vocabulary.count_tokens(row.targets) + 1 <= LENGTHS[1], row
    if kind.holds_history:
      told = re.sub(r"^Bought before: |\.? Bought next: .*", "", row.targets)
      known = {*material.titles, *(t.rstrip(".!?") for t in material.titles)}
      if told.startswith("Bought next: "):
        # Beside a long title there is no place for any other.
        continue
      for shown in told.split(SEPARATOR):
        assert shown in known, row
  assert len(kinds) == 8
  assert cuts.answers == sum(kinds.values())
  # One of the instruments has a title of 69 tokens: it is no answer.
  too_long = sum(
    vocabulary.count_tokens(title) >= LENGTHS[1] for title in material.titles
  )
  assert too_long <= 1
  assert cuts.answers_over_budget < 1 + 0.005 * too_long * cuts.answers
  assert cuts.answers_with_dropped_items > 0
  assert cuts.rows_over_budget == 0


def test_at_most_one_training_row_in_a_hundred_is_there_twice(made):
  _, rows, _ = made
  of_form = collections.defaultdict(list)
  for row in rows["train"]:
    of_form[row.form].append((row.inputs, row.targets))
  for name, texts in of_form.items():
    assert len(set(texts)) >= 0.99 * len(texts), name


def test_the_latest_purchase_is_shown_and_nothing_held_out_is_trained(made):
  """That nothing later is shown `rows_test` proves, by titles that differ."""
  material, rows, _ = made
  for split, of_split in rows.items():
    for row in of_split:
      if row.user < 0:
        continue
      form = FORMS[row.form]
      sequence = material.sequences.user(row.user).tolist()
      position = sequence.index(row.item)
      assert split != "train" or position < len(sequence) - 2
      if "history" not in form.slots:
        continue
      # The latest purchase is never cut.
      assert material.titles[sequence[position - 1]] in row.inputs


def test_no_target_is_in_the_history_of_its_own_preference(folder):
  """For each split: its question ends where the target's history does."""
  annotations = Annotations.load(folder)
  titles = [item.title for item in folder.items]
  asked = {(q.user, q.position): q for q in plan(folder).preferences}
  told = collections.Counter()
  for split in SPLITS:
    targets = getattr(folder.splits, "training" if split == "train" else split)
    for user, position in zip(
      targets.users.tolist(), targets.positions.tolist(), strict=True
    ):
      end, texts = annotations.preference(user, before=position)
      if not texts:
        continue
      told[split] += 1
      assert end <= position
      if split != "train":
        assert end == position
      sequence = folder.sequences.user(user).tolist()
      seen = asked[user, end].titles
      assert [*seen] == [titles[item] for item in sequence[:end]]
  assert len(told) == 3 and told["test"] > 0.5 * len(folder.splits.test.users)
