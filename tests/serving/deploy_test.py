"""Tests for deploy/: what its files start exists, and nginx serves it."""

import json
import re
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import yaml

from instructrec_jax.cli import options as opt
from instructrec_jax.cli import serve
from instructrec_jax.serving.access import Access
from instructrec_jax.serving.app import create_app
from instructrec_jax.serving.server import Connections, listen, running
from tests.serving.chromium import find_chromium, opened

KEY = "a-key-of-the-shop"
SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def deploy(root):
  return root / "deploy"


def words_of(deploy) -> dict[str, list[str]]:
  """The options of `serve` that each file gives."""
  docker = (deploy / "Dockerfile").read_text().replace("\\\n", " ")
  entry = json.loads(re.findall(r"^ENTRYPOINT (.+)$", docker, re.M)[0])
  default = json.loads(re.findall(r"^CMD (.+)$", docker, re.M)[0])
  compose = yaml.safe_load((deploy / "compose.yaml").read_text())
  unit = (deploy / "instructrec@.service").read_text()
  (started,) = re.findall(r"^ExecStart=(.+)$", unit, re.M)
  assert entry[:2] == ["instructrec", "serve"]
  return {
    "Dockerfile": entry[2:] + default,
    "compose.yaml": entry[2:] + compose["services"]["first"]["command"],
    "instructrec@.service": shlex.split(started)[2:],
  }


def test_the_options_of_each_file_are_options_of_serve(
  deploy, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "model").mkdir()
  (tmp_path / "model" / "model.json").write_text("{}")
  (tmp_path / "keys").write_text(KEY)
  for name, words in words_of(deploy).items():
    # In place of the folders and the port that are known when it is started.
    local = [
      re.sub(r"^(/srv/instructrec)?/model$", "model", word)
      .replace("%i", "8001")
      .replace("%d/keys", "keys")
      for word in words
    ]
    found = opt.parse(opt.Parser(prog=name), serve.Options, local)
    # nginx keeps connections for 60 seconds.
    assert found.keep_alive > 60, name


def test_the_image_copies_what_exists(deploy, root):
  docker = (deploy / "Dockerfile").read_text()
  for line in re.findall(r"^COPY (.+)$", docker, re.M):
    for name in line.split()[:-1]:
      assert (root / name).exists(), name


@pytest.fixture(scope="module")
def proxied(recommender, deploy, tmp_path_factory):
  """The address of two servers behind nginx, which writes into its folder."""
  nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
  if nginx is None:
    pytest.skip("there is no nginx: install the package nginx-light")
  folder = tmp_path_factory.mktemp("nginx")
  access = Access(keys=(KEY,), root_path="/recs", cors_origins=(SHOP,))
  keeps = Connections(keep_alive=75)
  with (
    running(create_app(recommender, access=access), connections=keeps) as one,
    running(create_app(recommender, access=access), connections=keeps) as two,
    listen() as free,
  ):
    port = free.getsockname()[1]
    free.close()
    text = (deploy / "nginx.conf").read_text()
    for name, url in (("first:8000", one), ("second:8000", two)):
      assert name in text
      text = text.replace(name, url.removeprefix("http://"))
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
    paths = "".join(
      f"  {name}_temp_path {folder}/{name};\n"
      for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", f"http {{\n  access_log off;\n{paths}")
    config = folder / "nginx.conf"
    config.write_text(f"daemon off;\npid {folder}/pid;\n{text}")
    process = subprocess.Popen(
      [nginx, "-c", config, "-e", folder / "error.log"],
      stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/recs"
    try:
      for _ in range(100):
        if (folder / "pid").exists() and process.poll() is None:
          break
        time.sleep(0.05)
      assert process.poll() is None, (folder / "error.log").read_text()
      yield url, (one, two)
    finally:
      process.terminate()
      process.wait()


def asked(url: str, body=None, key=KEY):
  headers = {"Authorization": f"Bearer {key}"} if key else {}
  if body is not None:
    headers["Content-Type"] = "application/json"
    body = json.dumps(body).encode()
  request = urllib.request.Request(url, body, headers)
  try:
    with urllib.request.urlopen(request, timeout=60) as answer:
      return answer.status, answer.read().decode()
  except urllib.error.HTTPError as error:
    return error.code, error.read().decode()


def test_nginx_shares_requests_among_servers_and_passes_keys(proxied):
  url, servers = proxied
  body = {"query": "a tent", "documents": ["b", "c"]}
  assert asked(f"{url}/v1/rerank", body, key="")[0] == 401
  for _ in range(8):
    assert asked(f"{url}/v1/rerank", body)[0] == 200
  for server in servers:
    metrics = asked(f"{server}/metrics")[1]
    assert 'path="/v1/rerank",status="200"' in metrics
  status, text = asked(f"{url}/openapi.json", key="")
  assert json.loads(text)["servers"] == [{"url": "/recs"}]
  # A browser asks first whether a script of another page may.
  may = urllib.request.Request(
    f"{url}/v1/rerank",
    headers={"Origin": SHOP, "Access-Control-Request-Method": "POST"},
    method="OPTIONS",
  )
  with urllib.request.urlopen(may, timeout=60) as answer:
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
  # Without a slash, too, one gets to the page.
  assert "<h1" in asked(url, key="")[1]


def test_the_page_works_behind_nginx_once_it_has_the_key(proxied, tmp_path):
  chromium = find_chromium()
  if chromium is None:
    pytest.skip("there is no Chromium: install the package chromium")
  url, _ = proxied
  with opened(chromium, tmp_path / "profile") as page:
    page.open(f"{url}/")
    page.wait("!document.getElementById('key-field').hidden")
    page.evaluate("document.getElementById('key').focus()")
    page.type(KEY)
    page.press("Enter")
    page.wait("document.getElementById('key-field').hidden")
    page.wait("document.getElementById('counted').textContent !== ''")
    page.evaluate("document.getElementById('query').focus()")
    page.type("a tent")
    page.press("Enter")
    page.wait("document.querySelectorAll('#ranking .named').length > 0")
    # The browser itself tells of the 401 that asked for the key.
    errors = [error for error in page.errors if "401" not in error]
    assert not errors
    assert all(
      address.startswith((f"{url}/", "data:")) for address in page.requested
    )
