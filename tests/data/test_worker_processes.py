"""Worker processes: results in order, errors of the function, and processes that end."""

import operator
import os

import pytest

from finetune_scaling.data import worker_processes
from finetune_scaling.data.worker_processes import map_in_processes
from finetune_scaling.errors import ProcessError


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(worker_processes.os, "sched_getaffinity", lambda _: {0, 1})


def test_results_come_in_order_from_other_processes():
    blocks = [(number,) * (100_000 if number % 2 else 1) for number in range(9)]  # longer and shorter than a pipe
    assert list(map_in_processes(len, iter(blocks), 2)) == list(map(len, blocks))
    assert list(map_in_processes(operator.neg, [], 2)) == []
    pids = set(map_in_processes(eval, ["__import__('os').getpid()"] * 6, 8))
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert set(map_in_processes(eval, ["__import__('os').getpid()"], 1)) == {os.getpid()}


def test_errors_of_the_function_and_of_a_process():
    results = map_in_processes(operator.index, [1, "a", 2], 2)
    assert next(results) == 1
    with pytest.raises(TypeError, match="interpreted as an integer"):
        next(results)
    with pytest.raises(ProcessError, match="ended with status 3"):
        list(map_in_processes(os._exit, [3, 3, 3], 2))
