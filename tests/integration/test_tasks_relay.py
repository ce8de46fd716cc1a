"""The relay over a real ledger and a real broker, with a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.clock import ManualClock
from tests.support.valkey import ValkeyProcess, running_valkey

from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.carrier import BUSY_SECONDS, LOST_SECONDS, STALE_SECONDS, Carrier
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.messages import Doorbell
from sparkle.tasks.publisher import Publisher
from sparkle.tasks.record import Failure, NewTask
from sparkle.tasks.relay import Relay
from sparkle.tasks.states import TaskState

Q = "sparkle.default.sync"
DAY = 86_400


@pytest.fixture
def broker() -> Iterator[ValkeyProcess]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    with Ledger.open(tmp_path, clock=clock) as opened:
        yield opened


@pytest.fixture
def publisher(broker: ValkeyProcess, tmp_path: Path) -> Iterator[Publisher]:
    made = Publisher(broker_target(broker.url, tmp_path))
    yield made
    made.close()


@pytest.fixture
def carrier(ledger: Ledger, publisher: Publisher, clock: ManualClock) -> Carrier:
    return Carrier(
        ledger, publisher, queues=[Q], window=100, poll_seconds=0.5, clock=clock, rng=random.Random(1)
    )


def add(ledger: Ledger, count: int) -> list[str]:
    return [task.id for task in ledger.add([NewTask(name="n", queue=Q) for _ in range(count)])]


def states(ledger: Ledger) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in ledger.counts():
        found[count.state.value] = found.get(count.state.value, 0) + count.tasks
    return found


def test_what_is_due_is_rung_for_and_what_is_not_waits(
    ledger: Ledger, carrier: Carrier, publisher: Publisher, clock: ManualClock
) -> None:
    add(ledger, 3)
    ledger.add([NewTask(name="n", queue=Q, due_at=ledger.now() + 10_000_000)])
    assert carrier.step() == BUSY_SECONDS
    assert (states(ledger), publisher.waiting(Q)) == ({"queued": 3, "waiting": 1}, 3)
    assert carrier.step() == 0.5  # nothing more is due: the bell or the poll
    clock.advance(10)
    carrier.step()
    assert states(ledger) == {"queued": 4}


def test_only_a_window_of_tasks_lies_in_the_broker_and_the_urgent_overtake_the_rest(
    ledger: Ledger, carrier: Carrier
) -> None:
    add(ledger, 500)
    carrier.step()
    in_broker = states(ledger)["queued"]
    assert in_broker <= 100
    assert carrier.step() == BUSY_SECONDS  # the window is full: look again soon
    assert states(ledger)["queued"] == in_broker
    (urgent,) = ledger.add([NewTask(name="n", queue=Q, priority=6)])
    first = next(task.id for task in ledger.find(limit=1000).records if task.state is TaskState.QUEUED)
    assert ledger.claim([first], "w", 60)
    carrier.step()
    assert ledger.get(urgent.id).state is TaskState.QUEUED


def test_a_broker_that_is_away_changes_nothing_in_the_ledger(
    ledger: Ledger, carrier: Carrier, broker: ValkeyProcess, clock: ManualClock
) -> None:
    carrier.step()
    broker.stop()
    ids = add(ledger, 5)
    pauses = [carrier.step() for _ in range(6)]
    assert all(0 < pause <= 2 for pause in pauses)
    assert not carrier.broker_answers
    assert [ledger.get(id).state for id in ids] == [TaskState.WAITING] * 5
    assert [ledger.get(id).attempt for id in ids] == [0] * 5
    broker.start()
    clock.advance(1)
    carrier.step()
    assert carrier.broker_answers
    assert states(ledger) == {"queued": 5}


def test_a_frozen_broker_is_given_up_within_seconds(
    ledger: Ledger, carrier: Carrier, broker: ValkeyProcess
) -> None:
    carrier.step()
    add(ledger, 2)
    broker.freeze()
    try:
        carrier.step()
        assert not carrier.broker_answers
        assert states(ledger) == {"waiting": 2}
    finally:
        broker.thaw()


def test_a_restarted_broker_is_rung_again_at_once(
    ledger: Ledger, carrier: Carrier, publisher: Publisher, broker: ValkeyProcess, clock: ManualClock
) -> None:
    add(ledger, 5)
    carrier.step()
    broker.stop()
    broker.start()  # it keeps nothing
    clock.advance(1.1)  # less than what a lost message takes
    carrier.step()
    carrier.step()
    assert states(ledger) == {"queued": 5}
    assert publisher.waiting(Q) == 5
    assert carrier.done.rung_again == 5


def test_a_task_whose_message_is_lost_is_rung_again_when_its_queue_is_empty(
    ledger: Ledger, carrier: Carrier, publisher: Publisher, clock: ManualClock
) -> None:
    add(ledger, 3)
    ledger.hand_over({Q: 3})  # and then the relay died, before it could ring
    carrier.step()
    assert publisher.waiting(Q) == 0
    clock.advance(LOST_SECONDS + 0.1)
    carrier.step()
    carrier.step()
    assert (publisher.waiting(Q), carrier.done.rung_again) == (3, 3)


def test_a_single_lost_message_among_others_is_rung_again_after_a_minute(
    ledger: Ledger, carrier: Carrier, publisher: Publisher, clock: ManualClock
) -> None:
    add(ledger, 3)
    ledger.hand_over({Q: 3})
    list(publisher.publish([Doorbell(Q, ("somebody-else",))]))
    clock.advance(LOST_SECONDS + 1)
    carrier.step()
    assert carrier.done.rung_again == 0
    clock.advance(STALE_SECONDS)
    carrier.step()
    assert carrier.done.rung_again == 3


class Silence:
    """A bell that nobody rings."""

    def wait(self, seconds: float) -> bool:
        return False


def make_relay(
    ledger: Ledger, carrier: Carrier, clock: ManualClock, owner: str, shown: list[bytes] | None = None
) -> Relay:
    return Relay(
        ledger,
        carrier,
        TasksSettings(),
        owner=owner,
        bell=Silence(),
        clock=clock,
        rng=random.Random(1),
        report=None if shown is None else shown.append,
    )


def test_one_relay_is_active_and_the_other_takes_over_when_it_falls_silent(
    ledger: Ledger, carrier: Carrier, clock: ManualClock
) -> None:
    first, second = (make_relay(ledger, carrier, clock, owner) for owner in ("r1", "r2"))
    for relay in (first, second):
        relay.keep()
    assert (first.active, second.active) == (True, False)
    clock.advance(4)
    for relay in (first, second):
        relay.keep()
    assert (first.active, second.active) == (True, False)
    clock.advance(6.1)
    second.keep()
    assert second.active
    first.keep()
    assert not first.active


def test_the_active_relay_ends_leases_purges_and_shows_figures(
    ledger: Ledger, carrier: Carrier, clock: ManualClock
) -> None:
    done, dead, lost = add(ledger, 3)
    ledger.hand_over({Q: 3})
    finished, failed, _ = ledger.claim([done, dead, lost], "w", 5)
    ledger.complete(finished, None)
    ledger.fail(failed, Failure("E", "m"), None)
    shown: list[bytes] = []
    relay = make_relay(ledger, carrier, clock, "r1", shown)
    relay.keep()
    assert states(ledger) == {"succeeded": 1, "failed": 1, "running": 1}
    assert b"sparkle_task_dead_letters" in shown[0]
    clock.advance(5.1)
    relay.keep()
    assert (ledger.get(lost).state, ledger.get(lost).crashes) == (TaskState.WAITING, 1)
    clock.advance(7 * DAY)
    relay.keep()
    assert states(ledger) == {"failed": 1, "waiting": 1}
    clock.advance(23 * DAY)
    relay.keep()
    assert states(ledger) == {"waiting": 1}
    assert b"sparkle_task_leases_expired_total 1" in shown[-1]
