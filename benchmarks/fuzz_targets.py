"""Targets of the fuzz campaign: small valid inputs, made once, and the commands that read damaged copies of them."""

import contextlib
import json
import os
import random
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forking
import mutations
import synthetic_points
from finetune_scaling import configuration
from finetune_scaling.configuration import merge
from finetune_scaling.errors import exit_on_user_error

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.py"
_FIELDS = ("source", "target")
_TEXT_FIELDS = ("text/train.jsonl", "text/dev.tsv", "text/test.jsonl")
_PREPARING = forking.Limits(cpu_seconds=600, seconds=1200)


@dataclass(frozen=True)
class Target:
    """One way to read an input.

    inputs: seeds that are copied into the folder of a case; victims: patterns of their files that are damaged.
    run: runs the command or library call on the folder, in a child, with random arguments if it gets a generator.
    results: files and directories in the folder that a success may replace or extend; rewritten: files that a refusal
    may replace, too; moved: directories whose files a refusal may move elsewhere, but not change. weight: its share of
    the inputs.
    """

    name: str
    weight: int
    inputs: tuple[str, ...]
    victims: tuple[str, ...]
    run: Callable[[random.Random | None, Path], None]
    results: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()


def _command(name: str, *arguments: str) -> Callable[[random.Random | None, Path], None]:
    """Return the run of a command; CASE in its arguments is the folder of the case."""

    def run(_: random.Random | None, case: Path) -> None:
        forking.run_command(name, [argument.replace("CASE", str(case)) for argument in arguments])

    return run


def _call(function: Callable[[Path], Any]) -> Callable[[random.Random | None, Path], None]:
    """Return the run of a library call, whose UserErrors end it as they end a command."""

    def run(_: random.Random | None, case: Path) -> None:
        with exit_on_user_error():
            function(case)

    return run


