"""The Celery application: queues by priority, early acks, no results, JSON only.

Celery distributes; the ledger decides. So the one Celery task, ``sparkle.run``, is told ids and nothing else, and
whatever Celery may lose or deliver twice is put right by the relay and the claims. Celery's own retries, time limits,
results, revocations and beat are not used: their work is done in the ledger, where it survives a broker.

``celery -A sparkle.tasks.celery_app inspect active`` and Flower work: the attribute ``app`` is made at first access.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkle.errors import MissingExtraError
from sparkle.tasks.broker_url import BrokerTarget
from sparkle.tasks.messages import RUN
from sparkle.tasks.routing import OWN_QUEUE_SECONDS, is_own


def make_celery(target: BrokerTarget, queues: Sequence[str]) -> Any:
    """A Celery application for this broker; connects when it is used.

    Args:
        target: The broker.
        queues: Queues to consume, the first served first (where the broker can).

    Raises:
        MissingExtraError: Celery is not installed.
    """
    try:
        from celery import Celery
        from kombu.entity import Queue
    except ImportError:
        raise MissingExtraError("tasks", "the worker") from None

    app: Any = Celery("sparkle", broker=target.url, set_as_current=False)
    app.conf.update(
        broker_transport_options=dict(target.options),
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker waits for its broker however long it takes
        broker_heartbeat=10,
        # Bodies come from the relay alone, yet whoever reaches the broker must not be able to send code.
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        result_backend=None,
        # The exchange without a name: a message goes to the queue it names, and no binding can be lost.
        task_queues=[
            Queue(
                *(name, ""),
                routing_key=name,
                durable=True,
                expires=OWN_QUEUE_SECONDS if is_own(name) else None,
            )
            for name in queues
        ],
        task_default_queue=queues[0],
        task_default_exchange="",
        task_create_missing_queues=False,
        # Early: an unacknowledged message would be redelivered by the broker's clock, and one that is held for longer
        # than half an hour makes RabbitMQ close the channel.
        task_acks_late=False,
        task_track_started=False,
        task_send_sent_event=False,
        worker_prefetch_multiplier=1,
        # Redis: a message that waits in a busy worker could be with an idle one.
        worker_disable_prefetch=target.kind == "redis",
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_consumer="sparkle.tasks.worker.consumer:PatientConsumer",
        # A broker that answers with an error (its disk is full) is a lost line, also where the answer is to an ack: one
        # that is only logged stays in the prefetch window for good, and the worker takes no more.
        broker_channel_error_retry=True,
        worker_proc_alive_timeout=30.0,
        enable_utc=True,
    )
    return app


def __getattr__(name: str) -> Any:
    # For `celery -A sparkle.tasks.celery_app`: built from the environment when it is asked for, not at import.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparkle.settings import load_settings
    from sparkle.tasks.broker_url import broker_target
    from sparkle.tasks.queues import all_queues

    settings = load_settings()
    target = broker_target(settings.tasks.broker_url, settings.data_dir)
    app = make_celery(target, all_queues(settings.tasks.queues))
    # Known by name, so that Flower can show it; only a worker can run it.
    app.task(name=RUN, ignore_result=True)(_only_in_a_worker)
    return app


def _only_in_a_worker(ids: list[str]) -> None:
    raise RuntimeError(f"{len(ids)} ids: start workers with `sparkle worker`, which opens the ledger")
