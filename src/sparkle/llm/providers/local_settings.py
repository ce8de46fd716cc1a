"""What both sides of the local model agree on: the shipped figures, and the configuration handed to the child."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import msgspec

from sparkle.errors import ConfigurationError, MissingExtraError
from sparkle.settings import ProviderSettings

#: The variable that carries the child's configuration. Not an argument: every user of the machine can read those.
CONFIG_VARIABLE = "_SPARKLE_LOCAL_MODEL"


class ChatFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chat model."""

    model: str
    package: str
    glob: str
    context_tokens: int
    slots: int
    http_threads: int
    temperature: float
    top_p: float


class EmbeddingFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedding model."""

    model: str
    package: str
    weights: str
    tokenizer: str
    dimensions: int
    max_inputs: int
    max_input_chars: int
    max_body_bytes: int


class ProcessFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The child process; times in seconds."""

    nice: int
    connections: int
    patience: float
    start_timeout: float
    stop_timeout: float
    health_interval: float
    health_timeout: float
    health_failures: int
    log_bytes: int


class LocalFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``data/local.yaml``."""

    chat: ChatFigures
    embeddings: EmbeddingFigures
    process: ProcessFigures


class ChildConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the child is told, as JSON in :data:`CONFIG_VARIABLE`."""

    parent: int
    """Process id of the parent: when it is no longer the child's parent, the child ends."""
    key: str
    """The bearer token that both servers demand."""
    chat_port: int
    embeddings_port: int
    model_file: str
    threads: int

    def __repr__(self) -> str:
        return f"ChildConfig(parent={self.parent}, chat_port={self.chat_port})"


@cache
def local_figures() -> LocalFigures:
    """Read the shipped figures; done once per process."""
    raw = files("sparkle.llm.providers").joinpath("data/local.yaml").read_bytes()
    return msgspec.yaml.decode(raw, type=LocalFigures)


def find_model(settings: ProviderSettings) -> Path:
    """The GGUF file to load: the one in the settings, else the one in the wheel.

    The wheel's package is found but not imported: its own dependencies are a whole other application.

    Raises:
        ConfigurationError: The file named in the settings is not there.
        MissingExtraError: A package of the extra ``local`` is not installed.
    """
    chat = local_figures().chat
    if find_spec("xllamacpp") is None:
        raise MissingExtraError("local", "The local model")
    if settings.local_model:
        path = Path(settings.local_model).expanduser().absolute()
        if not path.is_file():
            raise ConfigurationError("provider.local_model does not name a file")
        return path
    folder = package_folder(chat.package)
    found = sorted(folder.glob(chat.glob)) if folder is not None else []
    if not found:
        raise MissingExtraError("local", "The local model")
    return found[0]


def package_folder(package: str) -> Path | None:
    """Where a package is installed, without importing it; ``None``: it is not."""
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None
