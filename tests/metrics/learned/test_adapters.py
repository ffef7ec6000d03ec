"""Adapters: COMET with the real library and a tiny random checkpoint, BLEURT and MetricX with stubs."""

import importlib.metadata
import json
import os
import subprocess
from pathlib import Path

import pytest

from finetune_scaling.errors import MetricError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.learned import environment
from finetune_scaling.metrics.learned.metric import LearnedMetric, read_learned_metric

CONFIGS = Path(__file__).parents[3] / "configs" / "metrics"
CORPUS = Corpus(
    ["ein Haus", "", "der Baum ist alt"],
    [["das Haus"], ["ein See", "der See"], ["der alte Baum", "ein alter Baum", "Baum"]],
    "de",
    ["a house", "a lake", "the tree is old"],
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.CACHE_VARIABLE, str(tmp_path / "cache"))


def without_requirements(metric: LearnedMetric, **changes) -> LearnedMetric:
    """Return a metric that runs with this process's interpreter."""
    return LearnedMetric(**{**vars(metric), "requirements": (), **changes})


@pytest.mark.parametrize(
    ("config", "name", "sources", "lower"),
    [("comet", "comet", True, False), ("bleurt", "bleurt", False, False), ("metricx", "metricx", True, True)],
)
def test_shipped_configs_define_metrics_with_requirements(config, name, sources, lower):
    metric = read_learned_metric(f"{CONFIGS / config}.py")
    assert (metric.name, metric.needs_sources, metric.lower_is_better) == (name, sources, lower)
    assert metric.requirements
    assert read_learned_metric(f"{CONFIGS / config}.py:here,there").model in ("here,there", "there")


BLEURT = """
class BleurtScorer:
    def __init__(self, checkpoint):
        print("loading", checkpoint)  # as TensorFlow does, to the protocol's stdout

    def score(self, *, references, candidates, batch_size):
        assert len(references) == len(candidates) and batch_size == 2
        return [len(c) / len(r) for r, c in zip(references, candidates)]
"""


def test_bleurt_averages_over_references(tmp_path, monkeypatch):
    package = tmp_path / "site" / "bleurt"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "score.py").write_text(BLEURT)
    info = tmp_path / "site" / "bleurt-0.0.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: BLEURT\nVersion: 0.0.2\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    checkpoint = tmp_path / "BLEURT-tiny"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"1")
    metric = without_requirements(read_learned_metric(f"{CONFIGS / 'bleurt.py'}:{checkpoint}"), batch_size=2)
    found = metric.segments(CORPUS)
    expected = [
        sum(len(text) / len(reference) for reference in own) / len(own)
        for text, own in zip(CORPUS.hypotheses, CORPUS.references, strict=True)
    ]
    assert found.values.tolist() == pytest.approx(expected)
    assert found.signature.startswith("nrefs:var|metric:bleurt|model:BLEURT-tiny@sha256-")
    assert found.signature.endswith("|references:mean|score:mean-of-segments|version:bleurt-0.0.2")
    (checkpoint / "weights").write_bytes(b"2")
    assert metric.segments(CORPUS).signature != found.signature  # other weights are another metric


def test_a_missing_package_is_reported_with_its_stderr():
    metric = without_requirements(read_learned_metric(f"{CONFIGS / 'bleurt.py'}:nowhere"))
    with pytest.raises(MetricError, match=r"(?s)failed with exit code 1.*No package metadata was found for.*bleurt"):
        metric.segments(CORPUS)


METRICX = """
from types import SimpleNamespace
import torch

class MT5ForRegression(torch.nn.Module):
    @classmethod
    def from_pretrained(cls, name):
        return cls()

    def forward(self, input_ids, attention_mask):
        positions = torch.arange(1, input_ids.shape[1] + 1)
        return SimpleNamespace(predictions=(input_ids * attention_mask * positions).sum(1).float())
"""


@pytest.mark.slow
@pytest.mark.parametrize("reference_free", [False, True])
def test_metricx_inputs_equal_those_of_its_predict_script(tmp_path, reference_free):
    """The stub's prediction depends on every id and its position; padding must not count."""
    tokenizer = _word_tokenizer(tmp_path / "tokenizer")
    repository = tmp_path / "metricx"
    (repository / "metricx24").mkdir(parents=True)
    (repository / "metricx24" / "models.py").write_text(METRICX)
    metric = without_requirements(read_learned_metric(f"{CONFIGS / 'metricx.py'}:{repository},no-model"))
    extra = (f"--tokenizer={tmp_path / 'tokenizer'}", "--max-input-length=12")
    extra += ("--reference-free",) if reference_free else ()
    found = without_requirements(metric, command=(*metric.command, *extra)).segments(CORPUS)

    def expected(source, text, reference):
        words = f"source: {source} candidate: {text}" + ("" if reference_free else f" reference: {reference}")
        ids = tokenizer(words, max_length=12, truncation=True).input_ids[:-1]
        return sum(position * number for position, number in enumerate(ids, start=1))

    means = [
        sum(expected(source, text, reference) for reference in own) / len(own)
        for source, text, own in zip(CORPUS.sources, CORPUS.hypotheses, CORPUS.references, strict=True)
    ]
    assert found.values.tolist() == pytest.approx(means)
    assert f"|references:{'none' if reference_free else 'mean'}|length:12|" in found.signature


