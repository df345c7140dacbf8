"""Lists the instruction templates with their aspects and a rendered example."""

import collections
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from instructrec_jax.cli import options as opt

if TYPE_CHECKING:
  from instructrec_jax.instructions.templates import Template

EXAMPLE = "instructrec templates --file my_templates.yaml"

_GROUPS = {
  "A": "recommendation",
  "B": "product search",
  "C": "personalised search",
  "D": "pairwise",
  "E": "a crowd's voices",
  "F": "a crowd's voices, held out",
}
_PREFERENCE = "The user prefers horror games with a strong story."
# By the value of {query}, as `aspects.Query` has it.
_QUERIES = {
  "P2": "I prefer horror games with a strong story.",
  "I1": "I want a scary game for long evenings.",
  "I2": "PlayStation 4, Games",
}
_TARGET = "Resident Evil: Revelations 2"
_HISTORY = ("Resident Evil 4", "The Evil Within", "Alien: Isolation")
_OTHERS = ("FIFA 15", "Just Dance 2016", "Gran Turismo 6")

_INTRODUCTION = """\
# The instruction templates

`instructrec templates --markdown` prints this page: every template beside one
of its forms, filled in, and the answer that a model is tuned to give. P1 is a
history, P2 a preference in words; I1 is a vague and I2 a specific intention; T0
to T3 are pointwise, pairwise, matching and reranking. A form without a
preference leaves the `[[part]]` out.

A preference in words is about "the user"; quoted as a query, as something that
somebody typed, it says "I". A specific intention lists the target's categories
without the root that (nearly) all items share, as it tells none of them apart;
the paper's example, "Video Games, PC, Accessories, Gaming Mice", has it.
"""
_OWN = """
## A template of your own

A file of templates is a YAML list, written as the package's own is:

```
- name: Z01
  preferences: [P1]
  optional: [P2]
  queries: [I1, I2]
  task_form: T3
  response: item
  text: >-
    A user has bought: {history}. [[The user's taste: {preference}. ]]Now the
    user asks: "{query}". [[Circumstances: {context}. ]]One of these:
    {candidates}.
```

| Key | Value |
| --- | --- |
| `name` | a capital letter, which is the group, and two digits |
| `preferences` | what is always shown: `[P0]`, `[P1]`, `[P2]` or `[P1, P2]` |
| `optional` | `[P2]` beside `[P1]`: a form with its `[[part]]` and one \
without; may be missing |
| `queries` | what the query can be, of `P2`, `I1` and `I2`: a form for each, \
and one for the item's view of `I1`; may be missing |
| `task_form` | `plain`: `T0` to `T3`; `chain-of-thought`: `T2` or `T3`; the \
others have none |
| `strategy` | `plain` (the default), `chain-of-thought`, `turn-around` or \
`relatedness` |
| `response` | `plain`: `item`, or `yes_no` of T0; `chain-of-thought`: \
`reasoned_item`; the others: `preference`, `query`, `history`, \
`query_and_item` or `history_and_item` |
| `text` | the words, with the slots below |
| `held_out` | `true` for evaluation alone: no row to train on is worded so; \
may be missing |

A slot stands where the table says so, once, and nowhere else. A history, query
or preference that the answer holds is not shown; `queries` says which query.

| Slot | Stands where |
| --- | --- |
| `{history}` | `preferences` has P1 |
| `{preference}` | `preferences` has P2; or, in a `[[part]]`, `optional` does |
| `{query}` | there are `queries`, and the answer holds no query |
| `{candidate}` | the task form is T0 |
| `{candidates}` | the task form is T1 (two titles) or T3 |
| `{target}` | the answer is a query; it may where it is a preference or a \
history |
| `{context}` | it may, in a `[[part]]` that goes where there is none: the \
month of the purchase, such as March 2014, or what `ask --context` says |

A `[[part]]` holds one slot. The words must be in T5's vocabulary, which has no
line break, `<`, `>`, brace or backslash, and must not double spaces or
punctuation. A mistake is refused in one sentence with the template's name.

`instructrec templates --file mine.yaml` shows yours after the package's.
`--templates package mine.yaml` of `build`, `ask`, `serve` and `export` adds
them; `mine.yaml` alone stands in for the package's. A template replaces an
earlier one of its name. The word `pairwise` among the files brings the
package's three of T1, D01 to D03; `unlisted` names those of the package that do
not list candidates.

## A crowd's voices

The templates below speak in one careful voice, and a specific intention is a
list of categories. `build --paraphrases` trains on how a crowd would say the
same, too: on 22 templates (E01 to E22; `instructrec templates --file crowd`
shows them), in the first person, as notes, fragments and questions, in lower
case and with a typo now and then; and on queries as people type them, from
`instructions/paraphrases.yaml`, such as "need a tuner asap", "strings, not
bronze", "Do you know a good capo?" and "something fender". They are made of the
target's category and of words of its title that at least two others share, one
of which may stand alone; three in four specific
intentions are so worded, every other vague one, and those of training targets
that no teacher was asked about. An item is then searched for in 16 wordings of
each family of product search, in place of one.

Seven templates (F01 to F07) and 17 wordings of queries are held out: `build`
writes the requests of `sequential`, `sequential_p2`, `product_search_i1`,
`product_search_i2`, `personalised_p2`, `personalised_i1` and `personalised_i2`
once more, as `sequential_crowd` and so on, and no training row is worded so.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
  file: opt.Templates = ()
  """templates to add to the package's, or to replace them by name; 'pairwise'
  has the package's T1, 'crowd' those of `build --paraphrases`"""
  json: Annotated[opt.Json, opt.Arg(either="form")] = False
  markdown: Annotated[bool, opt.Arg(either="form")] = False
  """a page of tables, such as docs/templates.md"""


