"""The page, driven by keyboard in a headless Chromium.

INSTRUCTREC_AXE names axe-core's axe.min.js (from npm) for the accessibility
test; INSTRUCTREC_SCREENSHOTS a folder for pictures to look at.
"""

import os
import pathlib
import urllib.request

import pytest

from instructrec_jax.serving.app import create_app
from instructrec_jax.serving.schemas import MAX_EXPLAINED
from instructrec_jax.serving.server import running
from tests.serving.chromium import find_chromium, opened

NAMED = "[...document.querySelectorAll('#ranking .named')]"
TITLES = f"{NAMED}.map(each => each.firstChild.textContent)"
CHANGES = f"{NAMED}.map(e => e.querySelector('.moved')?.textContent ?? '')"
HOSTILE = (
  "<img src=x onerror=alert(1)> Tent",
  "<script>alert(2)</script> Rope",
  "Plain & simple Kayak",
)
WEIGHTS = "document.querySelectorAll('#weight-list dt').length"
NOT_BUSY = "!document.body.hasAttribute('aria-busy')"


@pytest.fixture(scope="module")
def url(recommender):
  with running(create_app(recommender)) as url:
    yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  chromium = find_chromium()
  if chromium is None:
    pytest.skip("there is no Chromium: install the package chromium")
  with opened(chromium, tmp_path_factory.mktemp("profile")) as page:
    yield page


@pytest.fixture
def page(browser, url):
  browser.errors.clear()
  browser.requested.clear()
  browser.resize(1280, 900, mobile=False)
  browser.set_scheme("light")
  browser.open(url)
  browser.wait("document.getElementById('served').textContent !== ''")
  yield browser
  assert not browser.errors


def picture(page, name: str) -> None:
  if folder := os.environ.get("INSTRUCTREC_SCREENSHOTS"):
    page.screenshot(pathlib.Path(folder) / f"{name}.png")


def ask(page, wish: str, *histories: str) -> None:
  """Says a wish, with the keyboard alone."""
  page.tab_to("query")
  page.evaluate("document.getElementById('query').select()")
  page.type(wish)
  if histories:
    page.tab_to("title")
  for title in histories:
    page.type(title)
    page.press("Enter")
  page.tab_to("rank")
  page.press("Enter")
  page.wait(f"{NOT_BUSY} && {NAMED}.length > 0")
  assert page.evaluate("document.activeElement.id") == "rank"


def test_a_wish_is_ranked_by_keyboard(page, recommender):
  history = [*recommender.titles[:2]]
  ask(page, "a tent for rain", *history)
  found = recommender.recommend("a tent for rain", history=history)
  titles = [each.title for each in found.ranking]
  assert page.evaluate(TITLES) == titles
  instruction = "document.getElementById('instruction').textContent"
  assert page.evaluate(instruction) == found.composed.instruction
  assert page.evaluate(CHANGES) == [""] * 10
  picture(page, "desktop")


def test_a_new_wish_shows_what_has_changed(page, recommender):
  ask(page, "a tent for rain")
  before = page.evaluate(TITLES)
  page.evaluate("document.getElementById('query').focus()")
  page.evaluate("document.activeElement.select()")
  page.type("Water Sports, Kayak")
  page.press("Enter")
  page.wait(f"{NOT_BUSY} && {TITLES}.join() !== {before!r}.join()")
  expected = []
  for place, title in enumerate(page.evaluate(TITLES)):
    if title not in before:
      expected.append("new")
    elif (up := before.index(title) - place) == 0:
      expected.append("")
    else:
      expected.append(f"{'▲' if up > 0 else '▼'} {abs(up)}")
  assert page.evaluate(CHANGES) == expected
  assert set(expected) != {""}
  status = page.evaluate("document.getElementById('status').textContent")
  assert "“Water Sports, Kayak”" in status and "since “a tent for" in status
  picture(page, "changed")


def test_what_weighs_most_is_shown_of_the_ranking(page):
  # The second wish's best of the catalogue is not its best if all are listed.
  for wish in ("a calm boat", "a tent for rain"):
    ask(page, wish, "Alder Tent Grey")
    page.tab_to("why")
    page.press("Enter")
    page.wait(f"{NOT_BUSY} && !document.getElementById('weights').hidden")
    first = page.evaluate(TITLES)[0]
    heading = "document.getElementById('weights-heading').textContent"
    assert page.evaluate(heading) == f"What speaks for “{first}”"
    assert page.evaluate(f"{WEIGHTS} > 0")


@pytest.mark.parametrize("count", [MAX_EXPLAINED, MAX_EXPLAINED + 1])
def test_no_more_are_explained_than_the_server_explains(page, count):
  page.evaluate("document.querySelector('[value=titles]').click()")
  titles = "\n".join(f"Tent {number}" for number in range(count))
  page.evaluate(f"document.getElementById('candidates').value = {titles!r}")
  ask(page, "a tent")
  assert page.evaluate(f"{NAMED}.length") == count
  hidden = page.evaluate("document.getElementById('why').hidden")
  assert hidden == (count > MAX_EXPLAINED)


def test_scripts_in_titles_are_text(page):
  page.evaluate("document.querySelector('[value=titles]').click()")
  page.evaluate("document.getElementById('candidates').focus()")
  page.type("\n".join(HOSTILE))
  ask(page, "<b>a tent</b>", HOSTILE[0])
  assert sorted(page.evaluate(TITLES)) == sorted(HOSTILE)
  page.wait("document.querySelectorAll('#history li').length === 1")
  inside = "document.querySelectorAll('main img, main script, main b').length"
  assert page.evaluate(inside) == 0


def test_a_refusal_is_shown(page):
  page.evaluate("document.querySelector('[value=titles]').click()")
  page.tab_to("rank")
  page.press("Enter")
  page.wait("document.getElementById('problem').textContent !== ''")


def test_nothing_comes_from_elsewhere(page, url):
  ask(page, "a tent")
  elsewhere = [
    address
    for address in page.requested
    if not address.startswith((url, "data:"))
  ]
  assert page.requested and not elsewhere
  with urllib.request.urlopen(url) as answer:
    policy = answer.headers["Content-Security-Policy"]
  assert policy.startswith("default-src 'none'") and "unsafe" not in policy


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_it_without_scrolling_sideways(page, width):
  page.resize(width, 844, mobile=True)
  ask(page, "a tent for rain", "x" * 120)
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  picture(page, f"phone{width}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page, scheme):
  script = os.environ.get("INSTRUCTREC_AXE")
  if not script:
    pytest.skip("INSTRUCTREC_AXE does not name axe-core's axe.min.js")
  page.set_scheme(scheme)
  ask(page, "a tent for rain", "Alder Tent Grey")
  page.evaluate("document.querySelector('details').open = true")
  page.evaluate("document.querySelector('[value=titles]').click()")
  page.tab_to("why")
  page.press("Enter")
  page.wait("document.querySelectorAll('#weight-list dt').length > 0")
  picture(page, f"open_{scheme}")
  page.evaluate(pathlib.Path(script).read_text() + ";0")
  found = page.evaluate("axe.run().then(found => found.violations)")
  assert [(each["id"], each["impact"]) for each in found] == []
