"""The tasks' database: does it answer, are its tables current, does its clock agree, who works on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparkle.doctor.findings import Finding, failed, megabytes, note, ok, warning
from sparkle.errors import MissingExtraError
from sparkle.errors_tasks import LedgerUnavailableError
from sparkle.masking import mask_urls
from sparkle.settings import Settings
from sparkle.tasks.record import Count, Owner
from sparkle.tasks.states import TaskMode, TaskState

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from sparkle.tasks.ledger import Ledger

_SKEW_SECONDS = 1.0
_OLD_SECONDS = 60.0
_PROCESSES = {
    "relay": ("carries tasks to the broker", "sparkle relay"),
    "worker": ("runs long tasks", "sparkle worker"),
    "beat": ("schedules recurring tasks", "sparkle beat"),
}
_ALL = "or `sparkle serve --with-worker` for all of them"


def database(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, at which revision it is, and what its clock says."""
    from sparkle.tasks.maintenance import ledger_engine, ledger_exists

    url = settings.tasks.database_url
    check = "database"
    try:
        if not ledger_exists(settings):
            yield note(check, "no ledger yet; the first task makes it")
            return
        with ledger_engine(settings) as engine:
            yield from _look(engine, settings)
    except MissingExtraError as exc:
        yield note(check, exc.message)
    except LedgerUnavailableError as exc:
        yield failed(
            check,
            exc.message,
            f"check that {mask_urls(url) if url else settings.data_dir} can be reached and opened by this user",
        )


def _look(engine: Engine, settings: Settings) -> Iterator[Finding]:
    from sparkle.tasks.ledger.migrate import HEAD, current_revision

    revision = current_revision(engine)
    where = engine.url.render_as_string(hide_password=True)
    yield _revision(revision, HEAD, upgrades_itself=engine.dialect.name == "sqlite")
    if engine.dialect.name == "sqlite":
        with engine.execution_options(sparkle_read=True).connect() as connection:
            mode = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
        if mode != "wal":
            yield warning(
                "database",
                f"{where} is not in write-ahead mode but {mode!r}: writers and readers block each other",
                "keep the data folder on a local disk; network file systems cannot do it",
            )
        else:
            yield ok("database", f"{where} answers")
        return
    yield ok("database", f"{where} answers")
    yield from _clock(engine, settings)


def _revision(revision: str | None, head: str, *, upgrades_itself: bool) -> Finding:
    check = "migrations"
    if revision == head:
        return ok(check, f"the ledger's tables are current (revision {head})")
    message = f"the ledger's tables are at revision {revision or 'none'}, this Sparkle has {head}"
    if revision is not None and revision > head:
        return failed(check, f"{message}: a newer one made them", "upgrade sparkle-llm")
    if upgrades_itself:
        return note(check, f"{message}; the next start upgrades them")
    return failed(check, message, "sparkle tasks migrate")


def _clock(engine: Engine, settings: Settings) -> Iterator[Finding]:
    with engine.execution_options(sparkle_read=True).connect() as connection:
        statement = "SELECT extract(epoch FROM clock_timestamp())"
        connection.exec_driver_sql(statement)
        before = time.time()
        theirs = float(connection.exec_driver_sql(statement).scalar_one())
        after = time.time()
    # Half the way there, half the way back: what is left over cannot be the network's doing.
    skew = max(theirs - after, before - theirs, 0.0)
    message = f"this machine's clock and the database's are {skew:.2f} s apart"
    if skew > settings.tasks.lease_seconds / 2:
        yield failed(
            "clock",
            f"{message}; leases end at the wrong time",
            "start NTP (chrony, systemd-timesyncd) on both",
        )
    elif skew > _SKEW_SECONDS:
        yield warning("clock", message, "start NTP (chrony, systemd-timesyncd) on both")
    else:
        yield ok("clock", message)


