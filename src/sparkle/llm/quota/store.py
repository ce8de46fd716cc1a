"""Which store the settings ask for."""

from __future__ import annotations

from pathlib import Path

from sparkle.clock import Clock
from sparkle.errors import ConfigurationError
from sparkle.llm.quota.ops import QuotaStore
from sparkle.settings import QuotaSettings

_SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}


def open_store(settings: QuotaSettings, data_dir: Path, *, clock: Clock) -> QuotaStore:
    """The store that ``quota.store_url`` names, not yet started.

    Args:
        settings: ``store_url`` empty: SQLite in ``data_dir/quota.db``.
        data_dir: Folder of this installation.
        clock: Wall time.

    Raises:
        ConfigurationError: The URL has an unknown scheme.
        MissingExtraError: The URL needs the extra ``redis``.
    """
    url = settings.store_url
    if not url:
        from sparkle.llm.quota.sqlite_store import SqliteStore

        return SqliteStore(data_dir / "quota.db", clock=clock)
    scheme, separator, rest = url.partition("://")
    if scheme not in _SCHEMES or not separator or not rest:
        # The URL itself may hold a password, so only the scheme is named.
        raise ConfigurationError(
            f"quota.store_url: unknown scheme {scheme[:20]!r}; use redis://, rediss:// or unix://"
        )
    from sparkle.llm.quota.valkey_store import ValkeyStore

    return ValkeyStore(f"{_SCHEMES[scheme]}://{rest}", clock=clock)