def targets(seeds: Path) -> list[Target]:
    """Return all targets."""
    to_hub = ("--from-hf=CASE/model", "--out=CASE/out")
    plan = (f"--config={TINY}:lora", "--analytic", "--topology=h100:8", "--model=30k", "--vocabulary=256")
    train = (f"--config={TINY}:lora", *_paths(seeds))
    texts = ("--hypotheses=CASE/hypotheses.txt", "--references=CASE/references.txt", "--target-language=de")
    peft = (f"--base={seeds / 'base_of_adapter'}", "--from-peft=CASE/adapter", "--out=CASE/out")
    run_files = ("run/*.json", "run/*.jsonl", "run/evaluation/*")
    return [
        Target("task text", 14, ("text",), _TEXT_FIELDS, _call(_read_task)),
        Target("points as CSV", 8, ("points.csv",), ("points.csv",), _call(
            lambda case: _read_points(case / "points.csv"))),
        Target("points as JSONL", 8, ("points.jsonl",), ("points.jsonl",), _call(
            lambda case: _read_points(case / "points.jsonl"))),
        Target("fit", 1, ("points.csv", "report"), ("points.csv",), _command(
            "fit", "--points=CASE/points.csv", "--out=CASE/report", "--resamples=40", "--laws=additive"), ("report",)),
        Target("fit of one law", 1, ("law.csv",), ("law.csv",), _command(
            "fit", "--points=CASE/law.csv", "--law=chinchilla", "--out=CASE/out", "--resamples=40"), ("out",)),
        Target("run config", 10, ("configs",), ("configs/run.json",), _call(_read_run_config)),
        Target("study config", 10, ("configs",), ("configs/study.json",), _call(_read_study_config)),
        Target("override of a run", 6, (), (), _overrides("plan", plan, seeds / "configs" / "run.json")),
        Target("override of a study", 3, (), (), _overrides(
            "study", (f"--config={TINY}:study", "--list", "--workdir=CASE/out"), seeds / "configs" / "study.json")),
        Target("flags", 6, ("points.csv", "run"), (), _flags(seeds)),
        Target("public config", 7, ("model",), ("model/*.json",), _command("convert", *to_hub), ("out",)),
        Target("public weights", 5, ("model",), ("model/*.safetensors",), _command("convert", *to_hub), ("out",)),
        Target("public tokenizer", 10, ("model",), ("model/token*", "model/*config.json"), _call(
            lambda case: _read_tokenizer(case / "model"))),
        Target("tokenizer", 5, ("tokenizer",), ("tokenizer/*",), _call(
            lambda case: _read_tokenizer(case / "tokenizer"))),
        Target("PEFT adapter", 7, ("adapter",), ("adapter/*.json", "adapter/*.safetensors"), _command(
            "convert", *peft), ("out",)),
        Target("inspection of a run", 8, ("run",), (*run_files, "run/checkpoints/*/*/*"), _command(
            "inspect", "CASE/run")),
        Target("reading of a run", 12, ("run",), run_files, _call(_read_run)),
        Target("finished run", 3, ("run",), run_files, _command(
            "train", *train, "--config.evaluation.generate_examples=3", "--workdir=CASE/run"), ("run",)),
        Target("resumed run", 1, ("unfinished",), (
            "unfinished/*.json", "unfinished/*.jsonl", "unfinished/checkpoints/*/*/*"), _command(
            "train", *train, "--workdir=CASE/unfinished"), ("unfinished",), ("unfinished/config.json",),
            ("unfinished/checkpoints",)),
        Target("export of a run", 2, ("adapted",), (
            "adapted/*.json", "adapted/checkpoints/*/*/*", "adapted/checkpoints/*/*/*/*"), _command(
            "convert", "--checkpoint=CASE/adapted", "--to-peft=CASE/out"), ("out",)),
        Target("scores of texts", 6, ("hypotheses.txt", "references.txt", "scores.json"), (
            "hypotheses.txt", "references.txt"), _command("evaluate", *texts, "--out=CASE/scores.json"), (
            "scores.json",)),
        Target("scores of rows", 5, ("run", "scores.json"), ("run/evaluation/*.jsonl",), _command(
            "evaluate", "--rows=CASE/run/evaluation/test.jsonl", "--out=CASE/scores.json"), (
            "scores.json",)),
        Target("samples", 4, ("run", "samples.html"), ("run/evaluation/*.jsonl", "run/*.json"), _command(
            "samples", "--runs=CASE/run", "--out=CASE/samples.html"), ("samples.html", "samples.json")),
        Target("comparison", 3, ("run", "scores.json"), ("run/evaluation/*.jsonl",), _command(
            "compare", f"--runs=own=CASE/run,intact={seeds / 'run'}", "--target-language=B", "--samples=5",
            "--metrics=bleu,loss", "--out=CASE/scores.json"), ("scores.json",)),
        Target("inspection of a study", 4, ("study",), (
            "study/*.json", "study/bases/*/*/*.json", "study/runs/*/*/*/*.json"), _command("inspect", "CASE/study")),
        Target("reading of a study", 5, ("study",), (
            "study/*.json", "study/*.csv", "study/bases/*/*/*.json", "study/runs/*/*/*/*.json"), _call(_read_study)),
    ]  # fmt: skip


def _paths(seeds: Path) -> tuple[str, str]:
    return (f"--config.tokenizer={seeds / 'tokenizer'}", f"--config.base.run={seeds / 'base'}")


def _overrides(name: str, arguments: Sequence[str], config: Path) -> Callable[[random.Random | None, Path], None]:
    """Return the run of a command whose config has one or two odd values on the command line."""

    def run(rng: random.Random | None, case: Path) -> None:
        given = [argument.replace("CASE", str(case)) for argument in arguments]
        if rng is None:
            forking.run_command(name, given)
            return
        fields = list(_dotted(json.loads(config.read_text())))
        odd = [f"--config.{rng.choice(fields)}={rng.choice(mutations.TEXTS)}" for _ in range(rng.choice((1, 1, 2)))]
        if rng.random() < 0.1:
            odd[0] = odd[0].replace("=", rng.choice((".x=", "x=", "")), 1)
        forking.run_command(name, [*given, *odd])

    return run