def processes(settings: Settings) -> Iterator[Finding]:
    """Relay, worker and beat, by what they wrote into the ledger; and what waits for them."""
    from sparkle.tasks.maintenance import is_ready
    from sparkle.tasks.processes import open_ledger

    if not is_ready(settings):
        return  # said by `database`
    with open_ledger(settings) as ledger:
        now = ledger.now()
        # Short tasks are their own process's affair: no worker is missing for their sake.
        counts = [count for count in ledger.counts(finished=False) if count.mode is TaskMode.LONG]
        unfinished = sum(count.tasks for count in counts)
        owners = ledger.owners()
        for kind in _PROCESSES:
            yield from _process(
                kind, owners, now, unfinished=unfinished, schedules=len(settings.tasks.schedules)
            )
        yield from _names(counts, owners, now)
        yield from _backlog(ledger, now, unfinished)


def _process(
    kind: str, owners: list[Owner], now: int, *, unfinished: int, schedules: int
) -> Iterator[Finding]:
    does, command = _PROCESSES[kind]
    alive = [owner for owner in owners if owner.kind == kind and owner.alive_until >= now]
    dead = [owner for owner in owners if owner.kind == kind and owner.alive_until < now]
    if alive:
        seen = max(0.0, (now - max(owner.seen_at for owner in alive)) / 1e6)
        yield ok(kind, f"{len(alive)} alive, last heard of {seen:.1f} s ago{_killed(dead, now)}")
    elif kind == "beat" and not schedules:
        yield note(kind, "none runs, and no schedule is set")
    elif unfinished or (kind == "beat" and schedules):
        when = _killed(dead, now) or "; those that ran here, if any, have stopped in order"
        waits = f"{schedules} schedules wait" if kind == "beat" else f"{unfinished} unfinished tasks wait"
        yield failed(kind, f"none is alive that {does}, and {waits}{when}", f"{command}, {_ALL}")
    else:
        yield note(kind, f"none runs ({does})", f"{command}, {_ALL}")


def _killed(dead: list[Owner], now: int) -> str:
    """What is known of processes that ended without a word; one that stops in order leaves no trace."""
    if not dead:
        return ""
    last = (now - max(owner.seen_at for owner in dead)) / 1e6
    return f"; {len(dead)} were killed or cut off within a day, the last heard of {last:.0f} s ago"


def _names(counts: list[Count], owners: list[Owner], now: int) -> Iterator[Finding]:
    """Tasks that no live worker knows: they wait for one that does."""
    from sparkle.tasks.routing import Fleet

    fleet = Fleet.of((owner for owner in owners if owner.kind == "worker"), now)
    unknown = sorted({count.name for count in counts if fleet.way(count.queue, count.name) is None})
    if unknown:
        yield warning(
            "task names",
            f"no live worker knows the tasks named {', '.join(unknown[:5])}{' ...' if unknown[5:] else ''}; they wait",
            "start workers of the version that has them, with their module in SPARKLE_TASKS__MODULES",
        )


def _backlog(ledger: Ledger, now: int, unfinished: int) -> Iterator[Finding]:
    from sparkle.tasks.record import TaskFilter

    oldest = max(ledger.oldest_waiting_age(now).values(), default=0.0)
    if oldest > _OLD_SECONDS:
        yield warning(
            "backlog",
            f"{unfinished} tasks are unfinished; one has been due for {oldest:.0f} s",
            "start more workers, or look at `sparkle tasks watch`",
        )
    else:
        yield ok("backlog", f"{unfinished} tasks are unfinished; nobody has waited for long")
    dead = ledger.find(TaskFilter(states=frozenset({TaskState.FAILED})), limit=1).records
    if dead:
        yield note(
            "dead letter",
            f"the latest is {dead[0].name} ({dead[0].error_type})",
            "sparkle tasks list --state failed; sparkle tasks replay ID",
        )
    size = ledger.size()
    free = f", of which {megabytes(size.free_bytes)} are free" if size.free_bytes else ""
    yield ok("ledger size", f"{size.tasks:,} tasks, {megabytes(size.bytes)}{free}")
