"""Which store the settings ask for."""

from __future__ import annotations

from pathlib import Path

from sparkle.clock import Clock
from sparkle.llm.quota.ops import QuotaStore
from sparkle.settings import QuotaSettings


def open_store(settings: QuotaSettings, data_dir: Path, *, clock: Clock) -> QuotaStore:
    """The store that ``quota.store_url`` names, not yet started.

    Args:
        settings: ``store_url`` empty: SQLite in ``data_dir/quota.db``.
        data_dir: Folder of this installation.
        clock: Wall time.

    Raises:
        ConfigurationError: The URL cannot be read.
    """
    if not settings.store_url:
        from sparkle.llm.quota.sqlite_store import SqliteStore

        return SqliteStore(data_dir / "quota.db", clock=clock)
    from sparkle.llm.quota.valkey_store import ValkeyStore

    return ValkeyStore(settings.store_url, clock=clock)
