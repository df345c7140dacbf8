"""What is written: as Hugging Face writes it, alone or in a crowd."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.errors import InputError
from instructrec_jax.generation import decode
from instructrec_jax.generation.generator import Decoding, Generator
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.catalogue import CatalogueSearch
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.parameters import parameter_shapes
from instructrec_jax.xla_options import compiler_options

# All the ways to decode, as few tokens as tell them apart.
WAYS = [
  Decoding(max_tokens=12),
  Decoding(max_tokens=12, beams=3, answers=2, length_penalty=0.6),
  Decoding(max_tokens=12, beams=3, rules="t5x", length_penalty=0.6),
  Decoding(max_tokens=12, temperature=1.5, answers=2, seed=7),
]


@pytest.fixture(scope="session")
def generator(config, params, vocabulary):
  return Generator(
    config=config, params=params, vocabulary=vocabulary, batch=128
  )


@pytest.fixture(scope="session")
def bound(config, params, vocabulary, titles):
  """A generator whose only answers are titles."""
  return Generator(
    config=config,
    params=params,
    vocabulary=vocabulary,
    titles=titles,
    batch=128,
  )


@pytest.fixture(scope="session")
def ranker(config, params, vocabulary):
  return T5Ranker(config=config, params=params, vocabulary=vocabulary)


@pytest.fixture(scope="session")
def hugging_face(root):
  pytest.importorskip("torch", reason="pip install -e '.[parity]'")
  pytest.importorskip("transformers", reason="pip install -e '.[parity]'")
  sys.path.insert(0, str(root / "benchmarks"))
  try:
    from hugging_face import HuggingFace
  finally:
    sys.path.pop(0)
  return HuggingFace


@pytest.mark.parametrize(
  ("weights", "beams", "penalty"),
  [
    ("trained", 1, 1.0),
    ("trained", 4, 1.0),
    ("trained", 4, 0.0),
    ("trained", 4, 2.0),
    ("trained", 4, -1.0),
    ("random", 1, 1.0),
    ("random", 4, 1.0),
  ],
)
def test_tokens_are_those_of_hugging_face(
  hugging_face, generator, vocabulary, instructions, config, params,
  random_params, weights, beams, penalty,
):  # fmt: skip
  import torch

  if weights == "random":
    params = random_params
    generator = Generator(
      config=config, params=params, vocabulary=vocabulary, batch=128
    )
  model = hugging_face(config, params, vocabulary, threads=1).model
  rows = [[*vocabulary.encode_one(text), 1] for text in instructions]
  tokens = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = torch.tensor(ids)
  # Some answers are longer.
  most = 9
  with torch.no_grad():
    expected = model.generate(
      input_ids=tokens,
      attention_mask=(tokens > 0).long(),
      max_new_tokens=most,
      num_beams=beams,
      length_penalty=penalty,
      do_sample=False,
      decoder_start_token_id=0,
      pad_token_id=0,
      eos_token_id=1,
    ).numpy()[:, 1:]
  decoding = Decoding(max_tokens=most, beams=beams, length_penalty=penalty)
  answers = [a for (a,) in generator.generate(instructions, decoding)]
  for answer, row in zip(answers, expected, strict=True):
    # What follows an end is padding: the end's own id in beams, as 0 is no id
    # to transformers.
    (ends,) = np.nonzero(row == 1)
    whole = row[: ends[0] + 1] if len(ends) else row
    assert list(answer.tokens) == [*whole]
  assert len({answer.tokens for answer in answers}) > 2


def test_answers_to_compare_end_at_several_lengths(generator, instructions):
  # And those of random weights do not end.
  found = generator.generate(instructions, Decoding(max_tokens=9))
  assert len({len(a.tokens) for (a,) in found if a.is_whole}) > 3


@pytest.mark.parametrize("decoding", WAYS)
def test_neighbours_and_padding_change_nothing(
  generator, instructions, decoding
):
  long = "green kayak " * 30
  together = generator.generate([*instructions[:15], long], decoding)
  for number in (1, 14):
    (alone,) = generator.generate(
      [instructions[number]], decoding, numbers=[number]
    )
    assert [a.tokens for a in alone] == [a.tokens for a in together[number]]
    np.testing.assert_allclose(
      [a.score for a in alone], [a.score for a in together[number]], rtol=1e-4
    )


@pytest.mark.usefixtures("all_devices")
@pytest.mark.parametrize("decoding", WAYS[1::2])
def test_a_mesh_changes_nothing(
  bound, config, params, vocabulary, instructions, titles, decoding
):
  one = bound.generate(instructions[:16], decoding)
  many = Generator(
    config=config,
    params=params,
    vocabulary=vocabulary,
    titles=titles,
    mesh=mesh_lib.make_mesh("4x2"),
  ).generate(instructions[:16], decoding)
  assert [[a.tokens for a in of] for of in one] == [
    [a.tokens for a in of] for of in many
  ]


@pytest.mark.parametrize("decoding", WAYS)
def test_a_log_likelihood_is_the_rankers(bound, ranker, instructions, decoding):
  found = bound.generate(instructions[:16], decoding)
  for instruction, answers in zip(instructions, found, strict=False):
    texts = tuple(answer.text for answer in answers)
    (expected,) = ranker.score([RankingRequest("r", instruction, texts)])
    np.testing.assert_allclose(
      [answer.log_likelihood for answer in answers], expected, rtol=1e-4
    )


def test_no_title_is_invented(bound, instructions, titles):
  drawn = [
    Decoding(max_tokens=16, temperature=3.0, answers=50, seed=seed)
    for seed in (1, 2)
  ]
  for decoding in (*drawn, Decoding(max_tokens=16), Decoding(beams=8)):
    found = bound.generate(instructions, decoding)
    answers = [answer for of_one in found for answer in of_one]
    assert all(answer.is_whole for answer in answers)
    texts = {answer.text for answer in answers}
    assert texts <= {*titles}
    if decoding in drawn:
      # 5,000 draws each, and so hot that all are met.
      assert texts == {*titles}


@pytest.mark.parametrize("rules", ["hugging_face", "t5x"])
def test_enough_beams_find_the_best_titles(
  bound, ranker, instructions, titles, rules
):
  decoding = Decoding(
    beams=64, answers=3, length_penalty=0.0, rules=rules, max_tokens=32
  )
  found = bound.generate(instructions[:16], decoding)
  for instruction, answers in zip(instructions, found, strict=False):
    (scores,) = ranker.score(
      [RankingRequest("all", instruction, tuple(titles))]
    )
    best = [titles[i] for i in np.argsort(-scores)[:3]]
    assert [answer.text for answer in answers] == best


def test_fewer_titles_than_beams(config, params, vocabulary, instructions):
  few = Generator(
    config=config,
    params=params,
    vocabulary=vocabulary,
    titles=["green tent", "green tent stove"],
  )
  for rules in ("hugging_face", "t5x"):
    decoding = Decoding(beams=8, answers=8, rules=rules, max_tokens=32)
    for answers in few.generate(instructions[:3], decoding):
      assert {a.text for a in answers} == {"green tent", "green tent stove"}
      assert len(answers) == 2


def test_the_likeliest_alone_is_drawn(generator, instructions):
  greedy = generator.generate(instructions[:16], Decoding(max_tokens=12))
  for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
    drawn = Decoding(max_tokens=12, temperature=1.0, **narrow)
    assert generator.generate(instructions[:16], drawn) == greedy


def test_a_seed_is_what_is_drawn(generator, instructions):
  one, same, other = (
    generator.generate(
      instructions[:16], Decoding(max_tokens=12, temperature=1.0, seed=seed)
    )
    for seed in (3, 3, 4)
  )
  assert one == same

  def written(answers):
    # Likelihoods are rounded otherwise in another batch.
    return [[each.tokens for each in of_one] for of_one in answers]

  assert written(one) != written(other)
  again = generator.generate(
    [instructions[0]] * 2, Decoding(max_tokens=12, temperature=1.0, seed=3)
  )
  assert written(again[:1]) == written(one[:1]) != written(again[1:])


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.7), (5, 0.7), (5, 1.0)])
def test_the_top_is_that_of_sorted_tokens(top_k, top_p):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (50, 30)).astype(np.float32)
  kept = decode._within_top(jnp.asarray(logits), top_k, jnp.float32(top_p))
  for row, is_kept in zip(logits, np.isfinite(kept), strict=True):
    order = np.argsort(-row)[: top_k or None]
    p = np.exp(row[order]) / np.exp(row[order]).sum()
    before = np.cumsum(p) - p
    expected = {*order[before < top_p]} if top_p < 1 else {*order}
    assert {*np.flatnonzero(is_kept)} == expected


def test_what_is_drawn_is_as_likely_as_the_model_says(
  generator, ranker, instructions
):
  draws = 64
  decoding = Decoding(max_tokens=1, temperature=1.0, answers=draws)
  drawn = []
  for seed in range(40):
    ((*answers,),) = generator.generate(
      instructions[:1], dataclasses.replace(decoding, seed=seed)
    )
    drawn += [answer.tokens[0] for answer in answers]
  (first,) = generator.generate(instructions[:1], Decoding(max_tokens=1))
  token, p = first[0].tokens[0], np.exp(first[0].log_likelihood)
  share = np.mean(np.array(drawn) == token)
  assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / len(drawn))


@pytest.mark.parametrize(
  "decoding",
  [Decoding(max_tokens=12), Decoding(max_tokens=12, temperature=1.0, seed=2)],
)
def test_a_stream_is_the_text(generator, bound, instructions, decoding):
  for each in (generator, bound):
    for instruction in instructions[:4]:
      pieces = list(each.stream(instruction, decoding))
      ((answer,),) = each.generate([instruction], decoding)
      assert "".join(pieces) == answer.text
  pieces = [list(generator.stream(i, decoding)) for i in instructions[:4]]
  assert max(map(len, pieces)) > 3


def test_bfloat16_is_independent_of_neighbours(
  config, params, vocabulary, instructions
):
  rounded = Generator(
    config=config.replace(dtype="bfloat16"),
    params=params,
    vocabulary=vocabulary,
  )
  # Of the same shapes, as what rounding decides is decided alike.
  together = rounded.generate(instructions[:4], WAYS[0])
  others = rounded.generate([instructions[0], *instructions[50:53]], WAYS[0])
  assert together[0] == others[0]


@pytest.mark.parametrize("kind", ["ranker", "search", "generator"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_weights_are_cast_when_loaded_and_in_no_call(
  kind, scan_layers, config, vocabulary, titles, monkeypatch
):
  """As an accelerator gets the programs; a CPU has no bfloat16 of its own."""
  programs, jit = [], jax.jit

  def recorded(function, **options):
    program = jit(function, **options)

    def call(*args):
      lowered = program.trace(*args).lower(lowering_platforms=("cuda",))
      programs.append(lowered.as_text())
      return program(*args)

    return call

  def casts(text):
    """Those to bfloat16 of what is shaped as a matrix, or a stack of some."""
    found = re.findall(r"convert .*\(tensor<([\dx]*)xf32>\) -> .*xbf16>", text)
    return [
      shape for shape in found if re.sub(r"^[12]x", "", shape) in matrices
    ]

  config = config.replace(
    dtype="bfloat16",
    # Sizes that no array of activations has.
    emb_dim=36,
    mlp_dim=52,
    num_heads=11,
    loop_over_examples=False,
    scan_layers=scan_layers,
  )
  params = jax.tree.map(
    lambda of: np.full(of.shape, 0.1, np.float32), parameter_shapes(config)
  )
  matrices = {
    "x".join(map(str, leaf.shape))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key in ("kernel", "embedding")
  }
  model = {"config": config, "params": params, "vocabulary": vocabulary}
  instruction = "tent stove"

  def use():
    programs.clear()
    if kind == "ranker":
      T5Ranker(**model).score([RankingRequest("1", instruction, (titles[0],))])
    elif kind == "search":
      CatalogueSearch(titles, **model).top([instruction], 2)
    else:
      Generator(**model).generate([instruction], Decoding(max_tokens=2))
    assert programs
    return [shape for text in programs for shape in casts(text)]

  # It asks once, with a program of its own.
  compiler_options()
  monkeypatch.setattr(jax, "jit", recorded)
  assert not use()
  monkeypatch.setattr(parameters, "for_inference", lambda _, params: params)
  assert use(), "a cast would not be seen"


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"beams": 0}, "beams is 0"),
    ({"max_tokens": 0}, "max_tokens is 0"),
    ({"answers": 2}, "2 answers need"),
    ({"beams": 2, "temperature": 1.0}, "draws nothing"),
    ({"top_k": 3}, "give a temperature"),
    ({"top_p": 0.0, "temperature": 1.0}, "top_p is 0.0"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"rules": "mine"}, "hugging_face or t5x"),
    ({"rules": "t5x"}, "of a beam search"),
    ({"length_penalty": 2.0}, "of a beam search"),
    ({"seed": -1}, "seed is -1"),
  ],
)
def test_bad_decoding_is_refused(fields, said):
  with pytest.raises(InputError, match=said):
    Decoding(**fields)


def test_bad_input_is_refused(generator, bound, config, params, vocabulary):
  with pytest.raises(InputError, match="instruction 2 has .* at most 2,048"):
    generator.generate(["tent", "tent " * 5000])
  with pytest.raises(InputError, match="a title has"):
    bound.generate(["tent"], Decoding(max_tokens=1))
  with pytest.raises(InputError, match="one answer can be streamed"):
    next(generator.stream("tent", Decoding(beams=2)))
  assert generator.generate([]) == []
  broken = jax.tree.map(lambda x: x * np.nan, params)
  with pytest.raises(InputError, match="make no numbers"):
    Generator(config=config, params=broken, vocabulary=vocabulary).generate(
      ["tent"], Decoding(max_tokens=2)
    )
