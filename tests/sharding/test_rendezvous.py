"""Processes wait for each other at start-up, or name the one that is missing; here threads act as processes."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_scaling.errors import ProcessError
from finetune_scaling.sharding import rendezvous
from finetune_scaling.sharding.rendezvous import wait_for_processes


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(*processes: tuple[int, int], timeout: float = 1.5) -> list[str]:
    """Return the error of each process (number, number of processes); "" without an error."""
    port = free_port()

    def one(process: tuple[int, int]) -> str:
        try:
            wait_for_processes(("127.0.0.1", port), *process, timeout)
        except ProcessError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(one, processes))


def test_complete_processes_start():
    assert start((0, 3), (1, 3), (2, 3)) == [""] * 3


def test_every_process_names_the_missing_ones_within_the_timeout():
    began = time.monotonic()
    errors = start((0, 4), (2, 4))
    assert time.monotonic() - began < 4
    assert all("process 1, 3 of 4" in error for error in errors), errors


def test_a_missing_process_0_is_named_with_its_address():
    (error,) = start((1, 2))
    assert "process 0 at 127.0.0.1:" in error


@pytest.mark.parametrize("other", [(0, 2), (5, 6)])
def test_a_process_number_that_is_used_twice_or_too_large_is_an_error(other):
    errors = start((0, 2), other)
    assert any(errors), errors


def test_two_processes_of_one_number_are_an_error_everywhere():
    assert all("JAX_PROCESS_ID = 1" in error for error in start((0, 3), (1, 3), (1, 3)))


def test_other_connections_are_ignored(monkeypatch):
    monkeypatch.setattr(rendezvous, "_REPORT_SECONDS", 0.3)
    address = ("127.0.0.1", free_port())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(wait_for_processes, address, 0, 2, 5.0)
        time.sleep(0.3)
        socket.create_connection(address).close()
        with socket.create_connection(address) as browser, socket.create_connection(address):
            browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
            second = pool.submit(wait_for_processes, address, 1, 2, 5.0)
            first.result(), second.result()
