"""A process of this machine that is dead for certain holds nobody up until its lease ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import ManualClock
from tests.support.ledgers import short_running

from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.burial import bury_dead, mark
from sparkle.tasks.carrier import Carrier
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.publisher import Publisher
from sparkle.tasks.record import NewTask, TaskRecord
from sparkle.tasks.relay import Relay
from sparkle.tasks.states import TaskState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SCRIPT = """
import json, os, sys
from sparkle.tasks.burial import mark
print(json.dumps({"pid": os.getpid(), **mark()}), flush=True)
sys.stdin.read()
"""
Q = "q"
LEASE = 600.0


class Somebody:
    """A process that says who it is and waits."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.info: dict[str, Any] = json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def somebody() -> Iterator[Somebody]:
    made = Somebody()
    yield made
    made.kill()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path, clock=ManualClock()) as opened:
        yield opened


def running(ledger: Ledger, owner: str) -> TaskRecord:
    (task,) = ledger.add([NewTask(name="n", queue=Q)])
    ledger.hand_over({Q: 1})
    (claim,) = ledger.claim([task.id], owner, LEASE)
    return claim.record


def test_what_a_killed_process_held_is_handed_out_again_at_once(ledger: Ledger, somebody: Somebody) -> None:
    ledger.announce("w", "worker", LEASE, info=somebody.info)
    ledger.announce("m", "manager", LEASE, info=somebody.info)
    task, other = running(ledger, "w"), short_running(ledger, "m")
    assert bury_dead(ledger) == []
    somebody.kill()
    assert sorted(bury_dead(ledger)) == sorted([task.id, other])
    found = ledger.get(task.id)
    assert (found.state, found.attempt, found.crashes) == (TaskState.WAITING, 0, 1)
    assert ledger.get(other).state is TaskState.INTERRUPTED
    # On record as one that did not leave, until it is forgotten.
    assert [owner.id for owner in ledger.owners() if owner.alive_until < ledger.now()] == ["m", "w"]


@pytest.mark.parametrize(
    "unlike", [{"space": "another machine"}, {"space": None}, {"born": None}, {"pid": "none"}]
)
def test_who_cannot_be_known_to_be_dead_keeps_the_lease(
    ledger: Ledger, somebody: Somebody, unlike: dict[str, Any]
) -> None:
    ledger.announce("w", "worker", LEASE, info={**somebody.info, **unlike})
    running(ledger, "w")
    somebody.kill()
    assert bury_dead(ledger) == []


def test_a_number_that_was_given_out_again_is_not_taken_for_the_dead_process(ledger: Ledger) -> None:
    info = {"pid": os.getpid(), **mark()}
    ledger.announce("this one", "worker", LEASE, info=info)
    ledger.announce("one before it", "worker", LEASE, info={**info, "born": info["born"] - 1})
    alive, dead = running(ledger, "this one"), running(ledger, "one before it")
    assert bury_dead(ledger) == [dead.id]
    assert ledger.get(alive.id).state is TaskState.RUNNING


def test_what_a_dead_process_left_is_its_heirs_as_long_as_that_one_lives(
    ledger: Ledger, somebody: Somebody
) -> None:
    mine = mark(heir=os.getpid())
    heir = {"heir": mine["heir"], "heir_born": mine["heir_born"]}
    ledger.announce("w", "worker", LEASE, info={**somebody.info, **heir})
    task = running(ledger, "w")
    somebody.kill()
    assert bury_dead(ledger) == []
    ledger.announce("w", "worker", LEASE, info={**somebody.info, **heir, "heir_born": heir["heir_born"] - 1})
    assert bury_dead(ledger) == [task.id]


def test_a_frozen_process_is_not_dead(ledger: Ledger, somebody: Somebody) -> None:
    ledger.announce("w", "worker", LEASE, info=somebody.info)
    running(ledger, "w")
    somebody.process.send_signal(signal.SIGSTOP)
    assert bury_dead(ledger) == []


class Silence:
    def wait(self, seconds: float) -> bool:
        return False


def test_a_relay_takes_the_place_of_a_killed_one_at_once(
    ledger: Ledger, somebody: Somebody, tmp_path: Path
) -> None:
    ledger.announce("before", "relay", LEASE, info=somebody.info)
    assert ledger.acquire("relay", "before", LEASE)
    clock, rng = ManualClock(), random.Random(1)
    publisher = Publisher(broker_target("", tmp_path))
    carrier = Carrier(ledger, publisher, queues=[Q], window=1, poll_seconds=1.0, clock=clock, rng=rng)
    relay = Relay(
        ledger, carrier, TasksSettings(), owner="now", bell=Silence(), clock=clock, rng=rng, info={}
    )
    relay.keep()
    assert not relay.active
    somebody.kill()
    clock.advance(1.1)
    relay.keep()
    assert relay.active
