"""Shared fixtures: the folder of real data, a tiny decoder with every tuning method, runs of about a second, fits."""

import functools
import os
import re
import runpy
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

import synthetic_points
from finetune_scaling import command, configuration, process_setup
from finetune_scaling.analysis.analysis import Analysis, analyse
from finetune_scaling.command_flags import config_flag, read_config
from finetune_scaling.configuration import merge
from finetune_scaling.data.tokenizers.training import TokenizerPreparation, prepare_tokenizer
from finetune_scaling.experiments.run import run as train
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.trees import Tree, path_name
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import MethodSpec, TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

# Programs started by tests must react to SIGINT and SIGHUP, which a shell makes its background jobs ignore.
for ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)

# Compilation dominates the run time of these tests; their models are too small to gain from optimized code. Without the
# new fusion emitters XLA:CPU compiles a train step in half the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
os.environ["FINETUNE_SCALING_DATA_CACHE"] = ""  # tests that store results name a directory of their own

_LONGEST = (
    *("test_slurm.py", "test_study.py", "test_processes.py", "test_tpu_programs.py", "test_meshes.py"),
    *("test_published_curves.py", "test_notebooks.py", "test_clouds.py", "test_claims.py", "test_study_report.py"),
    *("test_acquisition_simulation.py", "test_advice.py", "test_object_store_runs.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that all workers finish at about the same time."""
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


# Files that use `noisy` or `underdetermined`, whose fits take a minute: one worker runs all of them.
_SHARING_FITS = {
    *("test_claims.py", "test_model_selection.py", "test_critical_sizes.py", "test_best_method_map.py"),
    *("test_two_stage.py", "test_report_sections.py"),
}


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler that runs all tests of a file, and all files of _SHARING_FITS, on one worker."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "shared fits" if Path(file).name in _SHARING_FITS else file

    return Scheduler(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real text and scaling data; tests skip if FINETUNE_SCALING_DATA is not set."""
    folder = os.environ.get("FINETUNE_SCALING_DATA")
    if not folder:
        pytest.skip("FINETUNE_SCALING_DATA does not name a data folder")
    return Path(folder)


@pytest.fixture(scope="session")
def full_device() -> Path:
    """Return a file on which every write fails with "no space left on device"."""
    device = Path("/dev/full")
    if not device.is_char_device():
        pytest.skip("/dev/full is not a character device")
    return device


class TunedDecoder(NamedTuple):
    """A tuning method on the tiny base whose trainable leaves differ from their initial values, as after training."""

    tuning: TuningMethod
    trainable: Tree
    frozen: Tree


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """Return a decoder config that compiles quickly; all sizes differ, so that shapes identify arrays."""
    return ModelConfig(
        vocab_size=61,
        layers=2,
        model_dim=24,
        heads=4,
        kv_heads=2,
        head_dim=8,
        ffn_dim=40,
        max_length=64,
        embedding_std=0.1,  # with larger ones a random model only repeats its last token
        compute_dtype="float32",
    )


@pytest.fixture(scope="session")
def random_params() -> Callable[[ModelConfig], Params]:
    """Return a function config -> random parameters, norms and biases included, that compiles nothing.

    Kernels are larger than at initialization, so that completions depend on the whole prompt.
    """

    def draw(config: ModelConfig) -> Params:
        rng = np.random.default_rng(0)

        def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
            noise, name = rng.normal(size=shape.shape), path_name(path)
            if name == "embedding":
                return jnp.asarray(noise * config.embedding_std, jnp.float32)
            if name.endswith(("kernel", "head")):
                return jnp.asarray(2 * noise * shape.shape[-2] ** -0.5, jnp.float32)
            return jnp.asarray(name.endswith("scale") + 0.1 * noise, jnp.float32)

        return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(LanguageModel(config).init, jax.random.key(0)))

    return draw


@pytest.fixture(scope="session")
def tiny_base(tiny_config: ModelConfig, random_params: Callable[[ModelConfig], Params]) -> Params:
    """Return random parameters of `tiny_config`; tests must not modify or donate them."""
    return random_params(tiny_config)


@pytest.fixture(scope="session")
def tuned(tiny_config: ModelConfig, tiny_base: Params) -> Callable[..., TunedDecoder]:
    """Return a function such as tuned("lora", rank=3): a method on the tiny base, plus normal noise on its leaves."""

    @functools.cache
    def make(name: str, noise: float = 0.5, **options: Any) -> TunedDecoder:
        tuning = configure(METHODS, {"name": name, **options})
        trainable, frozen = attach(tiny_config, tuning, jax.random.key(1), tiny_base, range(8, tiny_config.vocab_size))
        rng = np.random.default_rng(2)
        move = lambda leaf: jnp.asarray(np.asarray(leaf) + noise * rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
        return TunedDecoder(tuning, jax.tree.map(move, trainable) if noise else trainable, frozen)

    return make


@pytest.fixture(scope="session")
def example_spec() -> MethodSpec:
    """Return the MethodSpec of the code block of docs/methods.md."""
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    module: dict[str, Any] = {"__name__": "gain"}
    exec("".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), module)
    return module["SPEC"]


@pytest.fixture
def example_method(example_spec: MethodSpec, monkeypatch: pytest.MonkeyPatch) -> MethodSpec:
    """Register the method of docs/methods.md, gain, for one test, as a user would add it."""
    monkeypatch.setitem(METHODS, example_spec.name, example_spec)
    return example_spec


class TinyRuns(NamedTuple):
    """Configs of runs that take a second, with a tokenizer and a pretrained base that tests must not modify."""

    tokenizer: Path
    base: Path
    get_config: Callable[[str], Any]

    def config(self, what: str, **changes: Any) -> dict[str, Any]:
        """Return a config of tests/tiny.py with its paths set and `changes` merged into it."""
        config = configuration.plain(self.get_config(what))
        paths = {"tokenizer": str(self.tokenizer)} | ({"base": {"run": str(self.base)}} if "base" in config else {})
        return merge(merge(config, {} if what == "study" else paths), changes)

    def flags(self, what: str, workdir: Path) -> list[str]:
        """Return command-line flags that select the same config."""
        flags = [f"--config={Path(__file__).with_name('tiny.py')}:{what}", f"--workdir={workdir}"]
        if what != "study":
            flags.append(f"--config.tokenizer={self.tokenizer}")
        return flags if what in ("study", "pretrain") else [*flags, f"--config.base.run={self.base}"]


@pytest.fixture
def read_command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function of the flags --config=FILE, --config.field=value, ...: the config that a command reads."""

    def read(*arguments: str) -> dict[str, Any]:
        values = flags.FlagValues()
        monkeypatch.setattr(flags, "FLAGS", values)
        flag = config_flag("config", "")
        command._parse_flags(["train", *arguments])
        return read_config(flag)

    return read


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return XLA's compilation cache, which all processes of this test session share."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla"
    os.environ[process_setup.CACHE_VARIABLE] = str(cache)
    process_setup.enable_compilation_cache()
    return cache


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> TinyRuns:
    """Return the tiny runs of this session."""
    module = runpy.run_path(str(Path(__file__).with_name("tiny.py")))
    folder = tmp_path_factory.mktemp("tiny")
    tiny = TinyRuns(folder / "tokenizer", folder / "base", module["get_config"])
    preparation = {"tokenizer": module["TOKENIZER"], "corpus": module["corpus"]()}
    prepare_tokenizer(configuration.build(TokenizerPreparation, preparation, "tiny"), tiny.tokenizer)
    train(tiny.config("pretrain"), tiny.base)
    return tiny


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a headless Chromium; tests skip if it is not installed."""
    module = runpy.run_path(str(Path(__file__).parent / "browser.py"))
    if module["find_chromium"]() is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with module["Browser"](tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Return an analysis of half the dataset sizes of the paper's En-De grid, three seeds each, noise .001."""
    rows = synthetic_points.thinned(synthetic_points.rows(noise=0.001, seeds=3))
    path = synthetic_points.write(tmp_path_factory.mktemp("noisy") / "points.csv", rows)
    return analyse(read_points(path), FitSettings(), progress=lambda _: None, resampling=Resampling(resamples=60))


@pytest.fixture(scope="session")
def underdetermined(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Return an analysis of two model sizes and three dataset sizes, which determine no exponent."""
    chosen = [
        row
        for row in synthetic_points.rows(noise=0.003, methods=("full", "lora"))
        if row["factor"] == "model" and row["x"] in synthetic_points.SIZES[:2]
        if row["finetune_examples"] in synthetic_points.EXAMPLES[row["method"]][:3]
    ]
    path = synthetic_points.write(tmp_path_factory.mktemp("underdetermined") / "points.csv", chosen)
    return analyse(read_points(path), FitSettings(), progress=lambda _: None, resampling=Resampling(resamples=40))