def run(options: Options) -> tuple[Any, str]:
  """Renders the templates."""
  from instructrec_jax.instructions.templates import load_templates

  entries = [_entry(each) for each in load_templates("package", *options.file)]
  if options.markdown:
    return entries, _markdown(entries)
  lines = [
    f"{entry['name']}  {entry['aspects']}  {entry['strategy']}, answers "
    f"{entry['response']}\n     {entry['example']}\n"
    f"     -> {entry['target']}"
    for entry in entries
  ]
  return entries, "\n".join([*lines, _counts(entries)])


def _entry(template: "Template") -> dict[str, Any]:
  from instructrec_jax.instructions.render import Slots, render, response

  # Of all forms the one that shows most, with a query in the user's words.
  form = max(template.forms, key=lambda f: (f.with_preference, f.query == "I1"))
  others = _OTHERS[:1] if template.task_form == "T1" else _OTHERS
  slots = Slots(
    history=_HISTORY,
    candidates=(*others[:2], _TARGET, *others[2:]),
    candidate=_TARGET,
    target=_TARGET,
    preference=_PREFERENCE,
    query=_QUERIES[form.query] if form.query else "",
    context="It is for a long winter",
  )
  return {
    "name": template.name,
    "group": template.group,
    "aspects": template.label,
    "strategy": str(template.strategy),
    "response": str(template.response),
    "text": template.text,
    "forms": [each.name for each in template.forms],
    "families": [each.family for each in template.forms],
    "example": render(form, slots, count_tokens=lambda text: 0).text,
    "target": response(form, slots, target=_TARGET),
  }


def _counts(entries: list[dict[str, Any]]) -> str:
  groups = collections.Counter(entry["group"] for entry in entries)
  forms = sum(len(entry["forms"]) for entry in entries)
  listed = ", ".join(f"{count} {group}" for group, count in groups.items())
  return f"{len(entries)} templates ({listed}) in {forms} forms."


def _markdown(entries: list[dict[str, Any]]) -> str:
  lines = [_INTRODUCTION, _counts(entries), _OWN.rstrip()]
  for group in sorted({entry["group"] for entry in entries}):
    lines += [
      "",
      f"## {group}: {_GROUPS.get(group, 'further templates')}",
      "",
      "| Template | Text | Example | Answer |",
      "| --- | --- | --- | --- |",
    ]
    for entry in entries:
      if entry["group"] == group:
        about = f"**{entry['name']}** `{entry['aspects']}`"
        cells = (about, entry["text"], entry["example"], entry["target"])
        lines.append(
          "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"
        )
  return "\n".join(lines)
