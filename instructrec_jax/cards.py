"""What a model and a dataset say of themselves: cards in Markdown.

`build` writes a dataset's into its folder, `export` a model's into the export.
They have no date, so that the same inputs make the same bytes, and end with a
hash of themselves, so that one that people have written on is not replaced.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from instructrec_jax.errors import InputError

DATASET_CARD = "DATASET_CARD.md"
MODEL_CARD = "MODEL_CARD.md"

_SPLITS = {
  "leave-one-out": "each user's last item is for the test, the one before for "
  "validation",
  "global-time": "all interactions are cut at two moments in time",
  "official": "the source's own",
}


def refuse_changed(card: pathlib.Path) -> None:
  """Raises InputError if a card is there, and is not as it was made."""
  if not card.is_file():
    return
  text = card.read_bytes().decode(errors="replace")
  above, _, _ = text.rpartition("<!--")
  if _made(above) != text:
    raise InputError(
      f"{card}: somebody has written it, or changed it, and it would be "
      "replaced: move it away."
    )


def _made(text: str) -> str:
  digest = hashlib.sha256(text.encode()).hexdigest()
  return f"{text}<!-- sha256 of what is above: {digest} -->\n"


def dataset_card(
  name: str,
  *,
  manifest: Mapping[str, Any],
  statistics: Mapping[str, Any],
  instructions: Mapping[str, Any],
) -> str:
  """Returns the card of a dataset folder that is built.

  Args:
    name: the folder's.
    manifest: of `prepare`, manifest.json.
    statistics: of `prepare`, statistics.json.
    instructions: of `build`, instructions.json.
  """
  options, built = manifest["options"], instructions["options"]
  split = options["split"]
  inputs = [
    f"| `{_file(path)}` | `{digest}` |"
    for path, digest in sorted(manifest.get("inputs", {}).items())
  ]
  families = instructions["families"]
  rows = [
    " | ".join(
      [f"| `{family}`", *(f"{families[s][family]:,}" for s in families)]
    )
    + " |"
    for family in families["train"]
  ]
  requests = [
    f"| `{scenario}` | {entry['rows']:,} | `{entry['template']}` |"
    for scenario, entry in sorted(instructions["requests"].items())
    if isinstance(entry, Mapping)
  ]
  teachers = instructions["annotations"].get("teachers") or ["none"]
  parts = [
    f"# Dataset card: {name}",
    "Users' interactions with items, the instructions made of them, and the "
    "ranking requests that models are compared on. Made by instructrec_jax.",
    "## Source",
    f"Format `{options.get('format', 'unknown')}`"
    + (
      ": a made-up shop, with tastes that are known (`planted.json`)."
      if options.get("format") == "synthetic"
      else ". The licence and the terms of use are those of the source, and so "
      "is what its reviews tell of people."
    ),
    *_table("| file | sha256 |", inputs),
    "## Size",
    *_table(
      "| | |",
      [
        f"| {key.replace('_', ' ')} | {value:,} |"
        if isinstance(value, int)
        else f"| {key.replace('_', ' ')} | {value:.4g} |"
        for key, value in statistics.items()
      ],
    ),
    "## How it was prepared",
    _list(
      [
        f"users and items with fewer than {options['min_count']} "
        "interactions were left out, again and again until none was"
        if options.get("min_count")
        else "no users or items were left out for having few interactions",
        f"of each user the last {options['max_items']} items were kept"
        if options.get("max_items")
        else "of each user all items were kept",
        f"split: {split}, {_SPLITS.get(split, '')}".rstrip(", "),
        f"seed {manifest.get('seed')}, for what is drawn: negatives, and the "
        "order of equal times",
        *(note.rstrip(".") for note in manifest.get("notes", [])),
      ]
    ),
    "## Instructions",
    f"Preferences and intentions by {', '.join(teachers)}; "
    f"{len(instructions['templates'])} templates; at most "
    f"{built['input_length']} tokens an instruction, by the vocabulary "
    f"`{instructions['vocabulary_sha256'][:16]}`. P1 is a history, P2 a "
    "preference in words; I1 a vague and I2 a specific intention; T0 to T3 are "
    "pointwise, pairwise, matching and reranking.",
    *_table(
      f"| family | {' | '.join(families)} |", rows, figures=len(families)
    ),
    "## Ranking requests",
    *_table("| scenario and split | requests | worded by |", requests),
    "## Limits",
    _list(
      [
        "a negative is an item that the user did not buy, which is not one "
        "that the user would not have bought",
        "the model reads titles alone: items of one title are one to it",
        *(
          [
            f"{built['unlisted']:.0%} of training's lists of candidates lack "
            "the item that was bought, so that a model does not copy from them"
          ]
          # Older folders do not say.
          if built.get("unlisted")
          else []
        ),
        "texts by the offline teacher are made by rules; those of a chat model "
        "may be wrong about a person",
      ]
    ),
  ]
  return _made("\n\n".join(parts) + "\n\n")


def model_card(
  name: str,
  *,
  step: int,
  config: Mapping[str, Any],
  parameters: int,
  vocabulary: str,
  titles: int,
  templates: Sequence[str],
  run: Mapping[str, Any],
  metrics: Mapping[str, float],
  int8: Mapping[str, Any] | None = None,
) -> str:
  """Returns the card of an exported model.

  Args:
    name: the model's.
    step: of training, that was exported.
    config: the model's sizes, model.json.
    parameters: how many it has.
    vocabulary: the SHA-256 of its SentencePiece model.
    titles: of the catalogue; 0 if it has none.
    templates: names of those that it is asked in.
    run: what `train` was started with, run.json; {} if it is not known.
    metrics: of validation at that step, or the last before it.
    int8: what weights in int8 change, if they are; of `int8_gate.measure`.
  """
  trained = [
    f"| {key.replace('_', ' ')} | {run[key]} |"
    for key in ("batch_size", "seed", "dtype", "data_sha256", "lora_rank")
    if run.get(key) is not None
  ]
  catalogue = (
    f"{titles:,} titles to recommend from"
    if titles
    else "no catalogue: it ranks the titles that it is given"
  )
  parts = [
    f"# Model card: {name}",
    "A T5 1.1 that ranks items by how likely their titles are as the answer to "
    "an instruction, which tells what somebody likes, had and wants "
    "(InstructRec, arXiv 2305.07001). Made by instructrec_jax.",
    "## What it is",
    *_table(
      "| | |",
      [
        f"| parameters | {parameters:,} |",
        f"| layers | {config.get('num_encoder_layers')} encoder, "
        f"{config.get('num_decoder_layers')} decoder |",
        f"| width | {config.get('emb_dim')} |",
        f"| vocabulary | {config.get('vocab_size'):,} pieces, "
        f"`{vocabulary[:16]}` |",
        f"| training step | {step:,} |",
        f"| catalogue | {catalogue} |",
        f"| templates | {len(templates)}: {templates[0]} to {templates[-1]} |",
      ],
    ),
    "## How it was trained",
    *(
      _table("| | |", trained)
      or ["The folder that it was exported from does not say."]
    ),
    *(
      _table(
        "| validation | |",
        [f"| {key} | {value:.3f} |" for key, value in metrics.items()],
      )
    ),
    *(_in_int8(int8) if int8 else []),
    "## Use",
    "```python\nimport instructrec_jax as ir\n\n"
    'recommender = ir.Recommender.load("this folder")\n'
    'recommender.rank("a wish", candidates=["one title", "another"])\n```',
    "`instructrec serve --model FOLDER` answers over HTTP. Every load verifies "
    "all files of the folder, this one too: write what you want to add in "
    "another beside it.",
    "## Limits",
    _list(
      [
        "it knows the titles and the purchases that it was trained on; of "
        "others it reads the words alone",
        "it learned from what people bought, so what many buy comes first, and "
        "whatever is unfair in the data is in its rankings",
        "a probability is of a title as its answer, and no promise that the "
        "user likes the item",
        "do not use it to decide about people",
      ]
    ),
  ]
  return _made("\n\n".join(parts) + "\n\n")


def _in_int8(measured: Mapping[str, Any]) -> list[str]:
  before, after = measured["hr@1_before"], measured["hr@1"]
  return [
    "## Weights in int8",
    "1.1 bytes a weight, where float32 has 4. Measured on "
    f"{measured['requests']:,} validation requests, with the weights as they "
    "were trained and in int8:",
    *_table(
      "| | |",
      [
        f"| HR@1 as trained | {before:.4f} |",
        f"| HR@1 in int8 | {after:.4f} |",
        f"| allowed difference | {measured['epsilon']:.4f} |",
        f"| requests that keep their best candidate | "
        f"{measured['equal_top_1']:.1%} |",
        f"| largest difference of a log-likelihood | "
        f"{measured['largest_difference']:.3f} |",
      ],
    ),
  ]


def _file(path: str) -> str:
  """Returns a file's name: its folder is of somebody's machine."""
  return path.rpartition("/")[2]


def _table(
  head: str, rows: Sequence[str], *, figures: int | None = None
) -> list[str]:
  """Returns a table in a list, or none without rows."""
  columns = head.count("|") - 1
  ruler = ["---"] * columns
  if figures:
    ruler[-figures:] = ["---:"] * figures
  lines = [head, f"| {' | '.join(ruler)} |", *rows]
  return ["\n".join(lines)] if rows else []


def _list(items: Sequence[str]) -> str:
  return "\n".join(f"- {item}." for item in items)
