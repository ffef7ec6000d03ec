"""Batches on devices: each is transferred before the one in front of it is used."""

import itertools

import pytest

from finetune_scaling.sharding.batches import transfer_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_batch_is_transferred_once_and_one_step_ahead(count):
    events = []

    def transfer(number):
        events.append(f"transfer {number}")
        return number

    for number in transfer_ahead(range(count), transfer):
        events.append(f"step {number}")
    assert [event for event in events if event.startswith("step")] == [f"step {number}" for number in range(count)]
    for number in range(count - 1):
        assert events.index(f"transfer {number + 1}") < events.index(f"step {number}")
        assert f"transfer {number + 2}" not in events[: events.index(f"step {number}")]
    assert len(events) == 2 * count


def test_no_more_than_one_batch_is_read_ahead():
    endless = itertools.count()
    assert [*itertools.islice(transfer_ahead(endless, str), 3)] == ["0", "1", "2"]
    assert next(endless) == 4
