"""Tests for instructrec_jax/evaluation/consistency.py."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.evaluation.consistency import (
  impossible,
  impossible_figures,
)
from instructrec_jax.evaluation.metrics import ranking_metrics

METRICS = ("hr@1", "hr@3", "hr@5", "ndcg@3", "ndcg@5")
# As the paper prints them, by table, kind of instruction and method.
PAPER = {
  ("Table 6", "BERT4Rec"): (0.5747, 0.8188, 0.9083, 0.7176, 0.7546),
  ("Table 6", "SASRec"): (0.6663, 0.8741, 0.9389, 0.7887, 0.8155),
  ("Table 6", "GPT-3.5"): (0.3640, 0.6300, 0.7300, 0.5216, 0.5623),
  ("Table 6", "InstructRec"): (0.6947, 0.8793, 0.9429, 0.8033, 0.8295),
  ("Table 7, P2", "TEM"): (0.5005, 0.7368, 0.8462, 0.6383, 0.6833),
  ("Table 7, P2", "GPT-3.5"): (0.2740, 0.5500, 0.7000, 0.4366, 0.4979),
  ("Table 7, P2", "InstructRec"): (0.6959, 0.8806, 0.9452, 0.8045, 0.8312),
  ("Table 7, I1", "TEM"): (0.5723, 0.7860, 0.8712, 0.6974, 0.7325),
  ("Table 7, I1", "GPT-3.5"): (0.3660, 0.6360, 0.7566, 0.5256, 0.5795),
  ("Table 7, I1", "InstructRec"): (0.8278, 0.9444, 0.9741, 0.8971, 0.9094),
  ("Table 7, I2", "TEM"): (0.8665, 0.9149, 0.9293, 0.8954, 0.9013),
  ("Table 7, I2", "GPT-3.5"): (0.4580, 0.7240, 0.8100, 0.6138, 0.6499),
  ("Table 7, I2", "InstructRec"): (0.9269, 0.9868, 0.9951, 0.9631, 0.9665),
  ("Table 8", "DSSM"): (0.7279, 0.9484, 0.9899, 0.8587, 0.8760),
  ("Table 8", "GPT-3.5"): (0.6700, 0.9140, 0.9480, 0.8177, 0.8399),
  ("Table 8", "InstructRec"): (0.8263, 0.9411, 0.9728, 0.8944, 0.9075),
  ("Table 9", "SASRec"): (0.0355, 0.3448, 0.5536, 0.2127, 0.2984),
  ("Table 9", "GPT-3.5"): (0.1100, 0.3480, 0.5020, 0.2481, 0.3113),
  ("Table 9", "InstructRec"): (0.1841, 0.4823, 0.6648, 0.3558, 0.4307),
  ("Table 11", "SASRec"): (0.6713, 0.8754, 0.9428, 0.7915, 0.8194),
  ("Table 11", "GPT-3.5"): (0.1380, 0.3140, 0.4780, 0.2401, 0.3067),
  ("Table 11", "Flan-T5-XL"): (0.0927, 0.2886, 0.4814, 0.2035, 0.2823),
  ("Table 11", "InstructRec"): (0.2332, 0.4392, 0.6052, 0.3511, 0.4190),
}


def as_rows(table):
  return [
    {
      "scenario": scenario,
      "ranker": ranker,
      "metric": metric,
      "value": value,
      # All but GPT-3.5 were measured on everybody.
      "n": 500 if ranker == "GPT-3.5" else None,
    }
    for (scenario, ranker), values in table.items()
    for metric, value in zip(METRICS, values, strict=True)
  ]


@pytest.mark.parametrize("candidates", [None, 10])
def test_two_of_the_papers_rows_are_impossible(candidates):
  limits = candidates and {scenario: candidates for scenario, _ in PAPER}
  assert impossible(as_rows(PAPER), rounding=5e-5, candidates=limits) == [
    "Table 7, I1, GPT-3.5: NDCG@5 is 0.5795; HR@1, HR@3, HR@5, NDCG@3 allow "
    "0.5722 to 0.5776.",
    "Table 8, GPT-3.5: NDCG@5 is 0.8399; HR@1, HR@3, HR@5, NDCG@3 allow "
    "0.8308 to 0.8324.",
  ]


def test_what_is_no_whole_number_of_requests_is_impossible():
  (first, second) = impossible(as_rows(PAPER), rounding=5e-5, whole=True)
  assert first == (
    "Table 7, I1, GPT-3.5: HR@5 is 0.7566, no multiple of 1/500."
  )
  assert second.startswith("Table 8, GPT-3.5: NDCG@5")


@st.composite
def ranked_requests(draw):
  # Few distinct values, so that most requests have ties.
  scores = draw(st.lists(st.integers(0, 3), min_size=6, max_size=6))
  return scores, draw(st.integers(0, len(scores) - 1))


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.lists(ranked_requests(), min_size=1, max_size=8))
def test_what_we_measure_is_always_possible(requests):
  metrics = ranking_metrics(
    [np.array(scores, np.float64) for scores, _ in requests],
    [target for _, target in requests],
  )
  row = {name: values.mean() for name, values in metrics.items()}
  assert impossible_figures(row, candidates=6) == []
  printed = {name: round(value, 4) for name, value in row.items()}
  assert impossible_figures(printed, candidates=6, rounding=5e-5) == []


ROW = {"hr@1": 0.2, "hr@3": 0.5}


@pytest.mark.parametrize(
  "figures",
  [
    ROW | {"ndcg@1": 0.2},
    # Targets at rank 2 or 3 add between .3 / log2(4) and .3 / log2(3).
    ROW | {"ndcg@3": 0.2 + 0.1501},
    ROW | {"ndcg@3": 0.2 + 0.1892},
    # All others at rank 4, or so far down that it adds nothing.
    ROW | {"mrr": 0.2 + 0.3 / 2 + 0.5 / 4},
    ROW | {"mrr": 0.2 + 0.3 / 3},
    {"auc": 0.3, "ece": 0.1, "log_loss": 2.5},
  ],
)
def test_what_can_be_is_let_pass(figures):
  assert impossible_figures(figures) == []


@pytest.mark.parametrize(
  ("figures", "sentence"),
  [
    ({"hr@1": 1.1}, "HR@1 is 1.1000."),
    ({"mrr": -0.1}, "MRR is -0.1000."),
    ({"auc": float("nan")}, "AUC is nan."),
    ({"log_loss": -0.1}, "LOG LOSS is -0.1000."),
    ({"hr@1": 0.5, "hr@3": 0.4}, "HR@3 is 0.4000; HR@1 allow 0.5000 to 1"),
    ({"hr@1": 0.5, "ndcg@1": 0.6}, "NDCG@1 is 0.6000; HR@1 allow 0.5000 to"),
    ({"hr@5": 0.5, "ndcg@5": 0.51}, "NDCG@5 is 0.5100"),
    ({"hr@5": 0.5, "ndcg@5": 0.19}, "NDCG@5 is 0.1900"),
    (ROW | {"ndcg@3": 0.349}, "allow 0.3500 to 0.3893."),
    (ROW | {"ndcg@3": 0.390}, "allow 0.3500 to 0.3893."),
    (ROW | {"mrr": 0.476}, "MRR is 0.4760; HR@1, HR@3 allow 0.3000 to 0.4750"),
    (ROW | {"mrr": 0.299}, "MRR is 0.2990"),
    # The HR between leaves no room, though neither end alone says so.
    ({"hr@3": 0.5, "ndcg@5": 0.72, "hr@5": 1.0}, "NDCG@5 is 0.7200"),
  ],
)
def test_what_cannot_be_is_named(figures, sentence):
  (found,) = impossible_figures(figures)
  assert sentence in found


def test_every_candidate_is_among_all_of_them():
  assert impossible_figures({"hr@10": 0.99}) == []
  (found,) = impossible_figures({"hr@10": 0.99}, candidates=10)
  assert found == "HR@10 is 0.9900; 10 candidates allow 1.0000 to 1.0000."
  assert impossible_figures({"mrr": 0.05}, candidates=10)


def test_rounding_is_allowed_for_and_no_more():
  def row(ndcg):
    return impossible_figures(ROW | {"ndcg@3": ndcg}, rounding=5e-5)

  # At most .38928; rounding adds up to .00005 by both HRs, and to itself.
  assert not row(0.3893)
  assert row(0.3894)
  assert impossible_figures(ROW | {"ndcg@3": 0.3893})
