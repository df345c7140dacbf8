import collections

import numpy as np
import pytest
import seqio

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.rows import group_families
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge import pack
from instructrec_jax.seqio_bridge.pack import open_mixture, pack_mixture
from instructrec_jax.text.vocabulary import Vocabulary

from .conftest import stored_rows

# A family is enough, and quicker to read than all.
MIXTURE = "instructrec_p1_i0_t2_v1"


def _pairs(packed) -> list[tuple[tuple, tuple]]:
  """The packed examples, as (input ids, target ids), in order of rows."""
  found = []
  batch = packed.batch(np.arange(len(packed)))
  for row in range(len(packed)):
    for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
      found.append(
        tuple(
          tuple(batch[tokens][row][batch[ids][row] == segment].tolist())
          for tokens, ids in (
            ("encoder_input_tokens", "encoder_segment_ids"),
            ("decoder_target_tokens", "decoder_segment_ids"),
          )
        )
      )
  return found


def _stored(dataset, split="train") -> dict[str, list[tuple[tuple, tuple]]]:
  """All rows of each form of the family, as ids with an end of sequence."""
  encode = Vocabulary.load(dataset / "vocabulary.model").encode_one
  return {
    form.template.name: [
      tuple((*encode(row[side].decode()), 1) for side in ("inputs", "targets"))
      for row in stored_rows(dataset, f"{form.name}_{split}")
    ]
    for form in group_families(load_templates())["p1_i0_t2"]
  }


def _task(template: str) -> str:
  """The task of a template's form in this family."""
  for form in group_families(load_templates())["p1_i0_t2"]:
    if form.template.name == template:
      return form.task_name
  raise KeyError(template)


def _pack(dataset, out, **more):
  return pack_mixture(
    **{"mixture": MIXTURE, "dataset": dataset, "out": out, **more}
  )


def _pack_at(rates, dataset, out, *, split, **more):
  """Packs a mixture of a few templates at rates of its own."""
  open_mixture(MIXTURE, dataset=dataset, split=split)
  seqio.MixtureRegistry.add(
    "ours_v1", [(_task(name), rate) for name, rate in rates.items()]
  )
  try:
    return _pack(dataset, out, mixture="ours_v1", split=split, **more)
  finally:
    seqio.MixtureRegistry.remove("ours_v1")


def test_one_pass_has_every_row_once(dataset, tmp_path):
  packed = _pack(dataset, tmp_path / "packed")
  stored = [pair for rows in _stored(dataset).values() for pair in rows]
  assert sorted(_pairs(packed)) == sorted(stored)
  assert packed.manifest["examples"] == len(stored)
  assert packed.manifest["mixture"] == MIXTURE
  shares = packed.manifest["tasks"].values()
  assert sum(entry["share"] for entry in shares) == pytest.approx(1)


@pytest.mark.parametrize("examples", [90, 700])
def test_tasks_are_drawn_at_their_rates(dataset, tmp_path, examples):
  packed = _pack(dataset, tmp_path / "packed", examples=examples)
  drawn = collections.Counter(_pairs(packed))
  assert sum(drawn.values()) == examples
  stored = _stored(dataset)
  total = sum(map(len, stored.values()))
  for rows in stored.values():
    # Two users may begin alike, so a pair may be stored twice.
    times = collections.Counter(rows)
    of_task = sum(drawn[pair] for pair in times)
    assert abs(of_task - examples * len(rows) / total) <= 1
    # None comes again before all have come as often.
    passes = of_task // len(rows)
    assert all(
      passes * times[pair] <= drawn[pair] <= (passes + 1) * times[pair]
      for pair in times
    )


def test_one_pass_of_a_held_out_split_has_every_row_once(dataset, tmp_path):
  # Unlike the rows to train on, which the rates are of.
  rates = {"A01": 3.0, "A04": 0.0}
  packed = _pack_at(rates, dataset, tmp_path / "packed", split="test")
  stored = _stored(dataset, "test")
  pairs = [*stored["A01"], *stored["A04"]]
  assert stored["A04"] and sorted(_pairs(packed)) == sorted(pairs)
  shares = [entry["share"] for entry in packed.manifest["tasks"].values()]
  assert shares == [len(stored[name]) / len(pairs) for name in ("A01", "A04")]


