"""The page as a file: hostile texts are preserved, no other script or request is allowed, scores are in the JSON."""

import base64
import hashlib
import importlib.util
import json
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sacrebleu

ROOT = Path(__file__).parents[3]
run_in_one_process = runpy.run_path(str(ROOT / "tests" / "command_process.py"))["run_in_one_process"]


def samples(*flags: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "finetune_scaling.samples", *flags]
    return subprocess.run(command, capture_output=True, text=True, **options)


class Elements(HTMLParser):
    """Tags with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.inline: list[tuple[str, dict, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inline.append((tag, dict(attrs), ""))

    def handle_data(self, data):
        if self.cdata_elem:
            kind, attributes, text = self.inline[-1]
            self.inline[-1] = (kind, attributes, text + data)


@pytest.fixture(scope="module")
def page(tmp_path_factory, hostile_runs) -> Path:
    out = tmp_path_factory.mktemp("page") / "samples.html"
    done = samples(f"--runs={','.join(hostile_runs)}", "--names=full <b>,lora & co", f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "samples.json" in done.stdout
    return out


def test_hostile_texts_are_preserved(page, hostile):
    elements = Elements(page.read_text(encoding="utf-8"))
    scripts = [entry for entry in elements.inline if entry[0] == "script"]
    assert [attributes.get("type") for _, attributes, _ in scripts] == ["application/json", None]
    data = json.loads(scripts[0][2])
    assert list(zip(data["source"], data["reference"], strict=True)) == hostile
    assert data["runs"][0]["hypothesis"] == [reference for _, reference in hostile]
    assert [run["name"] for run in data["runs"]] == ["full <b>", "lora & co"]
    assert "b" not in [tag for tag, _ in elements.tags]


def test_the_policy_blocks_other_scripts_and_requests(page):
    text = page.read_text(encoding="utf-8")
    elements = Elements(text)
    policy = next(attributes["content"] for tag, attributes in elements.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; ")
    for kind, attributes, content in elements.inline:
        if attributes.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "://" not in text
    addresses = [a[key] for _, a in elements.tags for key in ("src", "href", "action") if key in a]
    assert addresses == ["#samples"]
    assert not any(name.startswith("on") or name == "style" for _, a in elements.tags for name in a)


def test_the_json_has_unrounded_scores_with_their_signature(page, hostile):
    record = json.loads(page.with_suffix(".json").read_text())
    assert record["metric"] == "chrf"
    assert record["signature"].startswith("nrefs:1|case:mixed")
    assert [example["index"] for example in record["examples"]] == list(range(len(hostile)))
    for example, (source, reference) in zip(record["examples"], hostile, strict=True):
        full, lora = example["scores"]
        assert full == 100.0
        assert lora == sacrebleu.sentence_chrf(source, [reference]).score
        assert example["losses"] == [0.5, None]
    means = [run["mean_score"] for run in record["runs"]]
    assert means[0] == 100.0 > means[1]


def test_errors_are_one_line_and_write_nothing(tmp_path, hostile_runs):
    errors = {
        "--names=one": "--names has 1 names for 2 runs",
        "--runs=none/*": "--runs=none/* matches no directory",
        f"--out={tmp_path}/page.txt": "must end in .html",
    }
    calls = [[f"--runs={','.join(hostile_runs)}", f"--out={tmp_path}/page.html", flag] for flag in errors]
    results = run_in_one_process("finetune_scaling.samples", calls)
    for message, done in zip(errors.values(), results, strict=True):
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_installed_package_includes_the_page_parts(tmp_path, hostile_runs):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed, so nothing can be built")
    build = [sys.executable, "setup.py", "-q", "build", f"--build-base={tmp_path}/base", f"--build-lib={tmp_path}/lib"]
    made = subprocess.run([*build, "egg_info", f"--egg-base={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    done = samples(f"--runs={Path(hostile_runs[0]).parent}/f*l", cwd=tmp_path / "lib")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "lib" / "samples.html").read_text(encoding="utf-8").startswith("<!doctype html>")
