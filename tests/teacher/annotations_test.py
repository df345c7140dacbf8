import json

import pytest

from instructrec_jax.teacher.annotations import (
  Quality,
  judge,
  names_title,
  read_texts,
)
from instructrec_jax.teacher.chat import Status


@pytest.mark.parametrize(
  ("text", "title", "named"),
  [
    ("I want Resident Evil 4 for my son", "Resident Evil 4", True),
    ("I want RESIDENT evil, 4!", "Resident Evil 4", True),
    ("I want an evil resident", "Resident Evil 4", False),
    ("something like the Behringer guitar link cable",
     "Behringer Guitar Link Cable UCG102, Black", True),
    ("a cable for my guitar", "Behringer Guitar Link Cable UCG102", False),
    ("a tetris clone", "Tetris", True),
    ("tetrises", "Tetris", False),
    ("anything", "", False),
  ],
)  # fmt: skip
def test_a_title_is_named_by_a_run_of_its_words(text, title, named):
  assert names_title(text, title) is named


@pytest.mark.parametrize(
  ("kind", "text", "verdict"),
  [
    ("preference", "The user likes strings.", Quality.OK),
    ("preference", "I like strings.", Quality.WRONG_PERSONA),
    ("preference", "The user says I’m a fan.", Quality.WRONG_PERSONA),
    ("preference", "", Quality.EMPTY),
    ("intention", "I want strings.", Quality.OK),
    ("intention", "The user wants strings.", Quality.WRONG_PERSONA),
    ("intention", "I want Ernie Ball strings.", Quality.TITLE_LEAK),
  ],
)
def test_each_fault_has_its_name(kind, text, verdict):
  assert judge(kind, text, title="Ernie Ball Strings") == verdict


def test_fields_are_judged_one_by_one_and_put_on_one_line():
  raw = json.dumps({"user_view": "I want\n\n strings.", "item_view": ""})
  assert read_texts("intention", status=Status.ANSWERED, text=raw) == {
    "user_view": (Quality.OK, "I want strings."),
    "item_view": (Quality.EMPTY, ""),
  }


@pytest.mark.parametrize("status", [s for s in Status if s != Status.ANSWERED])
def test_an_answer_that_is_none_gives_its_status_and_no_text(status):
  found = read_texts("intention", status=status, text='{"user_view": "I')
  assert found == {"answer": (Quality(status.value), "")}
