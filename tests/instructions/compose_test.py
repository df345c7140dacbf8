"""Tests for instructrec_jax/instructions/{compose,utterance}.py."""

import hypothesis
import pytest
from hypothesis import strategies as st

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.compose import compose
from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.instructions.utterance import denied_words, kind_of
from instructrec_jax.text.vocabulary import UNK_ID, Vocabulary

HISTORY = ["Resident Evil 4", "Alien: Isolation"]
CANDIDATES = ["FIFA 15", "The Evil Within", "Tetris"]
TASTE = "I like horror games and my son plays them"
SHIFTED = "The user likes horror games and the user's son plays them"
WISH = "I want something scary for tonight"
LABELS = "horror games, PlayStation 4"
TEMPLATES = load_templates()


def composed(words="", **options):
  options = {"templates": TEMPLATES, "count_tokens": _words, **options}
  return compose(words, **options)


def _words(text):
  return len(text.split())


@pytest.mark.parametrize(
  ("said", "denied"),
  [
    ("a tent, not orange", ("orange",)),
    ("Not orange", ("orange",)),
    ("a tent but no orange or green please", ("orange", "green")),
    ("I don't want an orange tent.", ("orange",)),
    ("I’d like a tent, not the Alder one", ("alder",)),
    ("anything but orange", ("orange",)),
    ("nothing in orange, I'm not into grey", ("orange", "grey")),
    ("tent without a porch -orange", ("porch", "orange")),
    ("no more tents", ("tents",)),
    ("I hate horror games", ("horror",)),
    # These deny nothing.
    ("I'm not sure what to get, but I need a tent", ()),
    ("not too heavy, and not only for beginners", ()),
    ("It doesn't have to be fancy, I just need a tent", ()),
    ("I love No Doubt", ()),
    ("why not a tent?", ()),
    ("I have no tent", ()),
    ("there is no tent in my kit, no rope yet", ()),
    ("this is not what I want, nothing but tents", ()),
    ("a low-cost clip-on tuner", ()),
    (WISH, ()),
  ],
)
def test_what_a_user_does_not_want_is_heard(said, denied):
  assert denied_words(said) == denied
  made = composed(said, candidates=CANDIDATES)
  assert made.denied == denied
  # The model reads all of it.
  assert said.rstrip(".") in made.instruction or "orange" not in denied


@pytest.mark.parametrize(
  ("sentence", "kind"),
  [
    (TASTE, "P2"),
    ("I usually play RPGs.", "P2"),
    ("I’m a big fan of jazz", "P2"),
    ("My favourite games are long.", "P2"),
    ("The user prefers horror games.", "P2"),
    ("I don't like puzzles", "P2"),
    # The paper's own: its preference and its vague and specific intentions.
    ("He prefers horror-based games with a strong narrative.", "P2"),
    ("I enjoy buying games for my son that he enjoys.", "I1"),
    ("some gifts for my son", "I1"),
    ("blue, cheap, iPhone13", "I2"),
    ("Video Games, PC, Accessories, Gaming Mice.", "I2"),
    (WISH, "I1"),
    ("I'd like new strings", "I1"),
    ("find me a quiet keyboard", "I1"),
    ("My son plays the drums", "I1"),
    ("It should be small", "I1"),
    (LABELS, "I2"),
    ("acoustic guitar strings", "I2"),
  ],
)
def test_the_rules_tell_taste_wish_and_labels_apart(sentence, kind):
  assert kind_of(sentence) == kind


@pytest.mark.parametrize(
  ("words", "preference", "history", "candidates", "name", "operations"),
  [
    ("", "", True, False, "A01", "insertion"),
    ("", "", True, True, "A07_p1_i0_t3", "insertion"),
    (TASTE, "", True, False, "A02", "persona shift, insertion"),
    (TASTE, "", True, True, "A07_p1_p2_i0_t3", "persona shift, insertion"),
    ("", TASTE, True, True, "A07_p1_p2_i0_t3", "persona shift, insertion"),
    (TASTE, "", False, False, "B01_p0_p2_t2", "insertion"),
    (TASTE, "", False, True, "B07_p0_p2_t3", "insertion"),
    (WISH, "", False, False, "B01_p0_i1_t2", "insertion"),
    (LABELS, "", False, True, "B07_p0_i2_t3", "insertion"),
    (WISH, "", True, False, "C02_p1_i1_t2", "insertion"),
    (LABELS, "", True, False, "C04", "insertion"),
    (WISH, "", True, True, "C10_p1_i1_t3", "insertion"),
    (LABELS, SHIFTED, True, True, "C10_p1_p2_i2_t3", "insertion"),
    (WISH, TASTE, True, True, "C10_p1_p2_i1_t3", "persona shift, insertion"),
    (
      f"{TASTE}. {WISH}.",
      "",
      True,
      True,
      "C10_p1_p2_i1_t3",
      "persona shift, insertion",
    ),
    # No form shows these apart.
    (LABELS, TASTE, False, True, "B07_p0_i1_t3", "concatenation, insertion"),
    (WISH, TASTE, True, False, "C02_p1_i1_t2", "concatenation, insertion"),
    (
      TASTE,
      "I love long games",
      True,
      False,
      "A02",
      "concatenation, persona shift, insertion",
    ),
  ],
)
def test_the_fitting_template_shows_all_that_was_said(
  words, preference, history, candidates, name, operations
):
  made = composed(
    words,
    preference=preference,
    history=HISTORY if history else (),
    candidates=CANDIDATES if candidates else None,
  )
  assert made.form.name.replace("*", "star") == name
  assert made.label == made.form.label
  assert ", ".join(made.operations) == operations
  shifted = "persona shift" in operations
  for text in (words, preference):
    if text == TASTE:
      assert (SHIFTED if shifted else TASTE) in made.instruction
    elif text in (WISH, LABELS):
      assert text in made.instruction
  assert (SEPARATOR.join(HISTORY) in made.instruction) == history
  assert (SEPARATOR.join(CANDIDATES) in made.instruction) == candidates


