"""The page, driven by keyboard in a headless Chromium.

INSTRUCTREC_AXE names axe-core's axe.min.js (from npm) for the accessibility
tests; INSTRUCTREC_SCREENSHOTS a folder for pictures to look at.
"""

import base64
import copy
import http.server
import os
import pathlib
import threading
import urllib.request

import pytest

from instructrec_jax.instructions.conversation import Turn
from instructrec_jax.serving.app import create_app
from instructrec_jax.serving.server import running
from tests.serving.chromium import find_chromium, opened

NAMED = "[...document.querySelectorAll('#ranking .named')]"
TITLES = f"{NAMED}.map(each => each.firstChild.textContent)"
CHANGES = f"{NAMED}.map(e => e.querySelector('.moved')?.textContent ?? '')"
HISTORY = (
  "[...document.querySelectorAll('#history li')]"
  ".map(each => each.firstChild.textContent)"
)
HOSTILE = (
  "<img src=x onerror=alert(1)> Tent",
  "<script>alert(2)</script> Rope",
  "Plain & simple Kayak",
)
WEIGHTS = "document.querySelectorAll('#weight-list dt').length"
TURNS = "[...document.querySelectorAll('#turns li')].map(e => e.textContent)"
IDLE = "!document.body.hasAttribute('aria-busy')"
FOCUS = "document.activeElement.id"
PHONE = (390, 844)
DESKTOP = (1400, 900)


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
  browser.resize(*DESKTOP, mobile=False)
  browser.set_scheme("light")
  browser.open("about:blank")
  browser.open(f"{url}/")
  ready(browser)
  yield browser
  assert not browser.errors


def ready(page) -> None:
  page.wait(f"{IDLE} && document.getElementById('served').textContent !== ''")
  page.wait("document.getElementById('counted').textContent !== ''")


def picture(page, name: str) -> None:
  if folder := os.environ.get("INSTRUCTREC_SCREENSHOTS"):
    page.screenshot(pathlib.Path(folder) / f"{name}.png")


def faults(page) -> list[tuple[str, str]]:
  """What axe finds; nothing where it is not there."""
  if script := os.environ.get("INSTRUCTREC_AXE"):
    page.evaluate(pathlib.Path(script).read_text() + ";0")
    found = page.evaluate("axe.run().then(found => found.violations)")
    return [(each["id"], each["impact"]) for each in found]
  return []


def text_of(element_id: str) -> str:
  return f"document.getElementById('{element_id}').textContent"


def text(page, element_id: str) -> str:
  return page.evaluate(text_of(element_id))


def answered(page) -> None:
  page.wait(f"{IDLE} && {NAMED}.length > 0")
  assert text(page, "problem") == ""


def press(page, element_id: str) -> None:
  """Goes to a button with the keyboard, and presses it."""
  page.tab_to(element_id)
  page.press("Enter")


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
  press(page, "rank")
  answered(page)
  # From here one reads on in the ranking.
  assert page.evaluate(FOCUS) == "ranking-heading"


def go_on(page, words: str) -> None:
  """Says what is to be different."""
  count = page.evaluate("document.querySelectorAll('#turns li').length") or 1
  page.evaluate("document.getElementById('change').focus()")
  page.type(words)
  page.press("Enter")
  page.wait(
    f"{IDLE} && document.querySelectorAll('#turns li').length > {count}"
  )
  assert text(page, "problem") == ""


def open_choices(page, *, own_titles: bool = False) -> None:
  page.evaluate("document.getElementById('titles').closest('details').open = 1")
  if own_titles:
    page.evaluate("document.querySelector('[value=titles]').click()")


def test_a_wish_is_ranked_by_keyboard(page, recommender):
  history = [*recommender.titles[:2]]
  ask(page, "a tent for rain", *history)
  found = recommender.converse([Turn("a tent for rain")], history=history)
  found = found.recommendation
  titles = [each.title for each in found.ranking]
  assert page.evaluate(TITLES) == titles
  assert text(page, "instruction") == found.composed.instruction
  assert page.evaluate(CHANGES) == [""] * 10
  picture(page, "desktop")


