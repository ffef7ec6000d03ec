"""Tasks: all named tasks build, configs change them, and errors name the field, split or language."""

import json

import ml_collections
import pytest

from finetune_scaling.data.sources import FilesSource, GrammarSource
from finetune_scaling.data.task import jsonl_task, load_task, prepare_task
from finetune_scaling.data.tasks import TASKS
from finetune_scaling.errors import ConfigError, DataError


@pytest.fixture
def news(tmp_path):
    for name, size in (("train", 20), ("dev", 3), ("test", 4)):
        rows = [{"en": f"{name} house {i}", "de": f"{name} Haus {i}"} for i in range(size)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return jsonl_task(
        name="news",
        kind="translation",
        languages=("en", "de"),
        fields=("en", "de"),
        train="train.jsonl",
        dev="dev.jsonl",
        test={"newstest": "test.jsonl"},
        sources={"data_dir": str(tmp_path)},
    )


@pytest.mark.parametrize("name", TASKS)
def test_named_tasks_build(name):
    task = load_task(name)
    assert task.name == name
    assert task.test
    assert task.template.input.startswith(("{source_language}: ", "Summarize the following"))


def test_tasks_of_the_paper_have_its_limits_and_splits():
    lengths = {name: (load_task(name).max_source_tokens, load_task(name).max_target_tokens) for name in TASKS}
    assert lengths["wmt14_en_de"] == lengths["wmt19_en_zh"] == (256, 256)
    assert lengths["mlsum"] == (512, 256)
    tests = {"newstest2020", "newstest2021", "newstest2022"}
    assert set(load_task("wmt14_en_de").test) == set(load_task("wmt19_en_zh").test) == tests
    assert [part.direction for part in load_task("mlsum").train] == ["de", "es", "fr", "en"]
    flores = load_task("flores200")
    assert not flores.train
    assert set(flores.test) == {f"{s}-de" for s in ("fr", "zh", "hi", "tr", "pl")} | {
        f"{s}-zh" for s in ("fr", "de", "hi", "tr", "pl")
    }


def test_a_complete_task_in_a_config(news):
    for spec in (news, ml_collections.ConfigDict(news)):
        task = load_task(spec)
        assert (task.max_source_tokens, task.max_target_tokens) == (256, 256)
        examples = task.examples("train")
        assert len(examples) == 20
        expected = {"source": "train house 7", "target": "train Haus 7"}
        assert examples[7] == expected | {"source_language": "en", "target_language": "de"}
        assert len(task.examples("dev")) == 3
        assert task.examples("newstest")[-1]["target"] == "test Haus 3"


def test_grammar_examples_have_target_nll():
    examples = load_task("grammar_translation").examples("dev")
    example = examples[0]
    assert (example["source_language"], example["target_language"]) == ("A", "B")
    assert example["target_nll"] > 0
    assert examples[0] == example


@pytest.mark.parametrize(("nll", "known"), [("2.5", {"target_nll": 2.5}), ("null", {}), ('"n/a"', None)])
def test_target_nll_in_a_file_is_a_number_or_missing(news, tmp_path, nll, known):
    (tmp_path / "dev.jsonl").write_text(f'{{"en": "x", "de": "y", "target_nll": {nll}}}\n')
    dev = load_task(news).examples("dev")
    if known is None:
        with pytest.raises(
            DataError, match=r"dev\.jsonl, line 1: field 'target_nll' must be a finite number, not 'n/a'"
        ):
            dev[0]
    else:
        assert {name: value for name, value in dev[0].items() if name == "target_nll"} == known


def test_changes_are_merged():
    task = load_task(
        {
            "name": "grammar_translation",
            "max_source_tokens": 99,
            "template": {"input": "{source} ="},
            "sources": {"grammar": {"seed": 5}, "size": 40},
        }
    )
    assert task.max_source_tokens == 99
    assert task.template.render(task.examples("test")[0])[0].endswith(" =")
    sources = [part.source for parts in task.splits().values() for part in parts]
    assert all(isinstance(source, GrammarSource) for source in sources)
    assert {(source.grammar.seed, source.size) for source in sources} == {(5, 40)}
    assert len(task.examples("train")) == 40
    assert load_task("grammar_translation").max_source_tokens == 256


def test_replaced_splits_and_folders():
    part = load_task("wmt14_en_de").test["newstest2020"][0]
    changed = load_task({"name": "wmt14_en_de", "train": [part], "sources": {"data_dir": "gs://bucket/wmt"}})
    assert changed.train[0].source == FilesSource(part.source.path, columns=("en", "de"), data_dir="gs://bucket/wmt")
    assert str(changed.train[0].source) == "gs://bucket/wmt/newstest/wmt20.en-de.tsv"
    assert changed.dev[0].source.data_dir == "gs://bucket/wmt"


def test_an_empty_group_of_test_sets_removes_those_of_the_named_task():
    assert load_task({"name": "wmt14_en_de"}).test
    assert load_task({"name": "wmt14_en_de", "test": {}}).test == {}
    assert load_task({"name": "wmt14_en_de", "test": None}).test == load_task("wmt14_en_de").test


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "wmt14_en_ge"}, "task.name = 'wmt14_en_ge' is unknown; did you mean 'wmt14_en_de'"),
        ({"max_sorce_tokens": 3}, "max_sorce_tokens is not a field of .*did you mean 'max_source_tokens'"),
        ({"max_source_tokens": "many"}, "max_source_tokens = 'many' has the wrong type"),
        ({"max_source_tokens": 0}, "max_source_tokens = 0 must be at least 1"),
        ({"kind": "translating"}, "kind = 'translating' is unknown; did you mean 'translation'"),
        ({"train": {"source": "x"}}, "train must be a list of parts"),
        ({"train": [{"source_field": "en"}]}, r"train\[0\]\.source is missing"),
        ({"sources": {"data_dri": "x"}}, "sources.data_dri is not a field of any source"),
        ({"template": {"input": "{sauce}"}}, r"template\.input: unknown placeholder \{sauce\}"),
    ],
)
def test_config_errors_name_the_field(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_task({"name": "wmt14_en_de", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ("en", "qaa")}, r"task news: train\[0\]\.target_language = 'qaa' has no known English name"),
        ({"languages": ("en", "German")}, r"train\[0\]\.target_language = 'German' is not a language code"),
        ({"languages": ("de", "de")}, r"task news: train\[0\] translates 'de'"),
        ({"kind": "summarization"}, r"a summary is in the language of its document, not en-de"),
        ({"fields": ("en", "en")}, "source_field and target_field are both 'en'"),
        ({"test": {"dev": "x.jsonl"}}, "test set must not be named 'dev'"),
    ],
)
def test_language_and_field_errors_are_raised_on_loading(changes, message):
    defaults = {"name": "news", "kind": "translation", "languages": ("en", "de"), "fields": ("en", "de")}
    with pytest.raises(ConfigError, match=message):
        load_task(jsonl_task(**{**defaults, "train": "a.jsonl", "dev": "b.jsonl", **changes}))


def test_split_and_column_errors_are_raised_on_opening(news, tmp_path):
    with pytest.raises(DataError, match="task news has no split 'tset'; it has train, dev, newstest"):
        load_task(news).examples("tset")
    news["train"][0]["target_field"] = "ger"
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: no field 'ger'; choose one of en, de"):
        load_task(news).examples("train")
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(DataError, match=r"train\.jsonl cannot be read .*No such file"):
        load_task(news).examples("train")


def test_prepare_reports_every_source(news):
    assert sorted(report["examples"] for report in prepare_task(load_task(news))) == [3, 4, 20]


def test_real_text(shared_data):
    summaries = jsonl_task(
        "synopses", "summarization", ("de", "de"), ("document", "summary"), dev="sum_ddtp/de.valid.jsonl.xz"
    )
    task = load_task({**summaries, "sources": {"data_dir": str(shared_data)}})
    examples = task.examples("dev")
    assert len(examples) == 702
    assert task.max_source_tokens == 512
    text, target = task.template.render(examples[0])
    assert " in German:\n" in text
    assert target == examples[0]["target"]
