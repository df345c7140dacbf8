"""Tests for instructrec_jax/data/download.py and tools/download_amazon.py."""

import dataclasses
import hashlib
import http.server
import re
import subprocess
import sys
import threading

import pytest

from instructrec_jax.data.download import download
from instructrec_jax.errors import InputError

CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]


@dataclasses.dataclass
class Site:
  """What the loopback server has and how it behaves.

  `cuts` has, for each answer by turns, after how many bytes it breaks off.
  """

  content: bytes = CONTENT
  etag: str | None = '"one"'
  ranges: bool = True
  length: bool = True
  cuts: list[int] = dataclasses.field(default_factory=list)
  status: list[int] = dataclasses.field(default_factory=list)
  asked: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
  url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves the same file at every path."""

  def do_GET(self):
    site: Site = self.server.site  # type: ignore[attr-defined]
    wanted = self.headers["Range"]
    site.asked.append((self.path, wanted))
    if site.status:
      self.send_error(site.status.pop(0))
      return
    start, total = 0, len(site.content)
    changed = self.headers["If-Range"] not in (None, site.etag)
    if wanted and site.ranges and not changed:
      start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
      if start >= total:
        self.send_error(416)
        return
      self.send_response(206)
      self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
    else:
      self.send_response(200)
    if site.length:
      self.send_header("Content-Length", str(total - start))
    if site.etag:
      self.send_header("ETag", site.etag)
    self.end_headers()
    end = start + site.cuts.pop(0) if site.cuts else total
    self.wfile.write(site.content[start:end])

  def log_message(self, *_):
    pass


@pytest.fixture
def site():
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  site = Site(url=f"http://127.0.0.1:{server.server_port}/file.gz")
  server.site = site  # type: ignore[attr-defined]
  thread = threading.Thread(
    target=server.serve_forever, args=(0.01,), daemon=True
  )
  thread.start()
  yield site
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.fixture
def path(tmp_path):
  return tmp_path / "raw" / "file.gz"


def fetch(site, path, **options):
  return download(site.url, path, wait_seconds=0, **options)


def stop_after(site, path, size):
  """Leaves what a run leaves that got so many bytes and then nothing."""
  site.cuts = [size, *[0] * 9]
  with pytest.raises(InputError, match=f"go on after {size:,} bytes"):
    fetch(site, path)
  site.cuts = []
  site.asked.clear()


def assert_whole(path, content=CONTENT):
  assert path.read_bytes() == content
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def ranges(site):
  return [wanted for _, wanted in site.asked]


def test_a_cut_connection_goes_on_where_it_broke(site, path):
  # More cuts than tries: each brings something.
  site.cuts = [1000] * 8
  digest = fetch(site, path)
  assert digest == hashlib.sha256(CONTENT).hexdigest()
  assert_whole(path)
  assert ranges(site) == [None, *(f"bytes={n}000-" for n in range(1, 9))]


def test_a_later_run_goes_on(site, path):
  stop_after(site, path, 3000)
  assert not path.exists()
  fetch(site, path)
  assert_whole(path)
  assert ranges(site) == ["bytes=3000-"]


def test_a_server_that_ignores_ranges_sends_all_again(site, path):
  stop_after(site, path, 3000)
  site.ranges = False
  fetch(site, path)
  assert_whole(path)


def test_a_server_that_ignores_ranges_and_cuts_is_given_up(site, path):
  site.ranges, site.cuts = False, [500] * 99
  with pytest.raises(InputError, match="5 tries in a row brought nothing"):
    fetch(site, path)
  assert not path.exists()


@pytest.mark.parametrize("content", [OTHER, OTHER[:2000], OTHER + b"more"])
def test_a_file_that_changed_starts_anew(site, path, content):
  stop_after(site, path, 3000)
  site.content, site.etag = content, '"two"'
  fetch(site, path)
  assert_whole(path, content)


@pytest.mark.parametrize("content", [OTHER[:2000], OTHER + b"more"])
def test_without_an_etag_the_size_tells_of_a_change(site, path, content):
  site.etag = None
  stop_after(site, path, 3000)
  site.content = content
  fetch(site, path)
  assert_whole(path, content)


def test_a_weak_etag_is_no_proof_and_not_sent(site, path):
  site.etag = 'W/"one"'
  stop_after(site, path, 3000)
  fetch(site, path)
  assert_whole(path)
  assert ranges(site) == ["bytes=3000-"]


def test_another_url_starts_anew(site, path):
  stop_after(site, path, 3000)
  site.url += "?other"
  fetch(site, path)
  assert ranges(site) == [None]
  assert_whole(path)


def test_all_there_but_the_name(site, path):
  stop_after(site, path, 3000)
  path.with_name("file.gz.part").write_bytes(CONTENT)
  fetch(site, path)
  assert not site.asked
  assert_whole(path)


def test_an_answer_without_a_length_ends_where_it_ends(site, path):
  site.length = False
  fetch(site, path)
  assert_whole(path)


def test_a_wrong_hash_leaves_nothing(site, path):
  wrong = hashlib.sha256(OTHER).hexdigest()
  with pytest.raises(InputError, match="published file changed .its SHA-256"):
    fetch(site, path, sha256=wrong)
  assert not path.parent.exists() or not list(path.parent.iterdir())
  fetch(site, path, sha256=hashlib.sha256(CONTENT).hexdigest().upper())
  assert_whole(path)
  site.asked.clear()
  fetch(site, path)
  with pytest.raises(InputError, match="delete it to fetch it again"):
    fetch(site, path, sha256=wrong)
  assert not site.asked
  assert_whole(path)


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(site, path):
  site.status = [503, 429]
  fetch(site, path)
  assert len(site.asked) == 3
  path.unlink()
  site.status = [404]
  with pytest.raises(InputError, match="404 Not Found; try another base URL"):
    fetch(site, path)


def test_no_server_and_no_url_are_told(path):
  with pytest.raises(InputError, match="refused"):
    download("http://127.0.0.1:9/x", path, wait_seconds=0)
  with pytest.raises(InputError, match="not a URL"):
    download("ucsd.edu/x", path)


def test_the_tool_fetches_both_files_of_a_category(site, root, tmp_path):
  base, _, _ = site.url.rpartition("/")
  site.cuts = [5000]
  digest = hashlib.sha256(CONTENT).hexdigest()
  command = [sys.executable, str(root / "tools" / "download_amazon.py")]
  command += ["Video_Games", "--out", str(tmp_path), "--base-url", base + "/"]
  done = subprocess.run(
    [*command, "--sha256", f"Video_Games_5.json.gz={digest}"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  names = ["Video_Games_5.json.gz", "meta_Video_Games.json.gz"]
  assert done.stdout.splitlines() == [
    f"{digest}  {tmp_path / name}" for name in names
  ]
  assert sorted(p.name for p in tmp_path.iterdir()) == names
  assert list(dict.fromkeys(asked for asked, _ in site.asked)) == [
    "/categoryFilesSmall/Video_Games_5.json.gz",
    "/metaFiles2/meta_Video_Games.json.gz",
  ]
  failed = subprocess.run(
    [*command, "--sha256", f"meta_Video_Games.json.gz={'00' * 32}"],
    capture_output=True,
    text=True,
  )
  assert failed.returncode == 2
  assert failed.stderr.startswith("download_amazon: ")
  assert failed.stderr.count("\n") == 1


def test_the_tool_fetches_an_official_split(site, root, tmp_path):
  base, _, _ = site.url.rpartition("/")
  command = [sys.executable, str(root / "tools" / "download_amazon.py")]
  command += ["Gift_Cards", "--out", str(tmp_path / "raw"), "--base-url", base]
  done = subprocess.run(
    [*command, "--official", "timestamp", "--texts"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert [asked for asked, _ in site.asked] == [
    "/raw/meta_categories/meta_Gift_Cards.jsonl.gz",
    *(
      f"/benchmark/5core/timestamp/Gift_Cards.{part}.csv.gz"
      for part in ("train", "valid", "test")
    ),
    "/raw/review_categories/Gift_Cards.jsonl.gz",
  ]
  found = (tmp_path / "raw").rglob("*.gz")
  assert sorted(str(p.relative_to(tmp_path / "raw")) for p in found) == [
    "Gift_Cards.jsonl.gz",
    "meta_Gift_Cards.jsonl.gz",
    *(f"timestamp/Gift_Cards.{part}.csv.gz" for part in ("test", "train")),
    "timestamp/Gift_Cards.valid.csv.gz",
  ]
