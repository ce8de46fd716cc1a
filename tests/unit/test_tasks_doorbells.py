"""What rides in one message, how much lies in the broker, and what an address means."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle.errors import ConfigurationError
from sparkle.tasks.broker import broker_socket
from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.messages import MAX_ASYNC_IDS, MAX_IDS, MAX_MILLISECONDS, Doorbell, pack
from sparkle.tasks.record import Handed
from sparkle.tasks.window import Window

handed = st.builds(
    Handed,
    id=st.uuids().map(str),
    name=st.just("n"),
    queue=st.sampled_from(["q.sync", "q.async", "other"]),
    priority=st.integers(0, 9),
    fence=st.just(0),
    expected_ms=st.none() | st.floats(0, 200),
)


@given(st.lists(handed, max_size=200, unique_by=lambda task: task.id))
def test_every_task_is_rung_for_once_in_its_own_queue_and_in_order(tasks: list[Handed]) -> None:
    bells = list(pack(tasks))
    for queue in {task.queue for task in tasks}:
        rung = list(chain.from_iterable(bell.ids for bell in bells if bell.queue == queue))
        expected = [task.id for task in tasks if task.queue == queue]
        assert sorted(rung) == sorted(expected)
        if not queue.endswith(".async"):
            assert rung == expected


@given(st.lists(handed, max_size=200, unique_by=lambda task: task.id))
def test_what_is_slow_or_unknown_rides_alone_and_the_rest_within_bounds(tasks: list[Handed]) -> None:
    by_id = {task.id: task for task in tasks}
    for bell in pack(tasks):
        expected = [by_id[id].expected_ms for id in bell.ids]
        if len(expected) > 1:
            assert None not in expected
            if bell.queue.endswith(".async"):
                assert len(expected) <= MAX_ASYNC_IDS
            else:
                assert len(expected) <= MAX_IDS
                assert sum(value or 0.0 for value in expected) <= MAX_MILLISECONDS + 1e-6


def test_a_message_holds_ids_and_nothing_else() -> None:
    bell = Doorbell("sparkle.default.sync", ("a", "b"))
    args, kwargs, embed = msgspec.json.decode(bell.body())
    assert (args, kwargs) == ([["a", "b"]], {})
    assert set(embed.values()) == {None}
    properties = bell.properties()
    assert properties["headers"]["task"] == "sparkle.run"
    assert properties["headers"]["id"] == properties["correlation_id"]
    assert properties["delivery_mode"] == 2


def test_the_window_grows_while_workers_empty_it_and_shrinks_while_they_do_not() -> None:
    window = Window(512)
    first = window.size
    for step in range(10):
        window.observe(0, True, step * 0.02)
    assert window.size == 512 > first
    for step in range(10):
        window.observe(500, True, 10 + step)
    assert window.size < 64
    for step in range(100):
        window.observe(500, True, 100 + step)
    assert window.size == 16


def test_a_window_never_exceeds_its_setting() -> None:
    window = Window(3)
    assert window.size == 3
    for step in range(10):
        window.observe(0, True, float(step))
    assert window.size == 3
    for step in range(30):
        window.observe(3, True, float(step))
    assert window.size == 3


@pytest.mark.parametrize(
    ("url", "kombu", "kind"),
    [
        ("redis://h:1/2", "redis://h:1/2", "redis"),
        ("valkey://u:p@h/0", "redis://u:p@h/0", "redis"),
        ("valkeys://h/0", "rediss://h/0", "redis"),
        ("unix:///run/v k.sock", "redis+socket:///run/v%20k.sock", "redis"),
        ("amqp://u:p@h//", "amqp://u:p@h//", "amqp"),
        ("amqps://h//", "amqps://h//", "amqp"),
    ],
)
def test_addresses_of_brokers(tmp_path: Path, url: str, kombu: str, kind: str) -> None:
    target = broker_target(url, tmp_path)
    assert (target.url, target.kind, target.embedded) == (kombu, kind, False)
    assert ":p@" not in target.shown


@pytest.mark.parametrize("url", ["sqs://", "nonsense", "memory://", "filesystem://"])
def test_an_address_no_broker_has_is_refused_with_what_would_do(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://"):
        broker_target(url, tmp_path)


def test_without_an_address_the_embedded_broker_is_meant(tmp_path: Path) -> None:
    target = broker_target("", tmp_path)
    assert target.embedded
    assert target.url == f"redis+socket://{tmp_path}/broker/broker.sock"


def test_a_deep_folder_has_its_socket_where_the_path_is_short(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-name"] * 10)
    path = broker_socket(deep)
    assert len(str(path)) <= 100
    assert path == broker_socket(deep)
    assert path != broker_socket(deep / "other")
