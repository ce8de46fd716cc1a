"""The same promises on brokers that Sparkle does not start: RabbitMQ and an external Redis."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.support import tasks_sample as sample
from tests.support.serve import wait_for_end
from tests.support.tasks_brokers import running_rabbitmq, running_redis
from tests.support.tasks_processes import stack

from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.calls import TaskCall
from sparkle.tasks.messages import Doorbell
from sparkle.tasks.publisher import Publisher

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

Running = Callable[[], AbstractContextManager[str]]
BROKERS: dict[str, Running] = {"rabbitmq": running_rabbitmq, "redis": running_redis}


@pytest.fixture(scope="module", params=list(BROKERS))
def broker_url(request: pytest.FixtureRequest) -> Generator[str]:
    with BROKERS[request.param]() as url:
        yield url


def test_the_relay_counts_what_lies_in_the_broker(broker_url: str, tmp_path: Path) -> None:
    publisher = Publisher(broker_target(broker_url, tmp_path))
    publisher.check()
    assert publisher.waiting("sparkle.test.count") == 0
    bells = [Doorbell("sparkle.test.count", (str(number),)) for number in range(3)]
    assert list(publisher.publish(bells)) == bells
    assert publisher.waiting("sparkle.test.count") == 3
    publisher.close()


def test_a_killed_worker_group_loses_no_task(broker_url: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with stack(tmp_path, SPARKLE_TASKS__BROKER_URL=broker_url) as made:
        made.relay()
        worker = made.worker()
        tasks = made.tasks.schedule(
            [
                TaskCall("t.write" if number % 2 else "t.write_async", (str(notes), str(number), 0.03))
                for number in range(60)
            ]
        )
        made.wait(lambda: len(sample.noted(notes)) >= 15, "some have run")
        family = worker.children()
        os.kill(family[0], signal.SIGKILL)
        worker.kill_group()
        wait_for_end(family)
        made.worker()
        assert made.all_ended(len(tasks)) == {"succeeded": len(tasks)}
        assert {f"end:{number}" for number in range(60)} <= set(sample.noted(notes))
        for process in made.processes:
            assert "guest:guest" not in process.log.read_text()
            assert "p%40ss" not in process.log.read_text()
