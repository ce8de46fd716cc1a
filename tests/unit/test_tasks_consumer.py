"""The worker's consumer: an answer of the broker that is an error is a lost line, whatever it answers to."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.message import Message
from redis.exceptions import ResponseError

from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.celery_app import make_celery
from sparkle.tasks.worker.consumer import PatientConsumer


class _FullDisk:
    """A channel of a Redis that cannot write."""

    no_ack_consumers = None

    def basic_ack(self, tag: str, *, multiple: bool) -> None:
        raise ResponseError("MISCONF Errors writing to the AOF file: No space left on device")


def test_an_acknowledgement_that_the_broker_refuses_reaches_the_consumer_as_a_lost_line(
    tmp_path: Path,
) -> None:
    app: Any = make_celery(broker_target("redis://127.0.0.1:1/0", tmp_path), ("default",))
    worker = SimpleNamespace(use_eventloop=True)
    consumer: Any = PatientConsumer(print, app=app, hostname="here", controller=worker)
    message: Any = Message(channel=_FullDisk(), delivery_tag="1")
    # Logged only, it would stay in the prefetch window for ever.
    with pytest.raises(ResponseError):
        message.ack_log_error(logging.getLogger(__name__), consumer.connection_errors)
    assert issubclass(ResponseError, consumer.channel_errors)
    assert app.conf.broker_channel_error_retry
