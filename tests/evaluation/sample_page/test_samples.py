"""Rows of several runs: put side by side where they are of the same examples, refused with the reason where not."""

import json
import re

import pytest

from finetune_scaling.errors import DataError, WorkdirError
from finetune_scaling.evaluation.sample_page.samples import distinct_names, joined, read_runs


def rows(count=4, decoded=3, **changes):
    found = []
    for index in range(count):
        row = {"index": index, "loss_sum": 3.0 * index, "tokens": 3, "source": f"s{index}", "reference": f"r{index}"}
        found.append({**row, **({"hypothesis": f"h{index}"} if index < decoded else {}), **changes})
    return found


def read(directories, split="test", most=None):
    return joined(read_runs(directories, None, split, most))


def test_examples_that_any_run_decoded_stand_side_by_side(tmp_path, write_run):
    runs = [write_run(tmp_path / "a", rows(decoded=3)), write_run(tmp_path / "b", rows(decoded=1))]
    examples = read(runs)
    assert [example.hypotheses for example in examples] == [("h0", "h0"), ("h1", None), ("h2", None)]
    assert [example.losses for example in examples] == [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    assert {example.target_language for example in examples} == {"de"}


def test_the_first_examples_of_runs_of_unequal_length(tmp_path, write_run):
    runs = [write_run(tmp_path / "a", rows(count=4)), write_run(tmp_path / "b", rows(count=6))]
    with pytest.raises(DataError, match=r"b.*has 6 rows, .*a.* has 4; .*--examples=4"):
        read(runs)
    assert len(read(runs, most=4)) == 3


def test_a_separator_of_lines_inside_a_text_ends_no_row(tmp_path, write_run):
    run = write_run(tmp_path / "a", rows(source="one\u2028two\u2029three\x85\x0b four"))
    assert read([run])[0].source == "one\u2028two\u2029three\x85\x0b four"


def test_a_base_has_no_task_and_a_row_may_tell_its_language(tmp_path, write_run):
    assert read([write_run(tmp_path / "base", rows(), task=None)])[0].target_language is None
    assert read([write_run(tmp_path / "own", rows(target_language="fr"))])[0].target_language == "fr"
    reversed_run = write_run(tmp_path / "reversed", rows(), split="zero_shot.test")
    assert read([reversed_run], split="zero_shot.test")[0].target_language is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (rows(reference="another"), "b/evaluation/test.jsonl row 1: reference 'another' is 'r0' in "),
        (rows()[::-1], "row 1: index 3 is 0 in "),
        (rows(decoded=0, hypothesis=7), "line 1: hypothesis is 7, which it cannot be"),
        (rows(tokens="many"), "line 1: tokens is 'many'"),
        ([{"index": 0, "loss_sum": 1.0, "tokens": 2}], "line 1: has no 'source': rows of running text"),
        ([["index"]], "line 1: not a row of an evaluation"),
    ],
)
def test_what_cannot_stand_beside_it_is_named(tmp_path, write_run, other, message):
    runs = [write_run(tmp_path / "a", rows()), write_run(tmp_path / "b", other)]
    with pytest.raises(DataError, match=re.escape(message)):
        read(runs)


def test_other_bad_input_is_named(tmp_path, write_run):
    run = write_run(tmp_path / "a", rows(decoded=0))
    with pytest.raises(DataError, match="none of its 4 examples was decoded"):
        read([run])
    write_run(tmp_path / "a", rows(), split="flores")
    with pytest.raises(DataError, match=r"no rows of 'tests'; --split may be flores, test"):
        read([run], split="tests")
    (tmp_path / "a" / "evaluation" / "test.jsonl").write_text(json.dumps(rows()[0]) + '\n{"index": 1, "sou')
    with pytest.raises(DataError, match=r"line 2: not valid JSON"):
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
def test_runs_are_called_by_what_their_paths_do_not_share(directories, names):
    assert distinct_names(directories) == names
