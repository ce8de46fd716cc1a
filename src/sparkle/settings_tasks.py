"""Settings of background tasks: ``SPARKLE_TASKS__*``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from sparkle.settings_base import Count, Seconds, Section, doc


class ShortTasksSettings(Section, frozen=True):
    """Short tasks, in the process that starts them (``TaskManager``)."""

    concurrency: Annotated[int, doc("Short tasks that run at once.", ge=1)] = 256
    per_user: Annotated[Count, doc("Short tasks of one user that run at once; 0: no limit.")] = 32
    queue: Annotated[
        Count,
        doc("Short tasks that may wait for a slot or a retry; one more is refused (TaskQueueFullError)."),
    ] = 10_000
    queue_per_user: Annotated[Count, doc("Of these, tasks of one user; 0: no limit.")] = 1_000
    timeout_seconds: Annotated[Seconds, doc("Time limit of an attempt of a task that names none.")] = 60.0
    drain_seconds: Annotated[
        float, doc("At the end, how long short tasks may take to finish before they are cancelled.", ge=0)
    ] = 20.0
    cancel_seconds: Annotated[
        float, doc("How long a cancelled short task may take to clean up before it is given up.", ge=0)
    ] = 5.0
    history_bytes: Annotated[Count, doc("Memory for the latest finished short tasks.")] = 2_097_152
    write_seconds: Annotated[Seconds, doc("How often their records are written to the ledger.")] = 0.5
    unwritten: Annotated[
        int, doc("Finished short tasks whose records may wait for a ledger that does not answer.", ge=1)
    ] = 20_000


Priority = Annotated[int, Meta(ge=0, le=9)]


class ScheduleSettings(Section, frozen=True):
    """A task that the beat schedules again and again."""

    task: Annotated[str, doc("Name of the long task.")]
    cron: Annotated[str, doc('Five fields such as "0 3 * * *", or @daily. Give cron or every.')] = ""
    every: Annotated[float, doc("Seconds between two runs, at least 1.", ge=0)] = 0.0
    timezone: Annotated[str, doc("IANA zone of cron.")] = "UTC"
    missed: Annotated[
        Literal["latest", "skip"], doc("After an outage of the beat: fire the last missed tick, or none.")
    ] = "latest"
    args: Annotated[tuple[Any, ...], doc("Positional arguments.")] = ()
    kwargs: Annotated[dict[str, Any], doc("Named arguments.")] = field(default_factory=dict[str, Any])
    queue: Annotated[str, doc("Queue; empty: the task's own.")] = ""
    priority: Annotated[Priority | None, doc("0 to 9; unset: the task's own.")] = None


class TasksSettings(Section, frozen=True):
    """Background tasks: ledger, broker, workers."""

    database_url: Annotated[
        str,
        doc("postgresql:// or sqlite:/// of the ledger; empty: SQLite in the data folder (tasks.db)."),
    ] = ""
    sqlite_synchronous: Annotated[
        Literal["normal", "full"],
        doc("normal: a killed process loses nothing, a power cut the last moments; full: neither, slower."),
    ] = "normal"
    broker_url: Annotated[
        str,
        doc("redis://, valkey:// or amqp:// of the broker; empty: an embedded Valkey in the data folder."),
    ] = ""
    modules: Annotated[
        tuple[str, ...], doc('Python modules that register tasks with @long_task, e.g. ["shop.tasks"].')
    ] = ()
    queues: Annotated[
        tuple[str, ...], doc("Further queues that tasks may name; served after Sparkle's own.")
    ] = ()
    max_attempts: Annotated[int, doc("Attempts of a task that names no number of its own.", ge=1)] = 5
    max_crashes: Annotated[
        int, doc("A task during which its worker died this often goes to the dead letter.", ge=1)
    ] = 3
    max_args_bytes: Annotated[int, doc("Largest arguments of one task, as JSON.", ge=1024)] = 262_144
    max_result_bytes: Annotated[int, doc("Largest result of one task, as JSON.", ge=1024)] = 262_144
    worker_concurrency: Annotated[int, doc("Worker processes; 0: one for each core.", ge=0)] = 0
    async_in_flight: Annotated[int, doc("Async tasks that one worker process runs at a time.", ge=1)] = 100
    lease_seconds: Annotated[
        Seconds, doc("A dead worker's tasks are handed out again after this many seconds without heartbeat.")
    ] = 6.0
    heartbeat_seconds: Annotated[Seconds, doc("Seconds between two heartbeats of a worker.")] = 2.0
    poll_seconds: Annotated[
        Seconds, doc("How often the relay looks for due tasks when nothing rings its bell.")
    ] = 0.5
    window: Annotated[
        int, doc("Messages that may lie in the broker per queue; the rest waits in the ledger.", ge=1)
    ] = 512
    soft_timeout_seconds: Annotated[
        Seconds, doc("Time limit of a task that names none: TaskTimeoutError is raised in it.")
    ] = 300.0
    hard_timeout_seconds: Annotated[
        Seconds, doc("How long after its time limit a task that does not end has its worker process killed.")
    ] = 30.0
    shutdown_seconds: Annotated[
        Seconds, doc("On SIGTERM, how long running tasks may take to end before they are handed back.")
    ] = 20.0
    keep_succeeded_days: Annotated[Count, doc("Days to keep succeeded tasks; 0 keeps them.")] = 7
    keep_failed_days: Annotated[
        Count, doc("Days to keep failed, cancelled and interrupted tasks; 0 keeps them.")
    ] = 30
    schedules: Annotated[
        dict[str, ScheduleSettings], doc("What the beat schedules, by name: task, cron or every, arguments.")
    ] = field(default_factory=dict[str, ScheduleSettings])
    short: ShortTasksSettings = ShortTasksSettings()