def test_an_instruction_reads_well():
  assert composed(
    f"{WISH}. {TASTE}; really.", history=HISTORY, candidates=CANDIDATES
  ).instruction == (
    f'A user\'s query at this moment: "{WISH}." The purchase history before it'
    ": Resident Evil 4; Alien: Isolation. What the user likes: "
    f"{SHIFTED}, really. Answer the query with the candidate that goes best "
    "with it and with the user's taste: FIFA 15; The Evil Within; Tetris."
  )


def test_a_preference_that_is_quoted_says_i():
  made = composed(preference="The user likes chess and collects books.")
  assert '"I like chess and collect books."' in made.instruction
  assert "persona shift" in made.operations
  made = composed(WISH, preference="The user loves the user's garden.")
  assert f'"I love my garden. {WISH}"' in made.instruction


def test_a_context_joins_the_words_unless_a_template_has_a_place(tmp_path):
  context = "It is for a long winter"
  made = composed(WISH, history=HISTORY, context=context)
  assert f'"{WISH}. {context}"' in made.instruction
  assert "concatenation" in made.operations
  assert context in composed(history=HISTORY, context=context).instruction

  path = tmp_path / "mine.yaml"
  path.write_text(
    "- {name: Z01, preferences: [P1], queries: [I1], task_form: T2, "
    'response: item, text: \'Had: {history}. Asks: "{query}". '
    "[[When: {context}. ]]What next?'}"
  )
  made = composed(
    WISH,
    history=HISTORY,
    context=context,
    templates=load_templates("package", path),
  )
  assert made.form.name.startswith("Z01")
  assert f"When: {context}. What" in made.instruction
  assert "concatenation" not in made.operations


def test_titles_are_shown_as_in_training():
  made = composed(
    history=["Mouse; wireless"], candidates=["A <b>red</b> cup,", "A red cup"]
  )
  assert "oldest first: Mouse, wireless. " in made.instruction
  assert made.candidates == ("A red cup",)
  assert "Candidates: A red cup." in made.instruction


def test_what_the_vocabulary_lacks_is_replaced_and_told(shared):
  vocabulary = Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")
  made = composed(
    "I want a\x00 game\nfor {kids}; ő é 你好",
    count_tokens=vocabulary.count_tokens,
    prints=lambda c: UNK_ID not in vocabulary.encode_one(c),
  )
  assert made.query == "I want a game for (kids), o é"
  assert set(made.replaced) == set("\x00\n{};ő你好")
  assert UNK_ID not in vocabulary.encode_one(made.instruction)


def test_too_many_candidates_are_not_listed_and_old_items_go():
  many = [f"title number {i}" for i in range(200)]
  made = composed(WISH, history=HISTORY, candidates=many)
  assert made.label == "<P1,I1,T2>" and len(made.candidates) == 200
  made = composed(history=many)
  assert made.items_dropped > 0
  assert many[-1] in made.instruction and many[0] not in made.instruction
  # A template asked for by name may do without the history.
  made = composed(WISH, history=HISTORY, template="B01")
  assert made.items_dropped == 2


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({}, "nothing to go by"),
    ({"words": " \x00;\n"}, "nothing to go by"),
    ({"words": "word " * 600}, "too long for the model: an instruction of "),
    ({"words": WISH, "candidates": ["  "]}, "'  ' is no title"),
    ({"words": WISH, "kind": "odd"}, "kind 'odd'"),
    ({"words": WISH, "template": "Q99"}, "no template 'Q99'"),
    (
      {"words": WISH, "template": "C10", "candidates": CANDIDATES},
      "no form of C10 fits an intention (I1) without a history",
    ),
    ({"words": WISH, "template": "B02"}, "no form of B02"),
    ({"history": HISTORY, "template": "A14"}, "no form of A14"),
  ],
)
def test_bad_input_is_one_sentence(options, says):
  words = options.pop("words", "")
  with pytest.raises(InputError) as error:
    composed(words, **options)
  message = str(error.value)
  assert says in message
  assert "\n" not in message and len(message) < 400


@hypothesis.given(
  words=st.text(max_size=80),
  preference=st.text(max_size=40),
  history=st.sampled_from([(), HISTORY]),
  candidates=st.sampled_from([(), CANDIDATES]),
)
def test_anything_is_one_line_that_fits_or_an_input_error(
  words, preference, history, candidates
):
  try:
    made = composed(
      words, preference=preference, history=history, candidates=candidates
    )
  except InputError:
    return
  assert made.instruction.isprintable()
  assert made.instruction == " ".join(made.instruction.split())
  assert not set("{}[]<>") & set(made.instruction) - set(words + preference)
  assert _words(made.instruction) < 512
