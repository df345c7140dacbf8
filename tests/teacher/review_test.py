import csv
import json

import pytest

from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.teacher import review
from instructrec_jax.teacher.annotate import annotate_offline
from instructrec_jax.teacher.annotations import (
  Annotations,
  open_store,
  title_words,
)
from instructrec_jax.teacher.chat import ChatAnswer, Status, schema_problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("review") / "shop"
  folder = prepare(format="synthetic", users=40, min_count=0, out=path)
  annotate_offline(path)
  return folder


def _fill(path, answer):
  rows = list(csv.reader(path.open(newline="")))
  filled = [rows[0], *(row[:6] + answer(row) for row in rows[1:])]
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(filled)


def test_samples_are_of_both_kinds_and_drawn_by_seed(folder):
  samples = review.draw_samples(folder, count=15, seed=1)
  kinds = [sample.kind for sample in samples]
  assert kinds.count("preference") == kinds.count("intention") == 15
  assert samples == review.draw_samples(folder, count=15, seed=1)
  assert samples != review.draw_samples(folder, count=15, seed=2)
  titles = [item.title for item in folder.items]
  for sample in samples:
    items = folder.sequences.user(sample.user)
    assert sample.target == titles[items[sample.position]]
    if sample.kind == "preference":
      history = "; ".join(titles[i] for i in items[: sample.position])
      assert sample.information == history


def test_a_filled_sheet_becomes_table_3(folder, tmp_path):
  path = tmp_path / "sheet.csv"
  review.write_sheet(review.draw_samples(folder, count=20), path)
  _fill(path, lambda row: ["Yes", "no", "", "1"])
  rows = review.read_sheet(path)
  assert [(r["kind"], r["question"], r["share"], r["n"]) for r in rows] == [
    (kind, question, share, 20)
    for kind in ("preference", "intention")
    for question, share in (
      ("from_user", 1.0),
      ("world_knowledge", 0.0),
      ("fits_target", 1.0),
    )
  ]
  # Wilson's interval of 20 out of 20.
  assert rows[0]["high"] == 1 and rows[0]["low"] == pytest.approx(
    0.8389, abs=1e-4
  )
  assert "93%" in review.format_table(rows)


def test_a_judge_is_asked_the_same_and_its_answers_counted(folder):
  samples = review.draw_samples(folder, count=3)
  request = review.judge_request(samples[0], model="m", parameters={})
  for text in (samples[0].text, samples[0].target, samples[0].information):
    assert text in request.user
  assert all(words in request.system for words in review.QUESTIONS.values())
  verdict = json.dumps(dict.fromkeys(review.QUESTIONS, True))
  assert schema_problem(verdict, request.schema) is None
  rows = review.judged(samples, {0: verdict, 4: verdict})
  assert [(r["kind"], r["n"], r["share"]) for r in rows[::4]] == [
    ("preference", 1, 1.0),
    ("intention", 1, 1.0),
  ]


def test_what_the_judge_denies_can_be_set_aside(tmp_path):
  path = tmp_path / "shop"
  folder = prepare(format="synthetic", users=20, min_count=0, out=path)
  annotate_offline(path)
  samples = review.draw_samples(folder, count=1000)
  requests = [
    review.judge_request(sample, model="m", parameters={}) for sample in samples
  ]
  answers = {
    place: json.dumps(dict.fromkeys(review.QUESTIONS, place % 3 > 0))
    for place in range(len(samples))
  }
  with open_store(folder) as store:
    store.put_all(
      [
        (request, ChatAnswer(request.key, Status.ANSWERED, text=answers[place]))
        for place, request in enumerate(requests)
      ],
      teacher="judge",
    )
  # Verdicts alone change nothing.
  assert review.draw_samples(folder, count=1000) == samples
  with open_store(folder) as store:
    store.add_subjects(review.rejected(samples, requests, answers))
  left = review.draw_samples(folder, count=1000)
  assert left == [s for place, s in enumerate(samples) if place % 3]
  counted = Annotations.load(folder).quality.values()
  denied = sum(verdicts.get("judged_no", 0) for verdicts in counted)
  assert denied == len(samples) - len(left)


def test_samples_are_shown_with_what_can_be_counted(folder):
  samples = review.draw_samples(folder, count=10)
  text = review.format_samples(samples, title_words(folder))
  lines = text.splitlines()
  assert len(lines) == 22
  assert lines[:20] == [f"{s.kind}  {s.text}" for s in samples]
  assert lines[20] == "10 preferences: 0 name a brand or title"
  assert lines[21] == (
    "10 intentions: 0 name a brand or title, 10 ask for something"
  )


def test_verdicts_paid_for_by_the_first_version_are_found():
  sample = review.Sample(
    "intention", 3, 2, "Great. I needed it.", "I want it.", "Tuner"
  )
  request = review.judge_request(
    sample,
    model="gpt-4o-mini",
    parameters={"temperature": 0.4, "max_completion_tokens": 512},
  )
  assert request.key == (
    "cfc7ceaa84cd3a91f0d6af62d436a0ec97ba7974843078dca1179892d52067de"
  )


def test_wrong_sheets_are_refused(folder, tmp_path):
  path = tmp_path / "sheet.csv"
  with pytest.raises(InputError, match="cannot be read"):
    review.read_sheet(path)
  path.write_text("a,b\n")
  with pytest.raises(InputError, match="not a sheet"):
    review.read_sheet(path)
  path.unlink()
  review.write_sheet(review.draw_samples(folder, count=2), path)
  with pytest.raises(InputError, match="--force"):
    review.write_sheet([], path)
  _fill(path, lambda row: ["perhaps", "", "", ""])
  with pytest.raises(InputError, match="line 2: 'perhaps' is neither"):
    review.read_sheet(path)
