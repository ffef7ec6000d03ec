"""Processes find each other, or say who is missing or different; and notice when one is gone.

Threads and small programs stand in for them: nothing of it touches JAX.
"""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from finetune_scaling.errors import ConfigError, ProcessError
from finetune_scaling.sharding import roll_call
from finetune_scaling.sharding.roll_call import Lifeline, gather

SECONDS = 3.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def call(*reports: tuple[int, int, dict[str, Any]], timeout: float = SECONDS) -> list[Lifeline | str]:
    """What happens to each of some processes that report (number, of how many, facts)."""
    address = f"127.0.0.1:{free_port()}"

    def one(report: tuple[int, int, dict[str, Any]]) -> Lifeline | str:
        number, count, facts = report
        try:
            return gather(address, number, count, facts, timeout)
        except ProcessError as error:
            return str(error)

    with ThreadPoolExecutor(len(reports)) as pool:
        return list(pool.map(one, reports))


def test_processes_that_agree_go_on_and_part_as_friends():
    ends = call(*[(number, 3, {"config": "a"}) for number in range(3)])
    assert all(isinstance(end, Lifeline) for end in ends)
    for end in ends:
        end.close()


def test_those_that_are_missing_are_named_on_all_that_are_there():
    began = time.monotonic()
    texts = call((0, 4, {}), (2, 4, {}))
    assert time.monotonic() - began < SECONDS + 3
    assert all("process 1, 3 of 4 did not report within 3 s" in text for text in texts)


def test_without_process_0_the_others_say_where_they_looked():
    (text,) = call((1, 2, {}))
    assert "process 0 did not answer at 127.0.0.1:" in text
    assert "within 3 s" in text


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((1, 2, {"config": "b"}), "differs from process 0"),
        ((1, 3, {"config": "a"}), "was told of 3 processes, process 0 of 2"),
        ((0, 2, {"config": "a"}), "cannot be used"),
        ((5, 2, {"config": "a"}), "it is not one of 2"),
    ],
)
def test_processes_that_contradict_each_other_end_with_the_reason(other, expected):
    texts = call((0, 2, {"config": "a"}), other, timeout=1.5)
    assert any(expected in text for text in texts if isinstance(text, str)), texts
    assert not any(isinstance(text, Lifeline) for text in texts)


def test_a_stranger_at_the_port_is_not_counted():
    port = free_port()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(gather, f"127.0.0.1:{port}", 0, 2, {}, SECONDS)
        time.sleep(0.3)
        socket.create_connection(("127.0.0.1", port)).close()
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
        second = pool.submit(gather, f"127.0.0.1:{port}", 1, 2, {}, SECONDS)
        for lifeline in (first.result(), second.result()):
            lifeline.close()


def test_one_that_connects_and_says_nothing_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(roll_call, "_REPORT_SECONDS", 0.5)
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(gather, f"127.0.0.1:{port}", 0, 2, {}, 1.5)
        time.sleep(0.3)
        with (
            socket.create_connection(("127.0.0.1", port)),
            pytest.raises(ProcessError, match="process 1 of 2 did not report"),
        ):
            first.result(timeout=10)


@pytest.mark.parametrize("address", ["nowhere", "host:", ":80", "host:x", "host:99999"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        gather(address, 0, 2, {}, 1.0)


PROGRAM = """
import sys, time
from finetune_scaling.sharding.roll_call import gather
line = gather(sys.argv[1], int(sys.argv[2]), 3, {}, 20)
print("there", flush=True)
command = sys.stdin.readline().strip()
if command == "fail":
    line.fail("process %s failed: no such file" % sys.argv[2])
    time.sleep(1)
    sys.exit(2)
if command == "done":
    line.close()
    sys.exit(0)
time.sleep(60)
"""


@pytest.fixture
def three():
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "there\n"
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen, what: str) -> None:
    process.stdin.write(what + "\n")
    process.stdin.flush()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others_with_its_name(three, victim):
    three[victim].kill()
    began = time.monotonic()
    for number, process in enumerate(three):
        if number != victim:
            assert process.wait(timeout=10) == 1
            assert f"error: process {victim} on {socket.gethostname()} is gone" in process.stderr.read()
    assert time.monotonic() - began < 10


def test_a_process_that_fails_tells_the_others_why(three):
    tell(three[2], "fail")
    for process in three[:2]:
        assert process.wait(timeout=10) == 1
        assert "process 2 failed: no such file" in process.stderr.read()
    assert three[2].wait(timeout=10) == 2


def test_processes_that_end_as_they_should_end_nobody(three):
    tell(three[0], "done")
    tell(three[1], "done")
    time.sleep(1)
    assert three[2].poll() is None
    tell(three[2], "done")
    assert [process.wait(timeout=10) for process in three] == [0, 0, 0]
