"""`instructrec chat`, as one would type it."""

import io
import json

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.instructions import conversation
from instructrec_jax.instructions.recommend import (
  Recommendation,
  ranked,
  recommend,
)
from instructrec_jax.serving.recommender import Recommender, Reply


@pytest.fixture
def said(monkeypatch):
  """Makes lines the standard input."""

  def say(*lines):
    text = "".join(f"{line}\n" for line in lines)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

  return say


class Rules:
  """A recommender whose model finds all titles alike."""

  titles = tuple(
    f"{brand} {kind} {finish}"
    for brand in ("Alder", "Borea", "Corvo")
    for kind in ("Tent", "Kayak")
    for finish in ("Green", "Orange", "Grey")
  )

  def compose(self, words, *, history, preference):
    return recommend(words, history=history, preference=preference).composed

  def converse(self, turns, *, history, preference, k, wording):
    catalogue = conversation.Catalogue.of(self.titles)
    need = conversation.read(turns, catalogue=catalogue)
    words = conversation.compose_words(need, wording) or turns[-1].words
    composed = recommend(words, history=history).composed
    gone = map(self.titles.index, need.refused)
    left, given_up = catalogue.fulfilling(need, gone)
    titles = [self.titles[number] for number in sorted(left)][:k]
    ranking = ranked(titles, [0.0] * len(titles))
    scarce = catalogue.scarce(need, left, sorted(left)[:k])
    near = [t for t in titles if not {*scarce} <= {*t.lower().split()}]
    return Reply(
      Recommendation(composed, ranking), need, given_up, scarce, tuple(near)
    )


@pytest.fixture
def loaded(monkeypatch, tmp_path):
  """Has the command find a model; returns its folder."""
  (tmp_path / "model.json").touch()
  monkeypatch.setattr(Recommender, "load", lambda *_, **__: Rules())
  return str(tmp_path)


def test_turns_in_json(said, loaded, capsys):
  said("a tent", "in green, please", "not the first")
  assert main(["chat", "--model", loaded, "--json", "--top", "3"]) == 0
  lines = capsys.readouterr().out.splitlines()
  first, second, third = map(json.loads, lines)
  assert len(first["ranking"]) == 3
  assert second["required"] == [["green"]]
  assert third["refused"] == [second["ranking"][0]["title"]]
  titles = [each["title"] for each in third["ranking"]]
  assert third["refused"][0] not in titles
  assert all("Green" in title for title in titles)


def test_what_only_comes_near_is_said(said, loaded, capsys):
  said("a tent", "only green", "only from Alder")
  assert main(["chat", "--model", loaded, "--top", "5"]) == 0
  *_, last = capsys.readouterr().out.splitlines()
  assert last.strip() == (
    "(only 1 with tent left; 1 comes near: Alder Kayak Green)"
  )


def test_turns_for_people(said, loaded, capsys):
  said("a tent", "only green", "not green", "", "never read")
  assert main(["chat", "--model", loaded, "--top", "2"]) == 0
  out = capsys.readouterr().out
  assert out.count("\n  1 ") + out.startswith("  1 ") == 3
  assert "(green)" in out and "(not green)" in out


def test_many_refusals_are_counted_and_what_nothing_tells_is_said(
  said, loaded, capsys
):
  said("a tent", "not the first", "next", "cheaper")
  assert main(["chat", "--model", loaded, "--top", "4"]) == 0
  out = capsys.readouterr().out
  assert "(not 'Alder Tent Green')" in out
  assert "(not 5 titles that were refused)" in out
  assert out.count("no title has a word of 'cheaper'") == 1


def test_no_catalogue_and_nothing_to_go_by_are_told(
  said, loaded, monkeypatch, capsys
):
  said("!!!")
  assert main(["chat", "--model", loaded]) == 2
  assert "nothing to go by" in capsys.readouterr().err
  monkeypatch.setattr(Rules, "titles", ())
  assert main(["chat", "--model", loaded]) == 2
  assert "no catalogue to converse about" in capsys.readouterr().err


def test_what_is_no_text_or_title_is_refused(said, loaded, capsys, monkeypatch):
  said("a tent", "\udcff")
  assert main(["chat", "--model", loaded]) == 2
  assert "the input is no text" in capsys.readouterr().err
  monkeypatch.setattr("sys.stdin", None)
  assert main(["chat", "--model", loaded]) == 2
  assert "it is closed" in capsys.readouterr().err
  # Before anything is said.
  said()
  assert main(["chat", "--model", loaded, "--history", "<br>"]) == 2
  assert "'<br>' is no title" in capsys.readouterr().err
