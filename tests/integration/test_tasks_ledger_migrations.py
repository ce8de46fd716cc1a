"""The migrations make what the schema says, keep what is there, and know when to refuse."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from tests.support.clock import ManualClock
from tests.support.ledgers import new
from tests.support.postgres import PostgresProcess

import sparkle.tasks.ledger
from sparkle.errors import ConfigurationError
from sparkle.errors_tasks import LedgerSchemaError, LedgerUnavailableError
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.ledger.engine import LEDGER_FILE, ledger_url, make_engine
from sparkle.tasks.ledger.migrate import HEAD, VERSION_TABLE, current_revision, is_current, migrate
from sparkle.tasks.own.schema import metadata

pytest_plugins = ["tests.support.ledger_fixtures"]


def engine_of(target: str | Path) -> Engine:
    return make_engine(ledger_url(target), synchronous="normal", busy_seconds=5.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def two_engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two empty databases of one kind."""
    if request.param == "sqlite":
        engines = [engine_of(f"sqlite:///{tmp_path}/{name}.db") for name in ("a", "b")]
    else:
        server: PostgresProcess = request.getfixturevalue("task_postgres")
        engines = [engine_of(server.database()) for _ in range(2)]
    yield engines[0], engines[1]
    for engine in engines:
        engine.dispose()


def test_the_migrations_make_what_the_schema_says(two_engines: tuple[Engine, Engine]) -> None:
    migrated, made = two_engines
    assert migrate(migrated) == (None, HEAD)
    metadata.create_all(made)
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        found = index_texts(connection)
    with made.connect() as connection:
        # What the comparison above overlooks: the conditions of partial indexes.
        assert found == index_texts(connection)
    assert len(found) >= 11


def test_migrating_again_changes_nothing(two_engines: tuple[Engine, Engine]) -> None:
    engine, _ = two_engines
    assert current_revision(engine) is None
    migrate(engine)
    assert is_current(engine)
    assert migrate(engine) == (HEAD, HEAD)


def test_of_several_processes_one_migrates(two_engines: tuple[Engine, Engine]) -> None:
    engine, _ = two_engines
    together = threading.Barrier(4)

    def start(_: int) -> str:
        together.wait()
        return migrate(engine)[1]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [HEAD] * 4
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sparkle_ledger")).scalar_one() == 1


def test_rows_of_an_old_ledger_survive_every_revision(two_engines: tuple[Engine, Engine]) -> None:
    engine, _ = two_engines
    for revision in revisions():
        migrate(engine, to=revision)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO sparkle_task (id, mode, name, state, args, created_at, due_at) "
                    "VALUES (:id, 'long', 'old', 'waiting', '{\"args\":[],\"kwargs\":{}}', 5, 6)"
                ),
                {"id": revision},
            )
    with Ledger.open(engine.url.render_as_string(hide_password=False), clock=ManualClock()) as ledger:
        assert {record.id for record in ledger.find().records} == set(revisions())
        assert all((record.created_at, record.due_at) == (5, 6) for record in ledger.find().records)


def test_a_ledger_of_a_newer_sparkle_is_refused(two_engines: tuple[Engine, Engine]) -> None:
    engine, _ = two_engines
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(LedgerSchemaError, match="9999, which this Sparkle does not know"):
        migrate(engine)


def test_postgresql_is_not_changed_without_being_asked(task_postgres: PostgresProcess) -> None:
    url = task_postgres.database()
    with pytest.raises(LedgerSchemaError, match="sparkle tasks migrate"):
        Ledger.open(url)
    engine = engine_of(url)
    assert not inspect(engine).get_table_names()
    engine.dispose()


def test_a_table_that_is_gone_is_a_schema_error(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        with ledger.write() as connection:
            connection.execute(text("DROP TABLE sparkle_role"))
        with pytest.raises(LedgerSchemaError):
            ledger.acquire("relay", "a", 1.0)


def test_the_newest_revision_is_the_one_the_code_knows() -> None:
    assert revisions()[-1] == HEAD


def test_an_sqlite_ledger_is_made_private_and_lasting(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with Ledger.open(folder) as ledger:
        ledger.add([new()])
        with ledger.read() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "auto_vacuum", "synchronous")
            }
    assert pragmas == {"journal_mode": "wal", "auto_vacuum": 2, "synchronous": 1}
    assert (folder / LEDGER_FILE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(LedgerUnavailableError, match="data folder"):
        Ledger.open(tmp_path / "data")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / LEDGER_FILE).write_bytes(b"this is no database at all" * 100)
    with pytest.raises(LedgerUnavailableError):
        Ledger.open(tmp_path)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://root@localhost/x", "SQLite or PostgreSQL, not in 'mysql'"),
        ("sqlite://", "needs a file"),
        ("not a url", "not the address of a database"),
    ],
)
def test_another_kind_of_database_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Ledger.open(url)


def test_a_server_that_does_not_answer_is_unavailable_and_its_password_is_not_told() -> None:
    with pytest.raises(LedgerUnavailableError) as caught:
        Ledger.open("postgresql://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)


def revisions() -> list[str]:
    """All revisions, oldest first."""
    config = Config()
    config.set_main_option("script_location", f"{Path(sparkle.tasks.ledger.__file__).parent}/migrations")
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def index_texts(connection: Connection) -> dict[str, str]:
    """Every index of the ledger as the database itself writes it down."""
    if connection.dialect.name == "postgresql":
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename LIKE 'sparkle!_%' ESCAPE '!'"
    else:
        query = (
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL "
            "AND tbl_name LIKE 'sparkle!_%' ESCAPE '!'"
        )
    rows: list[Any] = list(connection.execute(text(query)))
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows if VERSION_TABLE not in name}
