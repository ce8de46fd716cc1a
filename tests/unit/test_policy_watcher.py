"""A running server takes a good policy at once and a broken one never."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.support.clock import ManualClock

from sparkle.errors import PolicyError
from sparkle.llm.policy import Policy
from sparkle.llm.policy_source import PolicySnapshot, PolicyWatcher, ReloadResult

WATCH = "name: watchful\ninput: {rules: {xss: watch}}\n"
BLOCK = "name: strict\ninput: {rules: {xss: block}}\n"


class Seen:
    """What the owner was told."""

    def __init__(self) -> None:
        self.told: list[tuple[ReloadResult, str]] = []

    def __call__(self, result: ReloadResult, snapshot: PolicySnapshot[str]) -> None:
        self.told.append((result, snapshot.value))


def write(file: Path, text: str) -> None:
    file.write_text(text)


def built(policy: Policy) -> str:
    return f"guards of {policy.name}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(WATCH)
    return path


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def clock(file: Path) -> ManualClock:
    return ManualClock(file.stat().st_mtime)


@pytest.fixture
def watcher(file: Path, clock: ManualClock, seen: Seen) -> PolicyWatcher[str]:
    return PolicyWatcher(file, built, clock=clock, on_reload=seen)


async def test_a_change_is_built_and_swapped(watcher: PolicyWatcher[str], file: Path, seen: Seen) -> None:
    before = watcher.current
    write(file, BLOCK)
    assert await watcher.check() == "loaded"
    assert watcher.current.value == "guards of strict"
    assert watcher.current.hash != before.hash
    assert before.value == "guards of watchful"  # a call that began under it keeps it
    assert seen.told == [("loaded", "guards of strict")]


async def test_an_untouched_file_is_not_built_again(watcher: PolicyWatcher[str], clock: ManualClock) -> None:
    before = watcher.current
    for _ in range(3):
        clock.advance(10)
        assert await watcher.check() == "unchanged"
    assert watcher.current is before


async def test_a_broken_file_changes_nothing_and_is_told_once(
    watcher: PolicyWatcher[str], file: Path, clock: ManualClock, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    before = watcher.current
    write(file, "input: {rules: {xss: blok}}")
    assert await watcher.check() == "failed"
    clock.advance(10)
    assert await watcher.check() == "unchanged"
    assert watcher.current is before
    status = watcher.status()
    assert status.name == "watchful"
    assert status.error is not None
    assert "input.rules.xss" in status.error
    assert seen.told == [("failed", "guards of watchful")]
    assert sum("stays in force" in message for message in caplog.messages) == 1


async def test_a_mended_file_is_taken(watcher: PolicyWatcher[str], file: Path) -> None:
    write(file, "broken: [")
    await watcher.check()
    write(file, WATCH)
    assert await watcher.check() == "loaded"
    assert watcher.status().error is None


async def test_a_removed_file_changes_nothing_until_it_is_back(
    watcher: PolicyWatcher[str], file: Path, seen: Seen
) -> None:
    os.unlink(file)
    assert await watcher.check() == "failed"
    assert await watcher.check() == "unchanged"
    assert watcher.current.value == "guards of watchful"
    write(file, WATCH)
    assert await watcher.check() == "loaded"
    assert watcher.error is None
    assert [result for result, _ in seen.told] == ["failed", "loaded"]


async def test_a_change_within_the_file_clocks_grain_is_seen(
    watcher: PolicyWatcher[str], file: Path, clock: ManualClock
) -> None:
    stat = os.stat(file)
    same_size = WATCH.replace("watchful", "watchtwo")
    assert len(same_size) == len(WATCH)
    with file.open("r+") as opened:  # same inode, same size, same time: only the text differs
        opened.write(same_size)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert await watcher.check() == "loaded"
    assert watcher.current.policy.name == "watchtwo"


async def test_a_swapped_link_is_seen(tmp_path: Path, clock: ManualClock) -> None:
    one, two, link = tmp_path / "1", tmp_path / "2", tmp_path / "link.yaml"
    one.write_text(WATCH)
    two.write_text(BLOCK)
    link.symlink_to(one)
    watcher = PolicyWatcher(link, built, clock=clock)
    fresh = tmp_path / "fresh"
    fresh.symlink_to(two)
    fresh.replace(link)
    assert await watcher.check() == "loaded"


async def test_guards_that_refuse_the_policy_keep_the_old_one(file: Path, clock: ManualClock) -> None:
    def picky(policy: Policy) -> str:
        if policy.name == "strict":
            raise PolicyError('unknown rule "xss.z"')
        return policy.name

    watcher = PolicyWatcher(file, picky, clock=clock)
    write(file, BLOCK)
    assert await watcher.check() == "failed"
    assert watcher.current.value == "watchful"
    assert watcher.error is not None
    assert "unknown rule" in watcher.error


async def test_a_crash_while_building_keeps_the_old_one(file: Path, clock: ManualClock) -> None:
    def crash(policy: Policy) -> str:
        if policy.name == "strict":
            raise RuntimeError("text that must not be told")
        return policy.name

    watcher = PolicyWatcher(file, crash, clock=clock)
    write(file, BLOCK)
    assert await watcher.check() == "failed"
    assert watcher.error is not None
    assert "RuntimeError" in watcher.error
    assert "must not be told" not in watcher.error


def test_a_server_does_not_start_with_a_broken_policy(file: Path, clock: ManualClock) -> None:
    write(file, "nonsense: 1")
    with pytest.raises(PolicyError):
        PolicyWatcher(file, built, clock=clock)


async def test_the_shipped_policy_is_not_watched(clock: ManualClock) -> None:
    watcher = PolicyWatcher(None, built, clock=clock)
    assert watcher.source == "default policy"
    assert await watcher.check() == "unchanged"
    await watcher.run()  # returns at once: there is nothing to watch


async def test_the_loop_notices_a_change_at_its_next_turn(file: Path, clock: ManualClock) -> None:
    loaded = asyncio.Event()
    watcher = PolicyWatcher(file, built, clock=clock, on_reload=lambda result, snapshot: loaded.set())
    task = asyncio.create_task(watcher.run())
    write(file, BLOCK)
    await clock.somebody_sleeps()
    clock.advance(1.0)
    await loaded.wait()
    assert watcher.current.policy.name == "strict"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
