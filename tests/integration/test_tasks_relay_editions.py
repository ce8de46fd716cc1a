"""The relay while workers know different tasks: a real ledger, a real broker, a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.clock import ManualClock
from tests.support.valkey import running_valkey

from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.carrier import LOST_SECONDS, Carrier
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.publisher import Publisher
from sparkle.tasks.record import NewTask
from sparkle.tasks.routing import announcement, edition_of, own_queue
from sparkle.tasks.states import TaskState

Q = "sparkle.default.sync"
OLD, NEW = ("known",), ("known", "new")
OWN = own_queue(Q, edition_of(NEW, (Q,)))
LEASE = 6.0


class House:
    """A ledger, a carrier, a broker, and workers that only announce themselves."""

    def __init__(self, ledger: Ledger, publisher: Publisher, clock: ManualClock) -> None:
        self.ledger, self.publisher, self.clock = ledger, publisher, clock
        self.carrier = self.another_carrier()

    def another_carrier(self) -> Carrier:
        return Carrier(
            *(self.ledger, self.publisher),
            queues=[Q],
            window=100,
            poll_seconds=0.5,
            clock=self.clock,
            rng=random.Random(1),
        )

    def announce(self, names: tuple[str, ...], lease: float = LEASE) -> None:
        info = announcement(names, (Q,), edition_of(names, (Q,)))
        self.ledger.announce(f"worker {names}", "worker", lease, info=info)

    def add(self, name: str, count: int = 1) -> list[str]:
        return [task.id for task in self.ledger.add([NewTask(name=name, queue=Q) for _ in range(count)])]

    def steps(self, seconds: float = 0.6) -> None:
        self.clock.advance(seconds)
        self.carrier.step()
        self.carrier.step()

    def rung(self) -> tuple[int, int]:
        """Messages in the shared queue and in the newer edition's own."""
        return self.publisher.waiting(Q), self.publisher.waiting(OWN)

    def state(self, id: str) -> TaskState:
        return self.ledger.get(id).state


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    clock = ManualClock()
    with running_valkey() as server, Ledger.open(tmp_path, clock=clock) as ledger:
        publisher = Publisher(broker_target(server.url, tmp_path))
        yield House(ledger, publisher, clock)
        publisher.close()


def test_a_task_that_only_the_newer_worker_knows_is_rung_for_where_only_that_one_listens(
    house: House,
) -> None:
    house.announce(OLD)
    house.announce(NEW)
    house.steps()
    house.add("known", 2)
    house.add("new", 3)
    house.steps()
    assert house.rung() == (2, 3)


def test_what_nobody_knows_stays_in_the_ledger_until_somebody_announces_it(house: House) -> None:
    house.announce(OLD)
    house.steps()
    (unknown,) = house.add("new")
    (known,) = house.add("known")
    due = house.ledger.get(unknown).due_at
    for _ in range(3):
        house.steps(0.5)
    assert (house.state(unknown), house.state(known)) == (TaskState.WAITING, TaskState.QUEUED)
    assert house.rung() == (1, 0)
    house.announce(NEW)
    house.steps(0.5)
    assert (house.state(unknown), house.ledger.get(unknown).due_at) == (TaskState.QUEUED, due)
    assert house.rung()[1] == 1


def test_what_waits_for_a_newer_worker_takes_no_room_from_the_others(house: House) -> None:
    house.announce(OLD)
    house.steps()
    house.add("new", 300)
    house.add("known", 20)
    for _ in range(8):
        house.steps(0.5)
    assert house.rung() == (20, 0)
    house.announce(OLD)
    house.announce(NEW)
    for _ in range(8):
        house.steps(0.5)
    shared, own = house.rung()
    assert shared == 20
    assert 0 < own <= 100


def test_what_a_dead_edition_was_rung_for_comes_back_and_goes_to_the_next_that_knows_it(house: House) -> None:
    house.announce(NEW)
    house.announce(OLD, lease=60)
    house.steps()
    (id,) = house.add("new")
    house.steps()
    assert house.rung() == (0, 1)
    house.clock.advance(LEASE)
    house.steps()
    assert (house.state(id), house.rung()) == (TaskState.WAITING, (0, 0))
    newest = (*NEW, "newest")
    house.announce(newest)
    house.steps()
    assert house.state(id) is TaskState.QUEUED
    assert house.publisher.waiting(own_queue(Q, edition_of(newest, (Q,)))) == 1


def test_a_new_relay_does_not_rely_on_what_the_one_before_rang_for(house: House) -> None:
    house.announce(NEW)
    house.announce(OLD, lease=60)
    house.steps()
    (id,) = house.add("new")
    house.steps()
    house.clock.advance(LEASE)
    house.carrier = house.another_carrier()  # and the newer worker is gone
    house.steps()
    assert house.state(id) is TaskState.WAITING


def test_a_busy_edition_is_not_rung_for_again_and_a_lost_message_is(house: House) -> None:
    house.announce(OLD, lease=600)
    house.announce(NEW, lease=600)
    house.steps()
    house.add("new", 3)
    house.steps()
    house.steps(LOST_SECONDS + 1)
    assert (house.rung(), house.carrier.done.rung_again) == ((0, 3), 0)
    house.publisher.empty(OWN)
    house.steps(LOST_SECONDS + 1)
    assert (house.rung(), house.carrier.done.rung_again) == ((0, 3), 3)
