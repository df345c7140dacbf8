"""What is selected on validation: a template's form, a normalisation.

The paper tests each scenario with the instruction that does best on validation
(section 3.1.2).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.evaluation import requests
from instructrec_jax.evaluation.metrics import auc, ranking_metrics
from instructrec_jax.evaluation.prompt_rankers import (
  NormalisingRanker,
  SharedScores,
)
from instructrec_jax.evaluation.requests import RequestSource, TemplateForms
from instructrec_jax.evaluation.scores import score_batches, score_margins
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.instructions.templates import Form
from instructrec_jax.records import Ranker

# The value of `normalisation` that selects each scenario's best.
SELECT = "select"
# Validation requests that decide, unless a limit says otherwise.
SAMPLE = 500


def choose_template(
  scenario: Scenario,
  model: Ranker,
  *,
  forms: TemplateForms,
  unlisted: bool = False,
  limit: int | None,
) -> tuple[Form, dict[str, Any]]:
  """Ranks validation requests with each form of a scenario's family.

  `limit` of them are drawn at random; `SAMPLE` if None. With `unlisted`, also
  with those that show the same and do not list the candidates.

  Returns:
    The best form (of equally good ones the first), and "scenario", "metric",
    "chosen", "validation_requests", "forms" with each one's "form",
    "unlisted" and "validation", and "validation" with their "mean" and "sd".

  Raises:
    InputError: the folder was built from other annotations or templates.
  """
  of_family = forms.of_scenario(scenario, unlisted=unlisted)
  limit = sample_size(scenario, limit)
  sources = [
    forms.requests(scenario, form=form, split="validation", limit=limit)
    for form in of_family
  ]
  values = [
    _first_metric(scenario, source, model, label=form.name)
    for form, source in zip(of_family, sources, strict=True)
  ]
  best = of_family[int(np.argmax(values))]
  return best, {
    "scenario": scenario.name,
    "metric": scenario.metrics[0],
    "chosen": best.name,
    "validation_requests": sources[0].count,
    "forms": [
      {
        "form": form.name,
        "unlisted": is_unlisted(scenario, form),
        "validation": value,
      }
      for form, value in zip(of_family, values, strict=True)
    ],
    "validation": _mean_and_sd(values),
  }


def is_unlisted(scenario: Scenario, form: Form) -> bool:
  """Whether a form leaves out the list of candidates that a scenario has."""
  return scenario.lists_candidates and "candidates" not in form.slots


def add_test_metrics(
  choice: Mapping[str, Any],
  scenario: Scenario,
  model: Ranker,
  *,
  forms: TemplateForms,
  unlisted: bool = False,
  split: str,
  limit: int | None,
  of_best: float,
) -> dict[str, Any]:
  """Adds each form's metric on the table's requests; ranks those not chosen.

  Returns:
    The choice of `choose_template` with "test" (whatever the split) of each
    form, and their "mean" and "sd". `of_best` is the chosen form's value.
  """
  values = [
    of_best
    if form.name == choice["chosen"]
    else _first_metric(
      scenario,
      forms.requests(scenario, form=form, split=split, limit=limit),
      model,
      label=form.name,
    )
    for form in forms.of_scenario(scenario, unlisted=unlisted)
  ]
  tested = [
    {**form, "test": value}
    for form, value in zip(choice["forms"], values, strict=True)
  ]
  return {**choice, "forms": tested, "test": _mean_and_sd(values)}


def choose_normalisation(
  scenario: Scenario,
  model: NormalisingRanker,
  *,
  wrap: Callable[[Ranker], Ranker],
  source: RequestSource,
) -> dict[str, Any]:
  """Ranks validation requests under each of its normalisations.

  They are scored once.

  `wrap` makes a ranker permute, or play tournaments, as in the table.

  Returns:
    "scenario", "metric", "chosen" (of equally good ones the first, so the sum
    before all), "validation_requests" and "validation", by normalisation.
  """
  shared = SharedScores(model, model.normalisations)
  values = {
    str(name): _first_metric(
      scenario, source, wrap(shared.ranker(name)), label=name
    )
    for name in model.normalisations
  }
  return {
    "scenario": scenario.name,
    "metric": scenario.metrics[0],
    "chosen": max(values, key=lambda name: values[name]),
    "validation_requests": source.count,
    "validation": values,
  }


def sample_size(scenario: Scenario, limit: int | None) -> int:
  """Returns how many validation requests decide, at most."""
  return limit or requests.default_limit(scenario) or SAMPLE


def _first_metric(
  scenario: Scenario, source: RequestSource, ranker: Ranker, *, label: str
) -> float:
  """Returns the model's mean of the deciding metric: HR@1, or AUC."""
  rankers, label = {"model": ranker}, f"{scenario.name}, {label}"
  if scenario.pointwise:
    margins, labels = score_margins(source, rankers, label=label)
    return auc(margins["model"], labels)
  values = [
    ranking_metrics(score("model"), [r.target or 0 for r in batch])[
      scenario.metrics[0]
    ]
    for batch, score in score_batches(source, rankers, label=label)
  ]
  return float(np.concatenate(values).mean())


def _mean_and_sd(values: Sequence[float]) -> Mapping[str, float]:
  sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
  return {"mean": float(np.mean(values)), "sd": float(sd)}
