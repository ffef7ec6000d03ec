"""Models on the hub, against a local server with its interface: what is fetched, resumed and rejected."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" + "0" * 34
COMMAND = """
import sys
from finetune_scaling.errors import UserError
from finetune_scaling.interop import hub
for source in sys.argv[2:]:
    try:
        found = getattr(hub, sys.argv[1])(source)
        if sys.argv[1] == "fetch_files":
            hub.fetch_weights(found)
        print(*found, sep="\\t")
    except UserError as error:
        print("error:", error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's interface: the files of a model's revision, and a file, complete or from an offset."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self.tell(*found.groups())
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path):
            return self.list(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.send(found[1], found[3])
        return self.refuse(404, "EntryNotFound")

    def tell(self, name, revision):
        if name == "owner/gated":
            return self.refuse(403, "GatedRepo")
        if name not in self.server.models:
            return self.refuse(401, "RepoNotFound")
        if revision not in (None, "main", "step3", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        files = [{"rfilename": file} for file in self.server.models[name]]
        body = json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": files, "tags": []}).encode()
        return self.answer(200, body, {"Content-Type": "application/json"})

    def list(self, name):
        files = self.server.models[name].items()
        rows = [{"type": "file", "path": file, "size": len(content), "oid": "0" * 40} for file, content in files]
        return self.answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})

    def send(self, name, file):
        content = self.server.models.get(name, {}).get(file)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        first = int(re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", "bytes=0-"))[1])
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.command == "GET":
            self.server.requests.append((file, first))
        cut = self.server.cut if self.command == "GET" and file.endswith(".safetensors") else None
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.answer(206 if first else 200, content[first:], headers, cut)

    def refuse(self, code, kind):
        self.answer(code, b"{}", {"X-Error-Code": kind, "X-Error-Message": kind})

    def answer(self, code, body, headers, cut=None):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
            self.wfile.flush()
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    """The server; models: files by name; requests: (file, first byte) of each that was fetched; cut: bytes sent."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    save_file({"a": np.arange(6_000_000, dtype=np.float32)}, tmp_path / "weights")
    weights = (tmp_path / "weights").read_bytes()
    others = {
        "modeling.py": b"raise SystemExit",
        "pytorch_model.bin": b"pickle",
        "README.md": b"",
        "tokenizer.json": b"{}",
    }
    index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
    server.models = {
        "owner/whole": {"config.json": b"{\"a\": 1}", "model.safetensors": weights, **others},
        "owner/parts": {
            "config.json": b"{}", "model.safetensors.index.json": index, "model-00001-of-00001.safetensors": weights,
            "consolidated.safetensors": weights,
        },
        "owner/pickles": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
        "owner/odd": {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": []}'},
    }  # fmt: skip
    server.requests, server.cut = [], None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def find(hub, tmp_path):
    """find("owner/name@revision", ...) in a new process, since the library reads its settings on import.

    Returns a line per source: the fields of what was found, or the error.
    """

    def call(*sources, function="fetch_files", **settings):
        known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "http"))}
        environment = {
            **known, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", **settings,
        }  # fmt: skip
        command = [sys.executable, "-c", COMMAND, function, *sources]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return call


def test_only_config_weights_and_tokenizer_are_fetched(hub, find):
    (found,) = find("owner/whole@step3")
    name, directory, revision, commit = found.split("\t")
    assert (name, revision, commit) == ("owner/whole", "step3", COMMIT)
    assert sorted(os.listdir(directory)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (Path(directory) / "model.safetensors").read_bytes() == hub.models[name]["model.safetensors"]
    assert {file for file, _ in hub.requests} == {"config.json", "model.safetensors", "tokenizer.json"}


def test_fetch_config_fetches_the_config_alone(hub, find):
    found, gated = find("owner/parts@step3", "owner/gated", function="fetch_config")
    name, directory, revision, _ = found.split("\t")
    assert (name, revision, os.listdir(directory)) == ("owner/parts", "step3", ["config.json"])
    assert {file for file, _ in hub.requests} == {"config.json"}
    assert "is gated" in gated
    (whole,) = find("owner/parts@step3")  # without the second copy of the weights
    assert sorted(os.listdir(whole.split("\t")[1])) == sorted({*hub.models[name]} - {"consolidated.safetensors"})


def test_interrupted_download_resumes(hub, find):
    hub.cut = 21_000_000
    (broken,) = find("owner/whole")
    hub.cut = None
    assert not broken.startswith("error") or "run the same command again" in broken  # the library retries
    (whole,) = find("owner/whole")
    firsts = [first for file, first in hub.requests if file == "model.safetensors"]
    assert max(firsts) >= 20_000_000
    directory = Path(whole.split("\t")[1])
    assert (directory / "model.safetensors").read_bytes() == hub.models["owner/whole"]["model.safetensors"]


def test_cached_model_needs_no_network(hub, find):
    first = find("owner/whole")
    assert first[0].endswith(COMMIT)
    assert find("owner/whole", HF_HUB_OFFLINE="1") == first


def test_unavailable_model_is_a_user_error(find):
    expected = {
        "owner/gated": "owner/gated: is gated",
        "owner/absent": "owner/absent: is neither a directory nor a model",
        "owner/whole@step4": "owner/whole: has no revision 'step4'",
        "owner/pickles": r"owner--pickles.* has no model.safetensors .*Pickled",
        "owner/odd": "model.safetensors.index.json: has no weight_map",
        "no directory": "no directory: no such directory",
    }
    for line, message in zip(find(*expected), expected.values(), strict=True):
        assert re.search(f"^error: .*{message}", line)


@pytest.mark.parametrize(
    "settings", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "no network"]
)
def test_unreachable_hub_is_a_user_error(find, settings):
    (line,) = find("owner/whole", **settings)
    assert re.search("^error: owner/whole: .*the hub cannot be reached", line)
