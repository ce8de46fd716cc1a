"""Celery's consumer with other habits: whatever the broker does, it is back within two seconds and says so once."""

# Celery has no type stubs; this file is the one place where its consumer is subclassed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

log = logging.getLogger("sparkle.tasks.worker")

_FIRST_SECONDS = 0.2
_STEP_SECONDS = 0.3
_MOST_SECONDS = 2.0


class PatientConsumer(Consumer):  # pyright: ignore[reportGeneralTypeIssues]
    """Celery waits up to 30 s between two attempts to reach the broker; so long tasks would wait after its restart."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again until it works or the worker is told to stop."""
        said = False

        def failed(exc: BaseException, interval: float) -> None:
            nonlocal said
            if not said:
                log.warning("the broker at %s does not answer (%s)", conn.as_uri(), type(exc).__name__)
                said = True

        connected = conn.ensure_connection(
            failed,
            None,
            interval_start=_FIRST_SECONDS,
            interval_step=_STEP_SECONDS,
            interval_max=_MOST_SECONDS,
            callback=maybe_shutdown,
        )
        if said:
            log.warning("the broker answers")
        self.first_connection_attempt = False
        self.broker_connection_retry_attempt = 0
        return connected

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Give the broken line up; the next one is opened whatever closing this one raises."""
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as closing:  # noqa: BLE001  kombu may raise anything here
            # Its Redis channel asks for a client that is gone already (AttributeError): the worker would end by it.
            # The messages it wanted to put back are rung for again.
            log.warning("closing the broken line to the broker failed (%s)", type(closing).__name__)
            self.connection = None
