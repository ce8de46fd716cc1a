"""The deep tier: a small network over sentence embeddings, asked about the texts that the fast tier is unsure of.

It is loaded when it is first needed: a process that only sees plain texts never pays for it. The text that needs it
waits.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from sparkle.errors import SparkleError
from sparkle.llm.safety.classifier_encoder import (
    DIMENSIONS,
    Encoder,
    cache_name,
    import_numpy,
    installed,
    unpack,
)
from sparkle.llm.safety.classifier_file import ModelFile

log = logging.getLogger("sparkle.safety")

INPUTS = 2 * DIMENSIONS
"""A segment's embedding, then the mean of those of the whole text: what is said, and among what."""


PATIENCE_SECONDS = 10.0
"""How long a text waits for the tier to be loaded. It is unpacked once a machine, which takes a second or two."""


class DeepHead:
    """The network: one hidden layer of rectified units over a segment's embedding and its surroundings. Thread-safe.

    Args:
        file: sections ``inner`` (float16, 2,048 x units), ``inner_bias``, ``outer`` (float32); number ``outer_bias``.

    Raises:
        ModelFileError: a section or number is missing or has another shape.
    """

    def __init__(self, file: ModelFile) -> None:
        np = import_numpy()
        self._np = np
        inner = np.frombuffer(file.raw("inner", "e", (INPUTS, None)), np.float16).reshape(INPUTS, -1)
        units = inner.shape[1]
        self._inner = inner.astype(np.float32)
        self._inner_bias = np.frombuffer(file.raw("inner_bias", "f", (units,)), np.float32)
        self._outer = np.frombuffer(file.raw("outer", "f", (units,)), np.float32)
        self._outer_bias = file.number("outer_bias")

    def logits(self, embeddings: Any) -> list[float]:
        """One logit for each segment of one text; ``embeddings`` is segments x 1,024."""
        around = embeddings.mean(axis=0) @ self._inner[DIMENSIONS:] + self._inner_bias
        hidden = self._np.maximum(embeddings @ self._inner[:DIMENSIONS] + around, 0)
        return (hidden @ self._outer + self._outer_bias).tolist()


class DeepTier:
    """Encoder and network together, loaded once a process. Thread-safe.

    Args:
        file: the network's weights.
        folder: where the unpacked encoder is kept; ``None``: the user's cache folder. If it cannot be written the tier
            stays off and says so in the log.
    """

    def __init__(self, file: ModelFile, folder: Path | None = None) -> None:
        self._file = file
        self._folder = folder
        self._lock = Lock()
        self._thread: Thread | None = None
        self._owner = 0
        self._parts: tuple[Encoder, DeepHead] | None = None
        self._failed = False

    def start(self) -> None:
        """Begin to load in a thread of its own, unless that was done in this process."""
        if self._parts is not None or self._failed:
            return
        with self._lock:
            # A thread does not survive a fork: the child starts its own.
            if self._thread is None or self._owner != os.getpid():
                self._owner = os.getpid()
                self._thread = Thread(target=self._load_quietly, name="sparkle-deep-tier", daemon=True)
                self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        """Wait for what :meth:`start` began, at most so long."""
        if self._thread is not None and self._owner == os.getpid():
            self._thread.join(seconds)

    def load(self) -> None:
        """Load now and wait for it.

        Raises:
            MissingExtraError: the wheel is not installed.
            ConfigurationError: its unpacked form is damaged or cannot be written.
        """
        if self._parts is None:
            self._load()

    def logits(self, texts: Sequence[str]) -> list[float] | None:
        """One logit for each segment of one text; the first call in a process loads the tier.

        ``None``: it cannot be loaded, or not within :data:`PATIENCE_SECONDS`.
        """
        if self._parts is None:
            self.start()
            self.join(PATIENCE_SECONDS)
        parts = self._parts
        if parts is None:
            return None
        encoder, head = parts
        return head.logits(encoder.embed(texts))

    def _load_quietly(self) -> None:
        try:
            self._load()
        except SparkleError as error:
            self._failed = True
            log.warning("the deep tier of the classifier stays off: %s", error.message)
        except OSError as error:
            self._failed = True
            log.warning("the deep tier of the classifier stays off: %s", error.strerror)

    def _load(self) -> None:
        folder = (self._folder or user_cache()) / cache_name()
        if not folder.is_dir():
            unpack_once(folder)
        self._parts = (Encoder(folder), DeepHead(self._file))


def user_cache() -> Path:
    """Where the user's caches live: ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparkle"


def unpack_once(folder: Path) -> None:
    """Unpack into ``folder`` under a lock, so that of many processes one does it; it appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(made, ignore_errors=True)
        try:
            unpack(made)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def available() -> bool:
    """Whether the extra is installed and this platform can map its file."""
    return installed() and sys.byteorder == "little"


__all__ = ["INPUTS", "DeepHead", "DeepTier", "available", "unpack_once", "user_cache"]
