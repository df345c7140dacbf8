"""Tests for instructrec_jax/evaluation/report.py."""

from instructrec_jax.evaluation import report
from instructrec_jax.instructions.scenarios import POINTWISE

from .conftest import small_results


def changed(**changes):
  results = small_results()
  results["scenarios"][0] |= changes
  return results


def test_the_table_lines_up_and_says_what_it_shows():
  text = report.markdown(small_results())
  assert (
    "### sequential <P1,I0,T3>: 10 candidates, 1,200 test requests "
    "(the paper's Table 6)\n"
  ) in text
  assert "| .400 ±.010 | 0.012 |     0 |        900 |" in text
  assert "| .625 ±.010 | 1,234 | 3.46B |          - |" in text
  assert ".400 ±.010" in text and ".625 ±.010" in text
  assert "HR@1 +.225 [+.200, +.250], p < .002" in text
  table = [line for line in text.splitlines() if line.startswith("|")]
  assert len(table) == 4 and len({len(line) for line in table}) == 1


def test_the_models_habits_take_a_line_each():
  lines = report.markdown(small_results()).splitlines()
  remarks = [line for line in lines if line.startswith("- the model")]
  assert remarks == [
    "- the model is asked in the words of A07_p1_i0_t3",
    "- the model's HR@1 by the target's place in the prompt: "
    "largest - smallest .031, p = .393",
    "- the model's first choices: mean popularity percentile .750 (of all "
    "candidates .500), .125 of the catalogue; HR@1 .250 for head targets, "
    ".250 for tail targets",
  ]


def test_a_heading_names_what_is_unusual():
  def heading(**changes):
    return report.heading(changed(**changes)["scenarios"][0], split="test")

  assert "(the paper" not in heading(table="")
  assert ": hard negatives, 10 candidates" in heading(candidates="hard")
  assert ": searched items, 10 candidates" in heading(candidates="items")
  assert ": up to 10 candidates" in heading(candidates="catalogue")
  assert ": Yes or No, 1,200 test" in heading(metrics=POINTWISE)
  assert "candidates, in a tournament, " in heading(tournament=True)


def test_orders_of_candidates_are_told():
  assert (
    "in the words of A07_p1_i0_t3, scores averaged over 5 orders\n"
    in report.markdown(changed(permutations=5))
  )


def test_hard_negatives_tell_whose_they_are():
  matcher = {"name": "tfidf", "recall": {"10": 0.0625, "100": 0.25}}
  results = changed(matcher=matcher)
  results["end_to_end"] = [
    {**row, "value": 0.01, "low": 0.0, "high": 0.02} for row in results["rows"]
  ]
  text = report.markdown(results)
  assert (
    "- the negatives are what tfidf retrieves for the history, and the target; "
    "by itself its recall is .062 at 10, .250 at 100"
  ) in text
  _, behind = text.split(report.END_TO_END)
  assert behind.count(".010 ±.010") == 4
  results["labels"]["tfidf"] = "tfidf"
  assert (
    "history, so the row tfidf is judged on its own, and"
    in report.markdown(results)
  )


def test_what_each_row_saw_stands_below_the_table():
  results = changed(
    sees={
      "popularity": ["purchases"],
      "cooccurrence": ["history", "purchases"],
      "bm25": ["query", "titles"],
      "model": ["query", "titles"],
    },
    sees_beside={"popularity": [], "cooccurrence": ["history"], "model": []},
    same_query=0.171,
  )
  results["labels"] |= {"cooccurrence": "cooccurrence", "bm25": "bm25"}
  results["rows"] += [
    row | {"ranker": "cooccurrence"} for row in results["rows"][:2]
  ]
  text = report.markdown(results)
  assert "| cooccurrence +history " in text
  assert (
    "- popularity saw purchases; cooccurrence +history saw history and "
    "purchases; bm25, model saw query and titles ("
  ) in text
  assert "- 43.8% of the targets have the time of another" in text
  assert "not known: they are ordered by a hash\n" in text
  assert "- 17.1% of the requests have a negative that the very" in text


