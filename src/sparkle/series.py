"""Counters and histograms that cost a fraction of a microsecond, added up here and handed on in batches.

``prometheus_client`` takes 1 to 2.4 microseconds per increment in multiprocess mode (a lock, a process-id
check and a write to a mapped file) and a call makes about fifteen. Here an increment is an addition to a
Python number; :meth:`Exposition.flush` hands the sums to ``prometheus_client`` ten times a second and
before every scrape.

This is the one file that touches ``prometheus_client`` (private parts of its histogram included: its public
API cannot add many observations at once). It is imported inside the class, because it decides at import,
from ``PROMETHEUS_MULTIPROC_DIR``, whether the values live in mapped files that forked workers share.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar
from weakref import WeakMethod

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Counter:
    """One series that only grows. ``inc`` must be called from one thread at a time."""

    __slots__ = ("_child", "pending")

    def __init__(self, child: Any) -> None:
        self._child = child
        self.pending: float = 0.0
        """What was counted since the last flush."""

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount`` (>= 0)."""
        self.pending += amount

    def flush(self) -> None:
        """Hand the pending sum on."""
        if self.pending:
            amount, self.pending = self.pending, 0.0
            self._child.inc(amount)

    def discard(self) -> None:
        """Forget the pending sum: after a fork it is the parent's."""
        self.pending = 0.0


class Histogram:
    """One distribution. ``observe`` must be called from one thread at a time."""

    __slots__ = ("_bounds", "_child", "_counts", "_sum", "_touched")

    def __init__(self, child: Any, bounds: Sequence[float]) -> None:
        self._child = child
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._touched = False

    def observe(self, value: float) -> None:
        """Count one observation, in the metric's base unit."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value
        self._touched = True

    def flush(self) -> None:
        """Hand the pending observations on."""
        if not self._touched:
            return
        self._touched = False
        total, self._sum = self._sum, 0.0
        self._child._sum.inc(total)
        for index, count in enumerate(self._counts):
            if count:
                self._counts[index] = 0
                self._child._buckets[index].inc(count)

    def discard(self) -> None:
        """Forget what is pending: after a fork it is the parent's."""
        self._counts = [0] * len(self._counts)
        self._sum = 0.0
        self._touched = False


class Gauge:
    """One value that goes up and down; set directly, it is rare."""

    __slots__ = ("_child", "_shown", "value")

    def __init__(self, child: Any) -> None:
        self._child = child
        self._shown: float | None = None
        self.value: float = 0.0
        """The value that the next flush shows."""

    def flush(self) -> None:
        """Show the value."""
        if self.value != self._shown:
            self._shown = self.value
            self._child.set(self.value)

    def discard(self) -> None:
        """Show the value again: a forked process has its own file."""
        self._shown = None


class _Flushable(Protocol):
    def flush(self) -> None: ...

    def discard(self) -> None: ...


S = TypeVar("S", bound=_Flushable)


class Family(Generic[S]):
    """All series of one metric, by their label values; a child is made once and then found in a dict."""

    __slots__ = ("_children", "_make", "limit")

    def __init__(self, make: Callable[[tuple[str, ...]], S], limit: int) -> None:
        self._make = make
        self._children: dict[tuple[str, ...], S] = {}
        self.limit = limit
        """Most series this metric may have; beyond it new label values share one series, ``other``."""

    def __call__(self, *values: str) -> S:
        """The series with these label values, in the order in which the metric was declared."""
        child = self._children.get(values)
        if child is None:
            if len(self._children) >= self.limit and values:
                values = ("other",) * len(values)
            child = self._children.get(values) or self._children.setdefault(values, self._make(values))
        return child

    def flush(self) -> None:
        """Hand on what every series has pending."""
        for child in tuple(self._children.values()):
            child.flush()

    def discard(self) -> None:
        """Forget what every series has pending."""
        for child in tuple(self._children.values()):
            child.discard()


class Exposition:
    """A set of metrics and their text form, alone or added up over forked workers."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Declare nothing yet; ``registry`` replaces the private one, for an application's own /metrics."""
        import prometheus_client

        self._client = prometheus_client
        self._registry = registry or _private_registry()
        self._folder = os.environ.get(MULTIPROC_VARIABLE)
        self._families: list[Family[Any]] = []
        self._before: list[WeakMethod[Callable[[], None]]] = []
        self._pid = os.getpid()

    def before_flush(self, refresh: Callable[[], None]) -> None:
        """Call ``refresh``, a bound method, before every flush, for values that are only looked up when somebody asks.

        Its object is not kept alive by this.
        """
        self._before.append(WeakMethod(refresh))

    def counter(
        self, name: str, doc: str, labels: Sequence[str] = (), *, limit: int = 1_000
    ) -> Family[Counter]:
        """Declare a counter; ``name`` ends in ``_total``."""
        parent = self._client.Counter(name, doc, labels, registry=self._registry)
        return self._keep(lambda values: Counter(_child(parent, values)), limit)

    def histogram(
        self, name: str, doc: str, bounds: Sequence[float], labels: Sequence[str] = (), *, limit: int = 200
    ) -> Family[Histogram]:
        """Declare a histogram with these upper bounds, ascending, without the last infinite one."""
        parent = self._client.Histogram(name, doc, labels, registry=self._registry, buckets=bounds)
        return self._keep(lambda values: Histogram(_child(parent, values), bounds), limit)

    def gauge(
        self,
        name: str,
        doc: str,
        labels: Sequence[str] = (),
        *,
        over_workers: Literal["livesum", "livemax"],
        limit: int = 200,
    ) -> Family[Gauge]:
        """Declare a gauge; ``over_workers`` says what the live workers' values make together."""
        parent = self._client.Gauge(
            name, doc, labels, registry=self._registry, multiprocess_mode=over_workers
        )
        return self._keep(lambda values: Gauge(_child(parent, values)), limit)

    def flush(self) -> None:
        """Hand on all pending values. What a parent counted before a fork is the parent's to hand on."""
        for reference in tuple(self._before):
            if (refresh := reference()) is not None:
                refresh()
            else:
                self._before.remove(reference)
        if self._pid != os.getpid():
            self._pid = os.getpid()
            for family in self._families:
                family.discard()
        for family in self._families:
            family.flush()

    def render(self) -> tuple[bytes, str]:
        """The text format of all metrics, the sum over all workers where they share, and its content type."""
        self.flush()
        registry = self._registry
        if self._folder:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = self._client.CollectorRegistry()
            MultiProcessCollector(registry, path=self._folder)  # pyright: ignore[reportUnknownMemberType]  untyped
        return self._client.generate_latest(registry), self._client.CONTENT_TYPE_PLAIN_0_0_4

    def _keep(self, make: Callable[[tuple[str, ...]], S], limit: int) -> Family[S]:
        family = Family(make, limit)
        self._families.append(family)
        return family


def _child(parent: Any, values: tuple[str, ...]) -> Any:
    return parent.labels(*values) if values else parent


def _private_registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    class WithoutCreated(CollectorRegistry):
        """Leaves out the ``_created`` samples, which double the scrape and which nobody's alerts read."""

        def collect(self) -> Iterable[Metric]:
            for metric in super().collect():
                metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
                yield metric

    return WithoutCreated()