def _word_tokenizer(folder):
    """Save a word-level tokenizer that appends </s> = 1, as mT5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    texts = [*CORPUS.sources, *CORPUS.hypotheses, *(text for own in CORPUS.references for text in own)]
    words = ["<pad>", "</s>", "<unk>", "source:", "candidate:", "reference:"]
    words += sorted({word for text in texts for word in text.split()})
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_metricx_without_its_repository_is_an_error(tmp_path):
    metric = without_requirements(read_learned_metric(f"{CONFIGS / 'metricx.py'}:{tmp_path},m"))
    with pytest.raises(MetricError, match=r"(?s)exit code 2.*has no directory metricx24; give a checkout"):
        metric.segments(CORPUS)


# Runs in the interpreter with unbabel-comet: creates a checkpoint and scores with it.
MAKE_CHECKPOINT = """
import json, sys
from pathlib import Path

import pytorch_lightning, torch, yaml
from comet.models import RegressionMetric
from transformers import BertConfig, BertTokenizerFast

folder = Path(sys.argv[1])
encoder = folder / "encoder"
encoder.mkdir(parents=True)
letters = [front + letter for letter in "abcdefghijklmnopqrstuvwxyz" for front in ("", "##")]
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
(encoder / "vocab.txt").write_text("\\n".join(words))
BertTokenizerFast(str(encoder / "vocab.txt")).save_pretrained(encoder)
sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
BertConfig(vocab_size=len(words), max_position_embeddings=128, **sizes).save_pretrained(encoder)
torch.manual_seed(0)
metric = RegressionMetric(
    encoder_model="BERT", pretrained_model=str(encoder), load_pretrained_weights=False, local_files_only=True,
    hidden_sizes=[8], layer_transformation="softmax",
)
(folder / "checkpoints").mkdir()
state = {"state_dict": metric.state_dict(), "hyper_parameters": dict(metric.hparams)}
state["pytorch-lightning_version"] = pytorch_lightning.__version__
torch.save(state, folder / "checkpoints" / "model.ckpt")
(folder / "hparams.yaml").write_text(yaml.dump({"class_identifier": "regression_metric"}))
found = metric.predict(json.loads(sys.argv[2]), batch_size=1, gpus=0, progress_bar=False)["scores"]
(folder / "scores.json").write_text(json.dumps(found))
"""


@pytest.fixture
def comet_python(monkeypatch) -> str:
    """Return an interpreter with unbabel-comet: FINETUNE_SCALING_COMET, or "make" to create one in the user's cache.

    Creating it installs hundreds of MB (gigabytes with CUDA), so it is never done by default.
    """
    wanted = os.environ.get("FINETUNE_SCALING_COMET")
    if not wanted:
        pytest.skip('FINETUNE_SCALING_COMET is not set: the path of a Python with unbabel-comet, or "make"')
    if wanted != "make":
        return wanted
    monkeypatch.delenv(environment.CACHE_VARIABLE)  # the user's cache, so that it is created once
    torch = importlib.metadata.version("torch").partition("+")[0]
    requirements = (*read_learned_metric(f"{CONFIGS / 'comet.py'}").requirements, f"torch=={torch}")
    return str(environment.metric_interpreter("comet", requirements))


@pytest.mark.slow
def test_comet_scores_equal_those_of_the_library(comet_python, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(environment.CACHE_VARIABLE, str(tmp_path / "cache"))
    pairs = [
        {"src": source, "mt": text, "ref": reference}
        for source, text, own in zip(CORPUS.sources, CORPUS.hypotheses, CORPUS.references, strict=True)
        for reference in own
    ]
    command = [comet_python, "-c", MAKE_CHECKPOINT, str(tmp_path / "tiny"), json.dumps(pairs)]
    made = subprocess.run(
        command, capture_output=True, text=True, env=dict(environment.metric_variables(isolated=True))
    )
    assert made.returncode == 0, made.stderr
    direct = iter(json.loads((tmp_path / "tiny" / "scores.json").read_text()))
    expected = [sum(next(direct) for _ in own) / len(own) for own in CORPUS.references]

    shipped = read_learned_metric(f"{CONFIGS / 'comet.py'}:{tmp_path / 'tiny' / 'checkpoints' / 'model.ckpt'}")
    command = tuple(comet_python if word == "{python}" else word for word in shipped.command)
    metric = without_requirements(shipped, command=command)
    found = metric.segments(CORPUS)
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) == 3
    assert found.signature.startswith("nrefs:var|metric:comet|model:model.ckpt@sha256-")
    assert found.signature.endswith("|precision:float32|score:mean-of-segments|version:unbabel-comet-2.2.7")
    free = without_requirements(metric, command=(*command, "--reference-free"))
    with pytest.raises(MetricError, match="the model needs references: omit --reference-free"):
        free.segments(CORPUS)