# A point, transparent.
PIXEL = base64.b64decode(
  "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
)


class Pictures(http.server.BaseHTTPRequestHandler):
  """Has a picture at any path but /none."""

  def do_GET(self):
    self.send_response(404 if self.path == "/none" else 200)
    self.send_header("Content-Type", "image/gif")
    self.end_headers()
    if self.path != "/none":
      self.wfile.write(PIXEL)

  def log_message(self, *args):
    pass


@pytest.mark.parametrize("shown", [True, False])
def test_pictures_are_loaded_only_where_they_are_asked_for(
  browser, recommender, shown
):
  pictured = copy.copy(recommender)
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as other:
    threading.Thread(target=other.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{other.server_port}"
    pictured.images = {t: f"{host}/a" for t in recommender.titles}
    best = recommender.recommend("a tent for rain").ranking
    pictured.images[best[0].title] = f"{host}/none"
    browser.requested.clear()
    with running(create_app(pictured, images=shown)) as url:
      browser.open(f"{url}/#wish=a+tent+for+rain")
      answered(browser)
      count = "document.querySelectorAll('#ranking img').length"
      # The one that is not there goes.
      browser.wait(f"{count} === {9 if shown else 0}")
      assert "a tent" in browser.evaluate("location.hash").replace("+", " ")
    other.shutdown()
  asked = [a for a in browser.requested if a.startswith(host)]
  assert bool(asked) == shown
  browser.errors.clear()


def test_a_new_wish_shows_what_has_changed(page, recommender):
  ask(page, "a tent for rain")
  before = page.evaluate(TITLES)
  page.evaluate("document.getElementById('query').focus()")
  page.evaluate("document.activeElement.select()")
  page.type("Water Sports, Kayak")
  page.press("Enter")
  page.wait(f"{IDLE} && {TITLES}.join() !== {before!r}.join()")
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
  status = text(page, "status")
  assert "“Water Sports, Kayak”" in status and "what has changed" in status
  picture(page, "changed")


def test_what_weighs_most_is_shown_in_words(page):
  ask(page, "a calm boat", "Alder Tent Grey")
  press(page, "why")
  page.wait(f"{IDLE} && !document.getElementById('weights').hidden")
  first = page.evaluate(TITLES)[0]
  assert text(page, "weights-heading") == f"Why {first}"
  assert page.evaluate(f"{WEIGHTS} > 0")
  said = page.evaluate(
    "[...document.querySelectorAll('#weight-list dd')].map(e => e.textContent)"
  )
  assert all("likel" in each or each == "no difference" for each in said)


def test_any_title_of_the_ranking_may_be_asked_about(page):
  ask(page, "a calm boat")
  fifth = page.evaluate(TITLES)[4]
  page.evaluate(
    f"document.querySelector('[aria-label=\"Why? {fifth}\"]').click()"
  )
  page.wait(f"{IDLE} && !document.getElementById('weights').hidden")
  assert text(page, "weights-heading") == f"Why {fifth}"


def test_not_this_leaves_a_title_out_until_it_is_allowed_again(page):
  ask(page, "a tent for rain")
  before = page.evaluate(TITLES)
  reject = f"document.querySelector('[aria-label=\"Not this: {before[1]}\"]')"
  page.evaluate(f"{reject}.click()")
  page.wait(f"{IDLE} && !{TITLES}.includes({before[1]!r})")
  after = page.evaluate(TITLES)
  assert len(after) == 10 and after[1] == before[2]
  assert page.evaluate(TURNS)[1].startswith(f"not {before[1]}")
  page.evaluate("document.querySelector('#turns button').click()")
  page.wait(f"{IDLE} && {TITLES}.join() === {before!r}.join()")


def test_more_like_this_asks_for_what_is_like_it(page, recommender):
  ask(page, "a tent for rain")
  before = page.evaluate(TITLES)
  more = (
    f"document.querySelector('[aria-label=\"More like this: {before[2]}\"]')"
  )
  page.evaluate(f"{more}.click()")
  page.wait(f"{IDLE} && {TITLES}.join() !== {before!r}.join()")
  said = [Turn("a tent for rain", shown=tuple(before))]
  found = recommender.converse([*said, Turn("more like the 3rd")])
  # What one likes already is no answer.
  assert before[2] not in found.shown
  assert page.evaluate(TITLES) == [*found.shown]
  assert page.evaluate(TURNS)[1].startswith(f"more like {before[2]}")


def test_what_is_said_next_goes_on_from_what_was_said(page, recommender):
  ask(page, "a tent")
  first = page.evaluate(TITLES)
  go_on(page, "in green")
  second = page.evaluate(TITLES)
  assert second and all("Green" in title for title in second)
  go_on(page, "not the second")
  third = page.evaluate(TITLES)
  assert second[1] not in third and all("Green" in title for title in third)
  turns = [
    Turn("a tent", shown=tuple(first)),
    Turn("in green", shown=tuple(second)),
    Turn("not the second"),
  ]
  assert third == [*recommender.converse(turns).shown]
  shown = page.evaluate(TURNS)
  new = len({*second} - {*first})
  assert shown[0].startswith("“a tent”") and first[0] in shown[0]
  assert shown[1].startswith(f"“in green” {new} new")
  assert "All have “green”." in text(page, "status")
  picture(page, "turns")
  # Why is asked of all that was said.
  press(page, "why")
  page.wait(f"{IDLE} && !document.getElementById('weights').hidden")
  # A turn that cannot be answered is not kept.
  address = page.evaluate("location.href")
  page.evaluate("document.getElementById('change').value = 'word '.repeat(900)")
  page.evaluate("document.getElementById('refine').requestSubmit()")
  page.wait(f"{IDLE} && document.getElementById('problem').textContent !== ''")
  assert page.evaluate(TITLES) == third
  assert page.evaluate("location.href") == address
  page.errors.clear()
  # The second is taken back, and what it narrowed with it.
  page.evaluate("document.querySelector('#turns button').click()")
  page.wait(f"{IDLE} && {TITLES}.join() !== {third!r}.join()")
  assert page.evaluate(TITLES) == [
    *recommender.converse([turns[0], turns[2]]).shown
  ]


def test_the_catalogue_is_searched_and_what_one_has_is_taken_from_it(
  page, recommender
):
  total = len(recommender.titles)
  assert text(page, "counted").startswith(f"30 of {total}")
  press(page, "more")
  page.wait("document.querySelectorAll('#titles-list li').length === 60")
  page.tab_to("search")
  page.type("grey tent")
  page.wait(
    f"!document.getElementById('counted').textContent.includes({total})"
  )
  titles = page.evaluate(
    "[...document.querySelectorAll('#titles-list .named')]"
    ".map(each => each.textContent)"
  )
  expected = [t for t in recommender.titles if "Grey" in t and "Tent" in t]
  assert titles == expected[:30]
  page.press("Tab")
  page.press("Enter")
  assert page.evaluate(HISTORY) == expected[:1]


def test_a_title_that_the_catalogue_lacks_is_flagged(page, recommender):
  known = recommender.titles[0]
  page.tab_to("title")
  for title in (known, "Nothing of the Kind"):
    page.type(title)
    page.press("Enter")
  page.wait("document.getElementById('unknown').textContent !== ''")
  assert "Nothing of the Kind" in text(page, "unknown")
  assert known not in text(page, "unknown")
  flagged = "[...document.querySelectorAll('#history .unknown')].length"
  assert page.evaluate(flagged) == 1


def test_a_link_brings_all_back(page, url):
  ask(page, "a tent & a rope #1", "Alder Tent Grey", "Unknown; Thing")
  page.evaluate("document.querySelector('[aria-label^=\"Not \"]').click()")
  page.wait(f"{IDLE} && !document.getElementById('turns').hidden")
  go_on(page, "in green")
  titles = page.evaluate(TITLES)
  address = page.evaluate("location.href")
  # What was said is not in the part that a server sees.
  assert "tent" not in address.split("#")[0]
  page.open("about:blank")
  page.open(address)
  ready(page)
  answered(page)
  assert page.evaluate(TITLES) == titles
  assert page.evaluate(HISTORY) == ["Alder Tent Grey", "Unknown; Thing"]
  wish = page.evaluate("document.getElementById('query').value")
  assert wish == "a tent & a rope #1"
  press(page, "share")
  page.wait("document.getElementById('shared').textContent !== ''")
  press(page, "clear")
  assert page.evaluate(f"{NAMED}.length") == 0
  assert page.evaluate("location.hash") == ""


def test_back_returns_to_the_wish_before(page):
  ask(page, "a tent for rain")
  first = page.evaluate(TITLES)
  ask(page, "Water Sports, Kayak")
  page.wait(f"{TITLES}.join() !== {first!r}.join()")
  page.evaluate("window.history.back()")
  page.wait(f"{IDLE} && {TITLES}.join() === {first!r}.join()")
  wish = page.evaluate("document.getElementById('query').value")
  assert wish == "a tent for rain"


def test_examples_are_asked_with_one_press(page):
  page.wait("document.querySelectorAll('#example-list button').length > 0")
  # The last is for somebody's history, which every model can answer.
  page.evaluate(
    "[...document.querySelectorAll('#example-list button')].at(-1).click()"
  )
  answered(page)
  had = page.evaluate(HISTORY)
  assert len(had) == 2 and not set(had) & {*page.evaluate(TITLES)}


@pytest.mark.parametrize("count", [2, 150])
def test_ones_own_titles_are_ranked(page, count):
  open_choices(page, own_titles=True)
  titles = "\n".join(f"Tent {number}" for number in range(count))
  page.evaluate(f"document.getElementById('candidates').value = {titles!r}")
  ask(page, "a tent")
  assert page.evaluate(f"{NAMED}.length") == count
  assert "None of these titles is in the catalogue" in text(page, "status")
  press(page, "why")
  page.wait(f"{IDLE} && !document.getElementById('weights').hidden")


def test_scripts_in_titles_are_text(page):
  open_choices(page, own_titles=True)
  page.evaluate("document.getElementById('candidates').focus()")
  page.type("\n".join(HOSTILE))
  ask(page, "<b>a tent</b>", HOSTILE[0])
  assert sorted(page.evaluate(TITLES)) == sorted(HOSTILE)
  page.wait("document.querySelectorAll('#history li').length === 1")
  inside = "document.querySelectorAll('main img, main script, main b').length"
  assert page.evaluate(inside) == 0


def test_a_refusal_is_shown_and_the_ranking_stays(page):
  press(page, "rank")
  page.wait(f"{IDLE} && document.getElementById('problem').textContent !== ''")
  assert page.evaluate(FOCUS) == "query"
  ask(page, "a tent")
  before = page.evaluate(TITLES)
  ask_too_long = "document.getElementById('query').value = 'word '.repeat(790)"
  page.evaluate(ask_too_long)
  page.tab_to("rank")
  page.press("Enter")
  page.wait("document.getElementById('problem').textContent.includes('long')")
  page.wait(IDLE)
  assert page.evaluate(TITLES) == before
  # The browser's own line of a refused request.
  page.errors.clear()


def test_nothing_comes_from_elsewhere(page, url):
  ask(page, "a tent")
  elsewhere = [
    address
    for address in page.requested
    if not address.startswith((url, "data:", "about:"))
  ]
  assert page.requested and not elsewhere
  with urllib.request.urlopen(url) as answer:
    policy = answer.headers["Content-Security-Policy"]
  assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_the_interface_is_described_without_another_host(page, url):
  pytest.importorskip("fastapi_offline")
  page.requested.clear()
  page.open(f"{url}/docs")
  page.wait("document.querySelectorAll('.opblock').length > 5")
  assert all(a.startswith((url, "data:")) for a in page.requested)


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_the_first_title_without_scrolling(page, width):
  page.resize(width, 844, mobile=True)
  ask(page, "a tent for rain", "x" * 120)
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  box = "document.querySelector('#ranking li').getBoundingClientRect()"
  page.wait(f"{box}.top > 0 && {box}.bottom < innerHeight")
  picture(page, f"phone{width}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_axe_finds_no_fault(page, scheme, size):
  if not os.environ.get("INSTRUCTREC_AXE"):
    pytest.skip("INSTRUCTREC_AXE does not name axe-core's axe.min.js")
  page.resize(*size, mobile=size == PHONE)
  page.set_scheme(scheme)
  ask(page, "a tent for rain", "Alder Tent Grey", "Unknown")
  page.evaluate("document.querySelector('[aria-label^=\"Not \"]').click()")
  page.wait(f"{IDLE} && !document.getElementById('turns').hidden")
  page.evaluate("document.getElementById('reads').open = true")
  open_choices(page)
  page.evaluate("document.getElementById('why').click()")
  page.wait("document.querySelectorAll('#weight-list dt').length > 0")
  picture(page, f"open_{scheme}_{size[0]}")
  assert faults(page) == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_visit(page, url, size):
  """What people come to do, one after the other, in one window."""
  width = size[0]
  page.resize(*size, mobile=size == PHONE)

  def looked_at(step: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"visit_{width}_{step}")
    assert faults(page) == []

  looked_at("0_empty")
  ask(page, "a tent for rain")
  box = "document.querySelector('#ranking li').getBoundingClientRect()"
  page.wait(f"{box}.top > 0 && {box}.bottom < innerHeight")
  first = page.evaluate(TITLES)
  looked_at("1_wish")

  go_on(page, "in green")
  refined = page.evaluate(TITLES)
  assert refined != first and all("Green" in title for title in refined)
  looked_at("2_refined")

  no = f"document.querySelector('[aria-label=\"Not this: {refined[0]}\"]')"
  page.evaluate(f"{no}.focus()")
  page.press("Enter")
  page.wait(f"{IDLE} && !{TITLES}.includes({refined[0]!r})")
  assert len(page.evaluate(TURNS)) == 3
  looked_at("3_rejected")

  page.tab_to("search")
  page.type(refined[1])
  page.wait(f"{text_of('counted')}.startsWith('1 of 1')")
  page.press("Tab")
  page.press("Enter")
  assert page.evaluate(HISTORY) == [refined[1]]
  press(page, "rank")
  page.wait(f"{IDLE} && !{TITLES}.includes({refined[1]!r})")
  # What was said before still holds.
  assert len(page.evaluate(TURNS)) == 3
  assert all("Green" in title for title in page.evaluate(TITLES))
  assert refined[0] not in page.evaluate(TITLES)
  looked_at("4_history")

  kept = page.evaluate(TITLES)
  press(page, "share")
  page.wait(f"{text_of('shared')} !== ''")
  address = page.evaluate("location.href")
  page.open("about:blank")
  page.open(address)
  ready(page)
  answered(page)
  assert page.evaluate(TITLES) == kept
  assert page.evaluate(HISTORY) == [refined[1]]
  looked_at("5_link")

  press(page, "clear")
  open_choices(page, own_titles=True)
  page.evaluate("document.getElementById('candidates').focus()")
  page.type("Tent\nRope")
  ask(page, "a tent")
  assert {*page.evaluate(TITLES)} == {"Tent", "Rope"}
  assert "not learned them" in text(page, "status")
  looked_at("6_own_titles")

  own = page.evaluate(TITLES)
  page.evaluate("document.getElementById('query').value = 'word '.repeat(790)")
  press(page, "rank")
  page.wait(f"{IDLE} && {text_of('problem')}.includes('long')")
  assert page.evaluate(TITLES) == own
  looked_at("7_error")
  # The browser's own line of a refused request.
  assert all("422" in each for each in page.errors)
  page.errors.clear()

  # All that the page had came from the server, which now is out of reach.
  assert all(a.startswith((url, "data:", "about:")) for a in page.requested)
  page.set_offline(True)
  page.evaluate("document.getElementById('query').value = 'a rope'")
  press(page, "rank")
  page.wait(f"{IDLE} && {text_of('problem')}.includes('does not answer')")
  assert page.evaluate(TITLES) == own
  looked_at("8_offline")
  page.set_offline(False)
  page.errors.clear()
  press(page, "rank")
  answered(page)
