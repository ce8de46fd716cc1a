"""The waiting room: limits hold, nobody waits beside a free slot, and the order is that of priority and age."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sparkle.tasks.waiting import PRIORITIES, WaitingRoom

USERS = st.sampled_from([None, "ann", "bob", "eve"])


@dataclass(eq=False)
class Somebody:
    user_id: str | None
    priority: int
    number: int


class Waiting(RuleBasedStateMachine):
    """Compares the room with a list that is searched from one end to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.room: WaitingRoom[Somebody] = WaitingRoom(3, 2)
        self.running: list[Somebody] = []
        self.waiting: list[Somebody] = []
        self.numbers = 0

    @rule(user=USERS, priority=st.integers(0, PRIORITIES - 1))
    def arrive(self, user: str | None, priority: int) -> None:
        self.numbers += 1
        somebody = Somebody(user, priority, self.numbers)
        if self.room.enter(user):
            self.running.append(somebody)
        else:
            self.room.wait(somebody)
            self.waiting.append(somebody)

    @precondition(lambda self: bool(self.waiting))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        somebody = data.draw(st.sampled_from(self.waiting), label="who")
        self.room.give_up(somebody)
        self.waiting.remove(somebody)

    @precondition(lambda self: bool(self.running))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        somebody = data.draw(st.sampled_from(self.running), label="who")
        self.running.remove(somebody)
        self.room.exit(somebody.user_id)
        while (following := self.room.next()) is not None:
            assert following is self._expected()
            self.waiting.remove(following)
            self.running.append(following)

    def _expected(self) -> Somebody | None:
        if len(self.running) >= 3:
            return None
        may = [one for one in self.waiting if one.user_id is None or self._running_of(one.user_id) < 2]
        return min(may, key=lambda one: (-one.priority, one.number), default=None)

    def _running_of(self, user: str) -> int:
        return sum(one.user_id == user for one in self.running)

    @invariant()
    def limits_hold_and_no_slot_stays_free_for_nothing(self) -> None:
        assert self.room.running == len(self.running) <= 3
        assert self.room.waiting == len(self.waiting)
        assert all(self._running_of(user) <= 2 for user in ("ann", "bob", "eve"))
        assert self._expected() is None
        assert self.room.next() is None

    @invariant()
    def the_oldest_is_among_those_it_names(self) -> None:
        oldest = min(self.waiting, key=lambda one: one.number, default=None)
        assert oldest is None or oldest in self.room.oldest()


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_arrivals_that_give_up_leave_nothing_behind() -> None:
    room: WaitingRoom[Somebody] = WaitingRoom(1, 0)
    assert room.enter(None)
    for number in range(10_000):
        somebody = Somebody(f"user {number}", number % PRIORITIES, number)
        room.wait(somebody)
        room.give_up(somebody)
    assert room.waiting == 0
    assert room.remembered < 200