def _flags(seeds: Path) -> Callable[[random.Random | None, Path], None]:
    """Return the run of some command with a flag that has an odd value."""
    known = {
        "fit": ("points", "out", "law", "by", "laws", "bootstrap", "resamples", "huber_delta", "residual", "methods"),
        "recommend": ("points", "finetune_examples", "task", "budget", "metric", "sizes", "methods", "epochs"),
        "evaluate": ("workdir", "study", "evaluators", "config", "out", "split", "step", "examples", "metrics", "rows"),
        "plan": ("config", "prices", "topology", "batch", "length", "model", "vocabulary", "utilisation"),
        "convert": ("from_hf", "out", "dtype", "tokenizer", "checkpoint", "step", "to_hf", "to_peft", "from_peft"),
        "samples": ("runs", "names", "split", "score", "examples"),
        "compare": ("runs", "systems", "split", "target_language", "metrics", "test", "samples", "seed", "out"),
        "inspect": ("json",),
        "study": ("config", "workdir", "index", "of"),
        "train": ("config", "workdir"),
        "prepare": ("config", "out", "task", "shards", "min_tokens"),
    }
    given = {
        "fit": ["--points=CASE/points.csv", "--out=CASE/out", "--law=chinchilla"],
        "recommend": ["--points=CASE/points.csv", "--finetune-examples=1e3", "--task=none"],
        "evaluate": ["--rows=CASE/run/evaluation/test.jsonl", "--out=CASE/out.json"],
        "plan": [f"--config={TINY}:lora", "--analytic", "--topology=h100:8"],
        "convert": ["--checkpoint=CASE/run", "--to-peft=CASE/points.csv"],
        "samples": ["--runs=CASE/run", "--out=CASE/samples.html"],
        "compare": ["--runs=CASE/run", "--out=CASE/out.json", "--target-language=de", "--samples=5", "--metrics=bleu"],
        "inspect": ["CASE/run"],
        "study": [f"--config={TINY}:study", "--list"],
        "train": [f"--config={TINY}:lora", "--config.tokenizer=CASE/none", "--workdir=CASE/out"],
        "prepare": ["corpus", f"--config={seeds / 'configs' / 'none.py'}"],
    }

    def run(rng: random.Random | None, case: Path) -> None:
        if rng is None:
            return
        name = rng.choice(list(known))
        flag = rng.choice(known[name])
        kept = [one for one in given[name] if not one.startswith(f"--{flag}=") or rng.random() < 0.2]
        odd = f"--{flag}={rng.choice(mutations.TEXTS)}"
        forking.run_command(name, [argument.replace("CASE", str(case)) for argument in (*kept, odd)])

    return run


def _read_task(case: Path) -> None:
    from finetune_scaling.data.task import jsonl_task, load_task

    train, dev, test = (str(case / name) for name in _TEXT_FIELDS)
    task = load_task(jsonl_task("own", "translation", ("en", "de"), _FIELDS, train, dev, {"test": test}))
    for split in task.splits():
        for example in task.examples(split):
            assert all(example[field].strip() for field in _FIELDS), example


def _read_points(path: Path) -> None:
    from finetune_scaling.api import read_points

    assert read_points(path).settings["loss"].notna().all()


def _config(path: Path) -> dict[str, Any]:
    """Return a damaged config as --config would read it: a dict, which a Python file returns."""
    from finetune_scaling.errors import ConfigError

    try:
        config = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return config if isinstance(config, dict) else {"config": config}


def _read_run_config(case: Path) -> None:
    from finetune_scaling.runs.run_config import read_run_config

    config = read_run_config(_config(case / "configs" / "run.json"))
    assert config.tokens_per_step > 0


