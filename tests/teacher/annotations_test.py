import json

import pytest

from instructrec_jax.teacher.annotations import read_texts
from instructrec_jax.teacher.chat import Status
from instructrec_jax.teacher.quality import Quality


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
