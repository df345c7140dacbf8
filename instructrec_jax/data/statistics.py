"""The numbers of the paper's Table 5."""

from collections.abc import Sequence
from typing import Any

from instructrec_jax import paper
from instructrec_jax.data.cleaning import category_labels
from instructrec_jax.data.splits import Sequences, Splits
from instructrec_jax.errors import InputError
from instructrec_jax.records import Item

# Table 5 as printed; its sparsity follows from the counts.
PUBLISHED = {
  name: {key: value for key, value in counts.items() if key != "sparsity"}
  for name, counts in paper.results()["datasets"].items()
}


def dataset_statistics(
  *,
  sequences: Sequences,
  splits: Splits,
  items: Sequence[Item],
  interactions_before_cut: int,
) -> dict[str, Any]:
  """Returns what `statistics.json` holds.

  `interactions` counts what is left after each user's last items were kept;
  `sparsity` and `average_length` are of these. `items_without_category` counts
  items without a label beside the roots (see `categories.root_categories`).
  """
  users, kept = len(sequences), len(sequences.items)
  return {
    "users": users,
    "items": len(items),
    "interactions_before_cut": interactions_before_cut,
    "interactions": kept,
    "sparsity": 1 - kept / (users * len(items)),
    "average_length": kept / users,
    "training_targets": len(splits.training.users),
    "test_users": len(splits.test.users),
    "items_without_category": category_labels(items).count(()),
  }


def table(name: str, statistics: dict[str, Any]) -> str:
  """Returns the statistics as Table 5 prints them, in Markdown."""
  cells = {
    "Dataset": name,
    "#Users": f"{statistics['users']:,}",
    "#Items": f"{statistics['items']:,}",
    "#Inters": f"{statistics['interactions']:,}",
    "#Sparsity": f"{statistics['sparsity']:.3%}",
    "Avg. length": f"{statistics['average_length']:.2f}",
  }
  widths = [max(len(k), len(v)) for k, v in cells.items()]
  rule = ["-" * width for width in widths]
  return "\n".join(
    "| "
    + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))
    + " |"
    for row in (cells.keys(), rule, cells.values())
  )


def check_published(statistics: dict[str, Any], name: str) -> None:
  """Compares with the paper's Table 5.

  Args:
    statistics: what `dataset_statistics` returned.
    name: of `PUBLISHED`.

  Raises:
    InputError: they differ; names each number that does.
  """
  differ = [
    f"{_printed(statistics[key])} and not {_printed(published)} "
    f"{key.replace('_', ' ')}"
    for key, published in PUBLISHED[name].items()
    if _printed(statistics[key]) != _printed(published)
  ]
  if differ:
    raise InputError(
      f"the folder is written, but it is not the {name} of the paper's Table "
      f"5: it has {', '.join(differ)}."
    )


def _printed(value: float) -> str:
  return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
