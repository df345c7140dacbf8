"""The numbers of the paper's Table 5."""

from collections.abc import Sequence
from typing import Any

from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import LeaveOneOut
from instructrec_jax.records import Item


def dataset_statistics(
  *,
  sequences: Sequences,
  splits: LeaveOneOut,
  items: Sequence[Item],
  interactions_before_cut: int,
) -> dict[str, Any]:
  """Returns what `statistics.json` holds.

  `interactions` counts what is left after each user's last items were kept;
  `sparsity` and `average_length` are of these. `items_without_category` counts
  items that have none beside those that all categorised items have (such as
  the department's name).
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
    "items_without_category": _without_category(items),
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


def _without_category(items: Sequence[Item]) -> int:
  categories = [set(item.categories) for item in items]
  named = [names for names in categories if names]
  common = set.intersection(*named) if named else set()
  return sum(names <= common for names in categories)