@pytest.mark.parametrize("examples", [None, 20])
def test_rows_that_are_only_held_out_are_packed(dataset, tmp_path, examples):
  out = tmp_path / "packed"
  packed = _pack_at({"A01": 0.0}, dataset, out, split="test", examples=examples)
  stored = _stored(dataset, "test")["A01"]
  assert len(_pairs(packed)) == (examples or len(stored))
  assert set(_pairs(packed)) <= set(stored)


def test_rates_of_a_mixture_are_heeded(dataset, tmp_path):
  rates, out = {"A01": 3.0, "A04": 1.0}, tmp_path / "packed"
  packed = _pack_at(rates, dataset, out, split="train", examples=400)
  stored = _stored(dataset)
  drawn = _pairs(packed)
  assert sum(pair in stored["A01"] for pair in drawn) == 300
  assert sum(pair in stored["A04"] for pair in drawn) == 100


def test_several_mixtures_are_drawn_at_their_weights(dataset, tmp_path):
  a01, a04 = _task("A01"), _task("A04")
  members = open_mixture(
    f"{a01}=3, {MIXTURE}=1", dataset=dataset, split="train"
  )
  shares = {member.task.name: member.share for member in members}
  alone = {
    member.task.name: member.share
    for member in open_mixture(MIXTURE, dataset=dataset, split="train")
  }
  assert shares == pytest.approx(
    {name: share / 4 + 0.75 * (name == a01) for name, share in alone.items()}
  )
  packed = _pack(
    dataset, tmp_path / "packed", mixture=f"{a01}=3,{a04}=1", examples=400
  )
  stored, drawn = _stored(dataset), _pairs(packed)
  assert sum(pair in stored["A01"] for pair in drawn) == 300
  assert sum(pair in stored["A04"] for pair in drawn) == 100


def test_the_seed_decides_the_order(dataset, tmp_path):
  first = _pack(dataset, tmp_path / "a", examples=100)
  same = _pack(dataset, tmp_path / "b", examples=100)
  other = _pack(dataset, tmp_path / "c", examples=100, seed=1)
  assert _pairs(first) == _pairs(same)
  assert sorted(_pairs(first)) != sorted(_pairs(other))


def test_one_task_and_another_split(dataset, tmp_path):
  packed = _pack(
    dataset, tmp_path / "packed", mixture=_task("A05"), split="test"
  )
  assert sorted(_pairs(packed)) == sorted(_stored(dataset, "test")["A05"])
  rows = storage.read_json(dataset / "instructions.json")["rows"]
  assert packed.manifest["examples"] == rows["A05_p1_i0_t2_test"]


@pytest.mark.parametrize(
  ("change", "complaint"),
  [
    ({"mixture": "instructrec_d_v1"}, "no mixture or task 'instructrec_d_v1'"),
    *(
      ({"mixture": name}, "each once and with a number above 0")
      for name in (
        *(f"{MIXTURE}=0", f"{MIXTURE}=nan", f"{MIXTURE}=", "=1"),
        *(f"{MIXTURE}=1,{MIXTURE}=1", f"{MIXTURE}=1,", f"{MIXTURE},a=1"),
      )
    ),
    ({"mixture": f"{MIXTURE}=1,x=1"}, "no mixture or task 'x'"),
    ({"split": "dev"}, "not one of train, validation, test"),
    ({"examples": 0}, "at least 1"),
  ],
)
def test_bad_input_is_refused(dataset, tmp_path, change, complaint):
  with pytest.raises(InputError, match=complaint):
    _pack(dataset, tmp_path / "packed", **change)
  assert not list(tmp_path.iterdir())


def test_packing_again_needs_force(dataset, tmp_path):
  _pack(dataset, tmp_path / "packed", examples=20)
  with pytest.raises(InputError, match="--force"):
    _pack(dataset, tmp_path / "packed", examples=20)
  assert _pack(dataset, tmp_path / "packed", examples=30, force=True)


def test_texts_wait_in_a_file_that_nobody_sees(tmp_path):
  pairs = [("é" * (n % 7), "tent" * (n % 3)) for n in range(50)]
  with pack._Texts(tmp_path) as texts:
    texts.fill((a.encode(), b.encode()) for a, b in pairs)
    assert [texts[n] for n in reversed(range(len(texts)))] == pairs[::-1]
    assert not [*tmp_path.iterdir()]
