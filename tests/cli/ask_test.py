"""`instructrec ask`, as one would type it, and the function behind it."""

import json
import math

import jax
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.checkpoints.training_run import Checkpoints
from instructrec_jax.cli.main import main
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions.recommend import recommend
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.text.vocabulary import train_vocabulary
from instructrec_jax.training.state import TrainState

WISH = "I want something scary for tonight"
HISTORY = ["Green Tent", "Long Rope"]
CANDIDATES = ["Red Kayak", "Hand Pump", "Camp Stove"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
  """A tiny model with random weights."""
  path = tmp_path_factory.mktemp("model")
  texts = [template.text for template in load_templates()]
  texts += [WISH, "scary calm user's", *HISTORY, *CANDIDATES]
  vocabulary = train_vocabulary(texts, path / "vocabulary.model", size=600)
  config = T5Config(
    vocab_size=vocabulary.model_vocab_size,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
  )
  model_folder.save_config(path, config)
  params = parameters.initial_variables(config)["params"]
  checkpoints = Checkpoints(path, best_metric=model_folder.BEST_METRIC)
  checkpoints.save(
    TrainState(
      step=jax.numpy.int32(1),
      params=params,
      optimizer_state=optax.sgd(0.1).init(params),
    ),
    metrics={},
  )
  checkpoints.close()
  return path


def ask(capsys, *arguments):
  assert main(["ask", *map(str, arguments)]) == 0
  return capsys.readouterr().out


def test_people_see_the_instruction_and_the_ranking(model_dir, capsys):
  shown = ask(
    capsys,
    *(WISH, "--model", model_dir, "--history", *HISTORY),
    *("--candidates", *CANDIDATES),
  )
  first, instruction, blank, *ranking = shown.splitlines()
  assert first == "C10  <P1,I1,T3>  insertion"
  assert f'"{WISH}"' in instruction and "Green Tent; Long Rope" in instruction
  assert blank == ""
  assert [line.split()[0] for line in ranking] == ["1", "2", "3"]
  assert {line.split("%  ")[1] for line in ranking} == set(CANDIDATES)


def test_the_models_reasoning_is_shown(model_dir, capsys):
  arguments = ["--model", model_dir, "--history", *HISTORY, "--reason"]
  arguments += ["--candidates", *CANDIDATES]
  found = json.loads(ask(capsys, *arguments, "--json"))
  assert found["template"] == "A03" and found["reasoning"]
  said = f"(the model's reasoning: {found['reasoning']})"
  assert said in ask(capsys, *arguments).splitlines()
  # Beside a wish it stands in the instruction.
  found = json.loads(ask(capsys, WISH, *arguments, "--json"))
  assert found["template"] == "C10" and found["aspects"] == "<P1,P2,I1,T3>"
  assert found["reasoning"]


def test_a_model_that_has_no_reasoning_is_told_of(
  model_dir, capsys, monkeypatch
):
  monkeypatch.setattr(Recommender, "write", lambda self, asked: [""])
  arguments = ["--model", model_dir, "--history", *HISTORY, "--reason"]
  arguments += ["--candidates", *CANDIDATES]
  lines = ask(capsys, *arguments).splitlines()
  assert "(the model told no taste: ranked without reasoning)" in lines


def test_programs_get_json_whose_scores_are_the_models(model_dir, capsys):
  arguments = [WISH, "--model", model_dir, "--candidates", *CANDIDATES]
  answer = json.loads(ask(capsys, *arguments, "--json"))
  assert answer["template"] == "B07" and answer["aspects"] == "<P0,I1,T3>"
  assert answer["operations"] == ["insertion"]
  ranking = answer["ranking"]
  request = RankingRequest(
    request_id="1",
    instruction=answer["instruction"],
    candidates=tuple(each["title"] for each in ranking),
  )
  (scores,) = T5Ranker.load(model_dir).score([request])
  likelihoods = [each["log_likelihood"] for each in ranking]
  np.testing.assert_allclose(likelihoods, scores, rtol=1e-5)
  assert likelihoods == sorted(likelihoods, reverse=True)
  probabilities = [each["probability"] for each in ranking]
  assert math.isclose(sum(probabilities), 1)
  np.testing.assert_allclose(
    np.log(probabilities[0] / probabilities[1]),
    likelihoods[0] - likelihoods[1],
    rtol=1e-5,
  )
  top = json.loads(ask(capsys, *arguments, "--json", "--top", 1))["ranking"]
  assert top == ranking[:1]


def test_a_file_and_a_catalogue_are_ranked_too(model_dir, tmp_path, capsys):
  lines = tmp_path / "titles.txt"
  lines.write_text("\n".join([*CANDIDATES, ""]))
  table = tmp_path / "items.parquet"
  pq.write_table(pa.table({"title": CANDIDATES}), table)
  answers = [
    ask(capsys, WISH, "--model", model_dir, "--candidates-file", path)
    for path in (lines, table)
  ]
  assert answers[0] == answers[1]
  assert all(title in answers[0] for title in CANDIDATES)

  shop = tmp_path / "shop"
  prepare(format="synthetic", users=60, min_count=2, out=shop)
  titles = pq.read_table(shop / "items.parquet")["title"].to_pylist()
  arguments = (WISH, "--model", model_dir, "--history", titles[0], "No Such")
  arguments += ("--dataset", shop, "--json", "--top", len(titles))
  assert main([*map(str, ("ask", *arguments))]) == 0
  told = capsys.readouterr()
  answer = json.loads(told.out)
  assert answer["unknown_history"] == ["No Such"]
  assert "no 'No Such'" in told.err
  assert titles[0] not in told.err
  assert answer["aspects"] == "<P1,I1,T2>"
  ranked = [each["title"] for each in answer["ranking"]]
  assert sorted(ranked) == sorted(set(titles) - {titles[0]})


def test_without_a_model_there_is_the_instruction_alone(capsys):
  shown = ask(capsys, "I like green tents", "--history", *HISTORY)
  first, instruction = shown.splitlines()
  assert first == "A02  <P1,P2,I0,T2>  persona shift, insertion"
  assert "The user likes green tents." in instruction
  shown = ask(capsys, "a\ttent; 2", "--kind", "specific", "--template", "B02")
  assert 'query: "a tent, 2"' in shown
  assert "(replaced or left out: '\\t;')" in shown


def test_opposite_wishes_get_different_scores(model_dir):
  ranker = T5Ranker.load(model_dir)
  vocabulary = model_folder.load_vocabulary(model_dir)
  scary, calm = (
    recommend(
      f"I want something {mood}",
      ranker=ranker,
      vocabulary=vocabulary,
      candidates=CANDIDATES,
    )
    for mood in ("scary", "calm")
  )
  assert scary.composed.instruction != calm.composed.instruction
  assert scary.ranking != calm.ranking


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ([], "nothing to go by"),
    (["--candidates", "Red Kayak"], "nothing to go by"),
    ([WISH, "--model", "nowhere"], "not a model folder"),
    ([WISH, "--model", "nowhere", "--candidates", "a"], "not a model folder"),
    ([WISH, "--candidates-file", "nowhere.txt"], "no such file"),
    ([WISH, "--dataset", "nowhere"], "not a dataset folder"),
    ([WISH, "--template", "Q99"], "no template 'Q99'"),
    ([WISH, "--top", "0"], "--top is 0"),
    ([WISH, "--reason"], "add --model"),
  ],
)
def test_bad_input_is_one_sentence_and_2(arguments, says, capsys):
  assert main(["ask", *arguments]) == 2
  printed = capsys.readouterr()
  (line,) = printed.err.strip().splitlines()
  assert says in line and not printed.out


def test_a_file_without_titles_is_one_sentence(tmp_path, capsys):
  empty, other = tmp_path / "empty.txt", tmp_path / "other.parquet"
  empty.write_text("\n")
  pq.write_table(pa.table({"name": ["a"]}), other)
  for path in (empty, other):
    assert main(["ask", WISH, "--candidates-file", str(path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(path) in line


def test_candidates_of_one_title_are_told(capsys):
  twins = ["Po\u200bke\u0301 <b>Tea", "Poké  Tea", "POKÉ TEA"]
  assert main(["ask", WISH, "--candidates", *twins]) == 0
  assert "1 of 3 candidates have another one's title" in capsys.readouterr().err
  assert main(["ask", WISH, "--candidates", "\u200b"]) == 2
  assert "is no title" in capsys.readouterr().err
