"""Which queue a doorbell goes to while workers know different tasks."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from sparkle.tasks.record import Owner
from sparkle.tasks.routing import (
    NAMES_ANNOUNCED,
    Fleet,
    announcement,
    edition_of,
    editions_remembered,
    is_own,
    own_queue,
    queues_read,
)

Q = "sparkle.default.sync"
NOW = 1_000_000


def worker(names: Iterable[str], queues: tuple[str, ...] = (Q,), *, alive: bool = True) -> Owner:
    known = list(names)
    info = announcement(known, queues, edition_of(known, queues))
    return Owner(f"w{len(known)}{queues}", "worker", 0, 0, NOW if alive else NOW - 1, info)


def old_sparkle(*names: str) -> Owner:
    return Owner("old", "worker", 0, 0, NOW, {"names": list(names)})


OLD, NEW = worker({"a", "b"}), worker({"a", "b", "c"})


def test_while_all_know_a_task_or_nobody_reads_its_queue_the_shared_queue_will_do() -> None:
    assert Fleet.of([NEW, NEW], NOW).way(Q, "c") == ()
    assert Fleet.of([OLD, NEW], NOW).way(Q, "a") == ()
    assert Fleet().way(Q, "anything") == ()
    assert Fleet.of([OLD], NOW).way("elsewhere", "anything") == ()


def test_a_task_that_only_some_know_goes_to_one_of_them() -> None:
    fleet = Fleet.of([OLD, NEW], NOW)
    assert fleet.way(Q, "c") == (edition_of("abc", (Q,)),)
    assert fleet.divided(Q) == {"c"}
    assert set(fleet.readers_of(Q)) == {edition_of("ab", (Q,)), edition_of("abc", (Q,))}


def test_a_task_that_nobody_knows_waits_for_a_worker_that_does() -> None:
    fleet = Fleet.of([OLD, worker("abc", alive=False)], NOW)
    assert fleet.way(Q, "c") is None
    assert fleet.divided(Q) == frozenset()


def test_a_worker_that_does_not_read_the_queue_has_no_say() -> None:
    fleet = Fleet.of([NEW, worker({"z"}, ("other",))], NOW)
    assert (fleet.way(Q, "c"), fleet.way(Q, "z"), fleet.way("other", "z")) == ((), None, ())


def test_a_worker_that_cannot_say_all_it_knows_may_know_everything() -> None:
    many = worker(f"n{i}" for i in range(NAMES_ANNOUNCED + 1))
    assert Fleet.of([many], NOW).way(Q, "c") == ()
    assert Fleet.of([old_sparkle("a")], NOW).way(Q, "c") == ()
    assert Fleet.of([OLD, many], NOW).way(Q, "c") == (many.info["edition"],)
    # An older Sparkle reads no queue of its own: the shared one is the only way to it.
    assert Fleet.of([OLD, old_sparkle("a")], NOW).way(Q, "c") == ()


def test_workers_that_are_alike_are_one_edition_whatever_the_order() -> None:
    assert edition_of(["a", "b"], ["q", "r"]) == edition_of(["b", "a"], ["r", "q"])
    assert edition_of(["a"], ["q"]) != edition_of(["a"], ["r"]) != edition_of(["a", "q"], [])
    assert Fleet.of([NEW, NEW], NOW) == Fleet.of([NEW], NOW) != Fleet.of([OLD], NOW)
    assert editions_remembered([OLD, NEW, worker("abc", alive=False)]) == 2


def test_each_edition_reads_a_queue_of_its_own_beside_each_shared_one() -> None:
    read = queues_read((Q, "gpu"), "e1")
    assert read == (Q, own_queue(Q, "e1"), "gpu", own_queue("gpu", "e1"))
    assert [is_own(queue) for queue in read] == [False, True, False, True]


names = st.sets(st.sampled_from("abcd"))


@given(st.lists(st.tuples(names, st.booleans()), max_size=5), st.sampled_from("abcde"))
def test_a_doorbell_always_reaches_a_live_worker_that_knows_the_task(
    crew: list[tuple[set[str], bool]], name: str
) -> None:
    workers = [worker(known, alive=alive) for known, alive in crew]
    living = [known for known, alive in crew if alive]
    way = Fleet.of(workers, NOW).way(Q, name)
    if way is None:
        assert living
        assert not any(name in known for known in living)
    elif way == ():
        assert all(name in known for known in living)
    else:
        assert set(way) == {edition_of(known, (Q,)) for known in living if name in known}