def _read_study_config(case: Path) -> None:
    from finetune_scaling.studies.grid import read_study, runs

    assert runs(read_study(_config(case / "configs" / "study.json")))


def _read_tokenizer(directory: Path) -> None:
    from finetune_scaling.data.tokenizers.loading import load_tokenizer

    tokenizer = load_tokenizer(directory)
    ids = tokenizer.encode("Der Fuchs  läuft\n über 1,5 🙂")
    assert all(0 <= one < tokenizer.vocab_size for one in ids), ids
    tokenizer.decode(ids)


def _read_run(case: Path) -> None:
    from finetune_scaling.reading import load_run

    run = load_run(case / "run")
    for show in (
        repr,
        lambda r: r.method,
        lambda r: r.curves,
        lambda r: r.scores,
        lambda r: r.samples(),
        lambda r: r.base,
    ):
        show(run)


def _read_study(case: Path) -> None:
    from finetune_scaling.reading import load_study

    study = load_study(case / "study")
    for show in (repr, lambda s: s.runs, lambda s: s.bases, lambda s: s.points):
        show(study)


@contextlib.contextmanager
def campaign_folder(seeds: str) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary directory, and the directory of the undamaged inputs: `seeds`, or a temporary one."""
    forking.import_package()
    with tempfile.TemporaryDirectory(prefix="campaign-") as temporary:
        directory = Path(seeds or f"{temporary}/seeds").resolve()
        os.environ["FINETUNE_SCALING_CACHE"] = str(directory / "cache")
        _make_seeds(directory)
        yield Path(temporary), directory


def _make_seeds(seeds: Path) -> None:
    """Make all inputs, each in a child, since the parent must not compute with JAX."""
    seeds.mkdir(parents=True, exist_ok=True)
    steps: list[Callable[[], None]] = [
        lambda: _write_texts(seeds),
        lambda: _write_configs(seeds),
        lambda: forking.run_command("prepare", [
            "tokenizer", f"--config={TINY}:tokenizer", f"--out={seeds / 'tokenizer'}"]),
        lambda: forking.run_command(
            "train", [f"--config={TINY}:pretrain", f"--workdir={seeds / 'base'}", _paths(seeds)[0]]
        ),
        lambda: forking.run_command("train", [
            f"--config={TINY}:lora", *_paths(seeds), f"--workdir={seeds / 'run'}",
            "--config.evaluation.generate_examples=3"]),
        lambda: _write_unfinished(seeds),
        lambda: _run_small_study(seeds),
        lambda: _write_public_model(seeds),
        lambda: forking.run_command(
            "convert", [f"--from-hf={seeds / 'model'}", f"--out={seeds / 'base_of_adapter'}"]
        ),
        lambda: forking.run_command("convert", [
            f"--from-peft={seeds / 'adapter'}", f"--base={seeds / 'base_of_adapter'}", f"--out={seeds / 'adapted'}"]),
        lambda: forking.run_command("fit", [
            f"--points={seeds / 'points.csv'}", f"--out={seeds / 'report'}", "--resamples=40", "--laws=additive"]),
    ]  # fmt: skip
    for number, step in enumerate(steps):
        done = seeds / f".step-{number}"
        if done.exists():
            continue
        log = seeds / f".step-{number}.log"
        log.unlink(missing_ok=True)
        ended = forking.run(step, log, _PREPARING)
        print(f"inputs: {number + 1} of {len(steps)}, {ended.seconds:.0f} s", file=sys.stderr, flush=True)
        if ended.code:
            raise SystemExit(f"error: the inputs cannot be made; see {log}:\n{ended.errors[-2000:]}")
        done.touch()


def _write_texts(seeds: Path) -> None:
    (seeds / "text").mkdir(exist_ok=True)
    pairs = [(f"A small house number {n}.", f"Ein kleines Haus Nummer {n}: „ä“.") for n in range(12)]
    lines = "".join(json.dumps(dict(zip(_FIELDS, pair, strict=True)), ensure_ascii=False) + "\n" for pair in pairs)
    for name in ("train.jsonl", "test.jsonl"):
        (seeds / "text" / name).write_text(lines)
    (seeds / "text" / "dev.tsv").write_text("\n".join("\t".join(pair) for pair in [_FIELDS, *pairs]) + "\n")
    for name, column in (("hypotheses.txt", 0), ("references.txt", 1)):
        (seeds / name).write_text("".join(f"{pair[column]}\n" for pair in pairs))
    (seeds / "scores.json").write_text("{}\n")
    (seeds / "samples.html").write_text("<html></html>\n")
    rows = [row for row in synthetic_points.thinned(synthetic_points.rows(noise=0.003)) if row["method"] == "full"]
    rows = [{**row, "bleu": 60 - 20 * row["loss"], "pretraining.loss": 2.5, "steps": 9, "best_step": 8} for row in rows]
    synthetic_points.write(seeds / "points.csv", rows)
    (seeds / "points.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    law = "N,D,loss\n" + "".join(
        f"{n:g},{d:g},{2 + 40 / n**0.3 + 9 / d**0.4}\n" for n in (1e3, 1e4, 1e5) for d in (1e2, 1e3, 1e4)
    )
    (seeds / "law.csv").write_text(law)


def _write_configs(seeds: Path) -> None:
    get_config = runpy.run_path(str(TINY))["get_config"]
    (seeds / "configs").mkdir(exist_ok=True)
    paths = {"tokenizer": str(seeds / "tokenizer"), "base": {"run": str(seeds / "base")}}
    configs = {
        "run": merge(configuration.plain(get_config("lora")), paths),
        "study": configuration.plain(get_config("study")),
    }
    for name, config in configs.items():
        (seeds / "configs" / f"{name}.json").write_text(json.dumps(config, indent=1))


def _write_unfinished(seeds: Path) -> None:
    shutil.copytree(seeds / "run", seeds / "unfinished")
    (seeds / "unfinished" / "result.json").unlink()
    config = json.loads((seeds / "unfinished" / "config.json").read_text())
    config["evaluation"]["generate_examples"] = 0
    (seeds / "unfinished" / "config.json").write_text(json.dumps(config, indent=2))


def _run_small_study(seeds: Path) -> None:
    """Run a study of two runs; its report is not needed."""
    path = seeds / "configs" / "small_study.py"
    path.write_text(
        "import runpy\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    config = runpy.run_path({str(TINY)!r})['study']()\n"
        "    config['families']['grammar'].update(sizes=('30k',), tokens=(10 * 8 * 32,))\n"
        "    full = {'factors': ('model',), 'finetune_examples': (10, 20)}\n"
        "    config['tasks']['translation']['methods'] = {'full': full}\n"
        "    return ConfigDict(config)\n"
    )
    try:
        forking.run_command("study", [f"--config={path}", f"--workdir={seeds / 'study'}"])
    except SystemExit:  # two runs determine no law
        if not (seeds / "study" / "points.csv").exists():
            raise


def _write_public_model(seeds: Path) -> None:
    """Write a model and an adapter as transformers and PEFT do."""
    tests = ROOT / "tests"
    make_tokenizer = runpy.run_path(str(tests / "public_tokenizers.py"))["byte_level"]
    make = runpy.run_path(str(tests / "public_models.py"))["make"]
    make("llama", vocab_size=340, bos_token_id=1, eos_token_id=2).save_pretrained(seeds / "model")
    make_tokenizer(seeds / "model")
    adapters = runpy.run_path(str(tests / "peft_adapters.py"))
    adapters["new_adapter"]("lora", seeds / "model").save_pretrained(seeds / "adapter")


def _dotted(config: Any, name: str = "") -> list[str]:
    """Return the dotted names of all fields of a config."""
    if not isinstance(config, dict):
        return [name]
    fields = [field for key, value in config.items() for field in _dotted(value, f"{name}.{key}" if name else key)]
    return [*fields, *([name] if name else [])]