def test_all_forms_stand_below_the_block():
  results = small_results()
  forms = [
    {"form": "A07", "validation": 0.25, "test": 0.5},
    {"form": "A08", "validation": 0.75, "test": 0.25},
  ]
  choice = {
    "scenario": "sequential",
    "metric": "hr@1",
    "chosen": "A08",
    "validation_requests": 500,
    "forms": forms,
    "validation": {"mean": 0.5, "sd": 0.354},
    "test": {"mean": 0.375, "sd": 0.177},
  }
  results["templates"] = [choice]
  text = report.markdown(results)
  block, below = text.split("The model's template is the best of 2 on 500 ")
  assert "candidates sha256 abab" in block
  rows = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in below.splitlines()
    if line.startswith("|")
  ]
  assert rows[0] == ["template", "validation HR@1", "test HR@1"]
  assert rows[2:] == [
    ["A07", ".250", ".500"],
    ["A08 (chosen)", ".750", ".250"],
    ["mean ± sd", ".500 ±.354", ".375 ±.177"],
  ]
  results["templates"] = [choice | {"forms": forms[1:]}]
  assert "The model's template" not in report.markdown(results)


def chat_results(*, n, of=1200):
  """Results with a chat model's sample of n requests."""
  results = small_results()
  results["labels"]["chat"] = "tiny-chat"
  rows = [
    row | {"n": n}
    for row in [
      *results["rows"],
      *({**r, "ranker": "chat", "value": 0.3} for r in results["rows"][:2]),
    ]
  ]
  results["rows"] += rows[-2:]
  results["chat"] = [
    {
      "scenario": "sequential",
      "ranker": "chat",
      "model": "tiny-chat",
      "n": n,
      "of": of,
      "seed": 7,
      "lines": 4321,
      "illegal": 0.0123,
      "duplicates": 4,
      "incomplete": 10,
      "refused": 5,
      "truncated": 2,
      "failed": 1,
      "short": 3,
      "rows": rows,
      "comparisons": [
        results["comparisons"][0]
        | {"against": "chat", "n": n, "p": 2 / 1001, "p_holm": 8 / 1001}
      ],
    }
  ]
  return results


def test_a_chat_models_sample_and_conduct_are_told():
  text = report.markdown(chat_results(n=500))
  assert "| tiny-chat (of 500) |" in text
  assert (
    "- tiny-chat was asked 500 of the 1,200 requests, drawn at random, with "
    "the candidates in a random order (seed 7); 1.2% of the 4,321 lines of its "
    "answers name no candidate (illegal), 4 repeat one; of the answers 5 were "
    "refused, 2 cut off, 1 failed and 3 left candidates out; what an answer "
    "does not name is tied behind what it names\n"
    "- model - tiny-chat: HR@1 +.225 [+.200, +.250], p < .008, on these 500\n"
  ) in text
  _, below = text.split("All of them on the same 500 requests:")
  table = [line for line in below.splitlines() if line.startswith("|")]
  assert [row.split("|")[1].strip() for row in table[2:]] == [
    *("popularity", "model", "tiny-chat")
  ]


def test_a_chat_model_asked_everything_needs_no_second_table():
  text = report.markdown(chat_results(n=1200))
  assert "asked all 1,200 requests, with" in text
  assert "| tiny-chat  |" in text and "on the same" not in text


def test_p_is_the_corrected_one():
  results = small_results()
  results["comparisons"][0] |= {"p": 0.01, "p_holm": 0.04}
  assert "p = .040" in report.markdown(results)
  results["comparisons"][0] |= {"p": 2 / 1001, "p_holm": 12 / 1001}
  assert "p < .012" in report.markdown(results)


def test_inconsistent_metrics_end_the_page():
  results = small_results()
  assert "inconsistent" not in report.markdown(results)
  results["impossible"] = ["sequential, model: HR@1 is 1.2000."]
  assert report.markdown(results).endswith(
    "Internal error: inconsistent metrics: sequential, model: HR@1 is 1.2000.\n"
  )
