"""Samples of several runs: alignment by example, and errors for rows that do not match."""

import json
import re

import pytest

from finetune_scaling.errors import DataError, WorkdirError
from finetune_scaling.evaluation.sample_page.samples import align, distinct_names, read_runs


def rows(count=4, decoded=3, **changes):
    found = []
    for index in range(count):
        row = {"index": index, "loss_sum": 3.0 * index, "tokens": 3, "source": f"s{index}", "reference": f"r{index}"}
        found.append({**row, **({"hypothesis": f"h{index}"} if index < decoded else {}), **changes})
    return found


def read(directories, split="test", limit=None):
    return align(read_runs(directories, None, split, limit))


def test_examples_that_any_run_decoded_are_aligned(tmp_path, write_run):
    runs = [write_run(tmp_path / "a", rows(decoded=3)), write_run(tmp_path / "b", rows(decoded=1))]
    examples = read(runs)
    assert [example.hypotheses for example in examples] == [("h0", "h0"), ("h1", None), ("h2", None)]
    assert [example.losses for example in examples] == [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    assert {example.target_language for example in examples} == {"de"}


def test_whether_the_length_limit_cut_a_text_off_is_known_of_new_rows(tmp_path, write_run):
    runs = [write_run(tmp_path / "a", rows(at_limit=True)), write_run(tmp_path / "b", rows())]
    assert {example.at_limit for example in read(runs)} == {(True, None)}


def test_a_limit_allows_runs_of_different_length(tmp_path, write_run):
    runs = [write_run(tmp_path / "a", rows(count=4)), write_run(tmp_path / "b", rows(count=6))]
    with pytest.raises(DataError, match=r"b.*: 6 rows, but .*a.* has 4"):
        read(runs)
    assert len(read(runs, limit=4)) == 3


def test_unicode_line_separators_in_a_text_do_not_end_a_row(tmp_path, write_run):
    run = write_run(tmp_path / "a", rows(source="one\u2028two\u2029three\x85\x0b four"))
    assert read([run])[0].source == "one\u2028two\u2029three\x85\x0b four"


def test_the_language_comes_from_the_row_or_the_task(tmp_path, write_run):
    assert read([write_run(tmp_path / "base", rows(), task=None)])[0].target_language is None
    assert read([write_run(tmp_path / "own", rows(target_language="fr"))])[0].target_language == "fr"
    reversed_run = write_run(tmp_path / "reversed", rows(), split="zero_shot.test")
    assert read([reversed_run], split="zero_shot.test")[0].target_language is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (rows(reference="another"), "b/evaluation/test.jsonl, line 1: reference 'another' differs from 'r0' in "),
        (rows()[::-1], "line 1: source 's3' differs from 's0' in "),
        (rows(decoded=0, hypothesis=7), "line 1: hypothesis is 7"),
        (rows(tokens="many"), "line 1: tokens is 'many'"),
        ([{"index": 0, "loss_sum": 1.0, "tokens": 2}], "line 1: the field 'source' is missing"),
        ([["index"]], "line 1: expected a JSON object"),
    ],
)
def test_rows_that_do_not_match_are_errors(tmp_path, write_run, other, message):
    runs = [write_run(tmp_path / "a", rows()), write_run(tmp_path / "b", other)]
    with pytest.raises(DataError, match=re.escape(message)):
        read(runs)


def test_missing_or_damaged_rows_are_errors(tmp_path, write_run):
    run = write_run(tmp_path / "a", rows(decoded=0))
    with pytest.raises(DataError, match="no row has a hypothesis"):
        read([run])
    write_run(tmp_path / "a", rows(), split="flores")
    with pytest.raises(DataError, match=r"tests\.jsonl: cannot be read .*available splits: flores, test"):
        read([run], split="tests")
    (tmp_path / "a" / "evaluation" / "test.jsonl").write_text(json.dumps(rows()[0]) + '\n{"index": 1, "sou')
    with pytest.raises(DataError, match=r"line 2: invalid JSON"):
        read([run])
    with pytest.raises(WorkdirError, match="not the directory of a run"):
        read([str(tmp_path)])


@pytest.mark.parametrize(
    ("directories", "names"),
    [
        (["runs/x/full/1k_s0"], ["1k_s0"]),
        (["runs/x/full/1k_s0", "runs/x/lora/1k_s0"], ["full/1k_s0", "lora/1k_s0"]),
        (["runs/a", "runs/b/"], ["a", "b"]),
        (["runs", "runs/b"], ["runs", "runs/b"]),
    ],
)
def test_names_are_the_parts_of_paths_that_differ(directories, names):
    assert distinct_names(directories) == names
