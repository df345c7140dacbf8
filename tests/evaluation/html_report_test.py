"""Tests for instructrec_jax/evaluation/{plots,html_report}.py."""

import html.parser
import json

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import plots, report
from instructrec_jax.evaluation.html_report import (
  Section,
  write_html_report,
  write_page,
)
from instructrec_jax.tables import Row, Table
from tests.serving.chromium import find_chromium, opened

from .conftest import small_results

EVIL = '<script>alert("$x$ & co")</script>'


def evil_results():
  results = small_results()
  results["labels"]["model"] = EVIL
  return results | {"dataset": f"data/{EVIL}"}


def example(target):
  return {
    "instruction": f"rank {EVIL}",
    "candidates": ["worse", EVIL],
    "scores": [-3.0, -1.5],
    "target": target,
  }


class _Page(html.parser.HTMLParser):
  """Collects the tags, whatever would load from outside, and the text."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.outside, self.words = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.outside += [
      value
      for name, value in attrs
      if name in ("src", "href", "xlink:href") and not value.startswith("#")
    ]

  def handle_data(self, data):
    self.words.append(data)


@pytest.fixture
def write(tmp_path):
  def write(**changes):
    path = tmp_path / "report.html"
    arguments = {"training_log": None, "examples": [], "notes": []} | changes
    write_html_report(path, title=EVIL, results=evil_results(), **arguments)
    return path.read_text(encoding="utf-8")

  return write


@pytest.fixture
def training_log(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(
    '{"step": 1, "loss": 5.0}\n'
    '{"step": 2, "loss": NaN}\n'
    '{"step": 2, "loss": 4.0, "validation/hr@1": 0.3}\n'
  )
  return path


def test_untrusted_text_is_escaped_and_nothing_is_loaded(write, training_log):
  text = write(training_log=training_log, examples=[example(1)], notes=[EVIL])
  page = _Page(text)
  assert "script" not in page.tags
  # Title twice, note, chart, table, difference, what it saw, instruction,
  # candidate, dataset.
  assert "".join(page.words).count(EVIL) == 10
  assert page.outside == []
  assert "https:" not in text and "@import" not in text


def test_a_scenario_that_was_steered_has_its_table(tmp_path):
  row = {"ranker": "model", "edit": "edited", "measure": "rise", "n": 9}
  row |= {"value": 2.5, "low": 2.0, "high": 3.0, "scenario": "a-search"}
  path = tmp_path / "report.html"
  write_html_report(
    path,
    title="steered",
    results=small_results() | {"steering": [row]},
    training_log=None,
  )
  words = " ".join(_Page(path.read_text(encoding="utf-8")).words)
  assert "Steering, a-search" in words and "+2.50" in words


def test_every_figure_and_section_is_there(write, training_log):
  page = _Page(write(training_log=training_log, examples=[example(None)]))
  assert page.tags.count("svg") == 3
  assert page.tags.count("table") == 1
  without = _Page(write())
  assert without.tags.count("svg") == 1
  for heading in ("Training", "Worked examples"):
    assert heading in page.words and heading not in without.words


def test_examples_are_ranked_by_score_and_mark_the_target(write):
  text = write(examples=[example(0)])
  assert text.index("-1.50") < text.index("-3.00")
  (marked,) = text.split('<li class="target">')[1:]
  assert marked.startswith("<span>2</span><span>worse<b>true answer</b>")


def test_colours_follow_the_page(write):
  svg = write().split("<svg")[1]
  assert "var(--accent)" in svg and "var(--ink)" in svg
  assert "#0" not in svg.replace('"#', "")


def test_the_verdict_comes_first_and_tells_who_wins(write):
  text = write()
  verdict = text.split('class="verdict"')[1].split("</div>")[0]
  assert text.index("verdict") < text.index("<section>")
  results = small_results()
  metric = results["scenarios"][0]["metrics"][0]
  value = next(
    row["value"]
    for row in results["rows"]
    if (row["ranker"], row["metric"]) == ("model", metric)
  )
  assert f"{value:.1%}" in verdict


@pytest.mark.parametrize(
  ("low", "high", "how"),
  [
    (-0.1, 0.2, "on 1,234 requests cannot be told from"),
    (0.1, 0.2, "beats"),
    (-0.2, -0.1, "is behind"),
  ],
)
def test_a_verdict_goes_by_the_interval(low, high, how):
  results = small_results()
  scenario = results["scenarios"][0] | {"requests": 1234}
  for row in results["comparisons"]:
    row |= {"low": low, "high": high, "value": (low + high) / 2}
  (verdict,) = report.verdict(results, scenario)
  assert f"the model {how} the best baseline" in verdict


@pytest.mark.parametrize("value", [0.8405, 0.7845, 0.5475])
def test_a_verdict_rounds_as_the_table_does(value):
  results = small_results()
  (scenario, *_) = results["scenarios"]
  for row in results["rows"]:
    if (row["ranker"], row["metric"]) == ("model", scenario["metrics"][0]):
      row["value"] = value
  (verdict,) = report.verdict(results, scenario, where=" of another shop")
  assert f"{100 * float(report.share(value)):.1f}%" in verdict
  assert verdict.startswith(f"{scenario['name']} of another shop: the model ")


def test_commands_in_notes_are_code_and_still_escaped(write):
  text = write(notes=["run `ask <b>`, then `score`", "a ` alone <b>"])
  assert "run <code>ask &lt;b&gt;</code>, then <code>score</code>" in text
  assert "a ` alone &lt;b&gt;" in text


def test_on_paper_columns_are_explained_once(tmp_path):
  columns = (["ranker", "HR@1"], ["ranker", "HR@1"], ["ranker", "HR@1", "AUC"])
  tables = [Table(head, [Row(["a"] * len(head))]) for head in columns]
  path = tmp_path / "report.html"
  write_page(
    path,
    title="t",
    notes=[],
    sections=[Section("s", "", tables)],
    training=[],
    provenance={},
  )
  explained = path.read_text().split("<details")[1:]
  assert [' class="again"' in each.split(">")[0] for each in explained] == [
    False,
    True,
    False,
  ]
  assert [each.startswith(" open") for each in explained] == [
    True,
    False,
    False,
  ]


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_need_not_scroll_sideways(tmp_path, write, width):
  chromium = find_chromium()
  if chromium is None:
    pytest.skip("there is no Chromium: install the package chromium")
  long = "/a/folder/of/a/long/name" * 9
  write(notes=[long, f"`{long}`"], examples=[example(1)])
  with opened(chromium, tmp_path / "profile") as page:
    page.resize(width, 844, mobile=True)
    page.open((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not page.errors


def test_what_columns_mean_stands_with_the_table(write):
  text = write()
  for metric in small_results()["scenarios"][0]["metrics"]:
    assert f"<dt>{report.column_head(metric)}</dt>" in text
  assert "the share of requests whose true item is among the first 1" in text


def test_every_report_says_how_it_was_made(write):
  text = write()
  made = text.split("How this was made")[1]
  for part in ("made on", "program", "command", "device", "sha256"):
    assert part in made


def test_charts_share_an_axis():
  one, other = (
    plots.interval_plot({"a": (value, value, value)}, label="HR@1")
    for value in (0.1, 0.9)
  )
  for svg in (one, other):
    assert ">1.0<" in svg and ">0.0<" in svg


def test_a_miss_tells_the_place_of_the_true_answer(write):
  text = write(examples=[example(0), example(1), example(None)])
  assert text.count("a miss: the true answer has place 2") == 1
  assert text.count(">a hit<") == 1


def test_a_broken_log_is_located(write, tmp_path, training_log):
  with pytest.raises(InputError, match="no such training log"):
    write(training_log=tmp_path / "absent.jsonl")
  training_log.write_text(json.dumps({"step": 1}) + "\n{half")
  with pytest.raises(InputError, match="line 2"):
    write(training_log=training_log)
  assert not list(tmp_path.glob("*.html"))
