"""Runs Sparkle's own tasks as a worker child does: claimed, in its context, completed with its effects."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from tests.support.ledgers import LEASE, QUEUE, WIDE, LedgerHouse

import sparkle.tasks.celery_tasks
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.calls import TaskCall, new_task
from sparkle.tasks.queues import QUEUES
from sparkle.tasks.record import Failure, TaskRecord
from sparkle.tasks.registry import registry
from sparkle.tasks.worker.plain import PlainRunner
from sparkle.tasks.worker.running import Running

assert sparkle.tasks.celery_tasks, "registers the tasks"
SETTINGS = TasksSettings()
WINDOW = {**WIDE, QUEUE: 1_000, **dict.fromkeys(QUEUES, 1_000)}


@dataclass
class Workshop:
    """One worker child over a ledger."""

    house: LedgerHouse
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def schedule(self, name: str, /, *, for_user: str | None = None, **kwargs: Any) -> TaskRecord:
        call = TaskCall(name, kwargs=kwargs, user_id=for_user)
        ledger = self.house.ledger
        return ledger.add([new_task(call, registry.get(name), SETTINGS, ledger.now())])[0]

    def claim(self, record: TaskRecord) -> Running:
        """The task of ``record``, claimed by a new worker."""
        ledger = self.house.ledger
        ledger.hand_over(WINDOW)
        (claim,) = ledger.claim([record.id], f"worker-{self.rng.random()}", LEASE)
        task = registry.get(record.name)
        assert task is not None
        return Running(claim, task, ledger, soft_seconds=60.0, hard_seconds=60.0)

    def work(self, running: Running) -> TaskRecord:
        """Run it once. A failure goes to the dead letter at once."""
        runner = PlainRunner(clock=self.house.clock, max_result_bytes=SETTINGS.max_result_bytes)
        outcome = runner.run(running)
        ledger = self.house.ledger
        if outcome is not None and outcome.error is not None:
            ledger.fail(running.claim, Failure.of(outcome.error), None)
        elif outcome is not None and outcome.reason is None:
            ledger.complete(running.claim, outcome.result)
        return ledger.get(running.claim.id)

    def run(self, name: str, /, *, for_user: str | None = None, **kwargs: Any) -> TaskRecord:
        return self.work(self.claim(self.schedule(name, for_user=for_user, **kwargs)))

    def value(self, name: str, /, *, for_user: str | None = None, **kwargs: Any) -> Any:
        """What the task returned; it must succeed."""
        record = self.run(name, for_user=for_user, **kwargs)
        assert record.state == "succeeded", (record.error_type, record.error_message)
        return record.value

    def rows(self, query: str, **values: Any) -> list[Any]:
        with self.house.ledger.read() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]

    def insert(self, table: Any, *rows: dict[str, Any]) -> None:
        with self.house.ledger.write() as connection:
            connection.execute(table.insert(), list(rows))
