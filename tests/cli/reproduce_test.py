"""Tests for instructrec_jax/cli/reproduce.py."""

import pathlib
import re

import pytest

from instructrec_jax.cli.gin_config import configured_model
from instructrec_jax.cli.main import main
from instructrec_jax.data.prepare import prepare
from instructrec_jax.reproduction import reproduce as reproduction
from instructrec_jax.reproduction.settings import Settings, default_recipe
from instructrec_jax.seqio_bridge.build import Options as BuildOptions
from instructrec_jax.seqio_bridge.build import build

RECIPES = sorted(
  (pathlib.Path(__file__).parents[2] / "gin" / "experiment").glob("*.gin")
)


@pytest.fixture
def shop(tmp_path):
  prepare(format="synthetic", users=40, min_count=0, out=tmp_path / "shop")
  return tmp_path / "shop"


def _refused(capsys, *arguments):
  """Returns what is said of arguments that are refused."""
  assert main(["reproduce", *map(str, arguments)]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  return line


def test_options_become_settings(shop, tmp_path, monkeypatch, capsys):
  seen = {}

  def reproduce(settings, **others):
    seen.update(settings=settings, **others)
    return {"lacking": {"Table 11": ["another domain is needed"]}}

  monkeypatch.setattr(reproduction, "reproduce", reproduce)
  out = tmp_path / "out"
  arguments = ["--dataset", str(shop), "--out", str(out), "--limit", "0"]
  arguments += ["--rankers", "random,model", "--steps", "70", "--force"]
  assert main(["reproduce", *arguments]) == 0
  (recipe,) = [path for path in RECIPES if path.stem == "shop_mini"]
  assert seen["settings"] == Settings(
    dataset=shop,
    out=out,
    recipe=recipe,
    steps=70,
    limit=None,
    rankers=("random", "model"),
  )
  assert seen["force"]
  assert "Table 11 lacks another domain" in capsys.readouterr().out


def test_wrong_input_is_refused_before_anything_is_started(
  shop, tmp_path, capsys
):
  out = tmp_path / "out"
  given = ("--dataset", shop, "--out", out)
  assert "not a dataset folder" in _refused(
    capsys, "--dataset", tmp_path, "--out", out
  )
  assert "no ranker 'best'" in _refused(capsys, *given, "--rankers", "best")
  assert "mine.gin: no such file" in _refused(
    capsys, *given, "--recipe", "mine.gin"
  )
  assert "at least 1" in _refused(capsys, *given, "--steps", "0")
  assert "not a dataset folder" in _refused(
    capsys, *given, "--unseen", tmp_path / "none"
  )
  assert "not a model folder" in _refused(capsys, *given, "--zero-shot", shop)
  assert not out.exists()


def test_a_schedule_that_does_not_fit_is_refused_at_the_door(
  shop, tmp_path, capsys
):
  given = ("--dataset", shop, "--out", tmp_path / "out")
  for option in ("--steps", "--ladder-steps"):
    said = _refused(capsys, *given, option, "7")
    assert f"{option} 7: a schedule of 7 steps" in said
  assert not (tmp_path / "out").exists()


def test_a_folder_decides_which_recipe_is_learned_by(shop, tmp_path):
  assert default_recipe(shop).name == "shop_mini.gin"
  for pieces, name in (
    ("words", "mini.gin"),
    ("whole-titles", "shop_mini.gin"),
  ):
    build(
      shop,
      train_vocabulary_size=300,
      options=BuildOptions(families=("p1_i0_t2",), pieces=pieces),
      force=True,
    )
    assert default_recipe(shop).name == name


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ([], "no key"),
    (["--chat-limit", "0"], "--chat-limit is 0"),
    (["--max-usd", "3"], "needs --prices"),
    (["--max-requests", "-1"], "--max-requests is -1"),
  ],
)
def test_a_chat_models_options_are_checked_before_anything_is_started(
  shop, tmp_path, monkeypatch, capsys, options, says
):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  out = tmp_path / "out"
  given = ("--dataset", shop, "--out", out, "--chat-model", "gpt-9")
  monkeypatch.setattr(reproduction, "reproduce", lambda *_, **__: 1 / 0)
  assert says in _refused(capsys, *given, *options)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_model_and_its_training(path):
  config = configured_model([str(path)])
  size = re.search(r"xl|gpu|mini", path.stem)[0]
  assert config.emb_dim == {"xl": 2048, "gpu": 768, "mini": 128}[size]
  assert (config.lora_rank > 0) == ("lora" in path.stem)
