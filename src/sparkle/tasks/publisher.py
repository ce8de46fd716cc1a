"""The relay's line to the broker: short timeouts, one connection, every failure one typed error."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sparkle.errors import BrokerUnavailableError, MissingExtraError
from sparkle.tasks.broker_url import CONNECT_SECONDS, BrokerTarget
from sparkle.tasks.messages import Doorbell
from sparkle.tasks.routing import OWN_QUEUE_SECONDS, is_own

_ANSWER_SECONDS = 2.0
"""Longest wait for an answer to one command; nothing the relay asks takes a healthy broker this long."""


class Publisher:
    """Publishes doorbell messages. For one thread; connects at first use and again after a failure.

    Every method blocks for a few seconds at most (the socket timeouts of the target), also when the broker is frozen.
    """

    def __init__(self, target: BrokerTarget) -> None:
        self._target = target
        self._connection: Any = None
        self._channel: Any = None
        self._producer: Any = None
        self._declared: set[str] = set()

    def publish(self, doorbells: Iterable[Doorbell]) -> Iterator[Doorbell]:
        """Publish one after another; yields each that the broker took.

        Raises:
            BrokerUnavailableError: The broker does not take the next one. It may have it nevertheless.
        """
        for doorbell in doorbells:
            with self._line():
                self._declare(doorbell.queue)
                self._producer.publish(
                    doorbell.body(), exchange="", serializer=None, retry=False, **doorbell.properties()
                )
            yield doorbell

    def waiting(self, queue: str) -> int:
        """Messages that no worker has taken yet.

        Raises:
            BrokerUnavailableError: The broker does not answer.
        """
        with self._line():
            if self._target.kind == "redis":
                return int(self._channel.client.llen(queue))  # kombu takes an empty list for a missing queue
            self._declare(queue)
            return int(self._channel.queue_declare(queue=queue, passive=True).message_count)

    def empty(self, queue: str) -> None:
        """Drop the messages of a queue that nobody reads any more.

        Raises:
            BrokerUnavailableError: The broker does not answer.
        """
        with self._line():
            self._declare(queue)
            self._channel.queue_purge(queue)

    def incarnation(self) -> str | None:
        """What tells one life of a Redis-like broker from the next, or ``None`` for other kinds.

        Raises:
            BrokerUnavailableError: The broker does not answer.
        """
        if self._target.kind != "redis":
            return None
        with self._line():
            return str(self._channel.client.info("server")["run_id"])

    def check(self) -> None:
        """Raise BrokerUnavailableError if the broker does not answer."""
        if self._target.kind == "redis":
            self.incarnation()
            return
        with self._line():
            self._connection.heartbeat_check()

    def close(self) -> None:
        """Hang up; the next use connects again."""
        connection, self._connection, self._channel, self._producer = self._connection, None, None, None
        self._declared.clear()
        if connection is not None:
            try:
                connection.collect(socket_timeout=1)
            except Exception:  # noqa: BLE001  a broken line may fail to close in any way; it is given up regardless
                return

    @contextmanager
    def _line(self) -> Generator[None]:
        try:
            if self._connection is None:
                self._connect()
            yield
        except BrokerUnavailableError:
            raise
        except self._errors() as exc:
            self.close()
            raise BrokerUnavailableError(
                f"the broker at {self._target.shown} does not answer ({type(exc).__name__}); the tasks stay in the "
                "ledger"
            ) from None  # the cause's text may hold the address with its password
        except BaseException:
            self.close()  # in whatever state the line is, the next use begins with a new one
            raise

    def _connect(self) -> None:
        try:
            from kombu.connection import Connection
            from kombu.messaging import Producer
        except ImportError:
            raise MissingExtraError("tasks", "the relay") from None
        target = self._target
        options = {**target.options, "socket_timeout": _ANSWER_SECONDS}
        if target.kind == "amqp":
            options["confirm_publish"] = True  # only a confirmed message is on the broker's disk
        connection: Any = Connection(
            target.url,
            connect_timeout=CONNECT_SECONDS,
            transport_options=options,
        )
        self._connection = connection
        connection.connect()  # one attempt: when to try again is the relay's decision
        self._channel = connection.channel()
        self._producer = Producer(self._channel, auto_declare=False)

    def _declare(self, queue: str) -> None:
        if queue not in self._declared:
            # The same words as the worker's, or RabbitMQ refuses the later of the two.
            arguments = {"x-expires": OWN_QUEUE_SECONDS * 1000} if is_own(queue) else None
            self._channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=arguments)
            self._declared.add(queue)

    def _errors(self) -> tuple[type[BaseException], ...]:
        known: tuple[type[BaseException], ...] = (OSError,)
        if self._connection is not None:
            from kombu.exceptions import KombuError

            known += (KombuError, *self._connection.connection_errors, *self._connection.channel_errors)
        return known
