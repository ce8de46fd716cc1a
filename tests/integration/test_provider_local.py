"""The local model, for real: llama.cpp in a child process, chat and embeddings, and what happens when somebody dies."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sparkle.errors import ConfigurationError, ProviderError, ProviderRejectedError
from sparkle.llm.providers import LocalModel, ProviderRouter, build_router
from sparkle.settings import ProviderSettings

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="uses /proc"),
    pytest.mark.asyncio(loop_scope="module"),
]

SETTINGS = ProviderSettings(local_threads=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LocalModel]:
    model = LocalModel(SETTINGS, tmp_path_factory.mktemp("local"))
    await model.start()
    yield model
    await model.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(local: LocalModel) -> AsyncGenerator[ProviderRouter]:
    built = build_router(SETTINGS, local=local, environ={})
    await built.start()
    yield built
    await built.close()


def question(text: str = "What is 2+2?", **more: Any) -> dict[str, Any]:
    return {"model": "any-model", "messages": [{"role": "user", "content": text}], "max_tokens": 12, **more}


async def test_it_answers_with_text_and_usage_under_its_own_name(router: ProviderRouter) -> None:
    answer = json.loads((await router.chat(question(temperature=0))).body)
    assert "4" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "smollm2-135m-instruct"
    assert answer["usage"]["prompt_tokens"] > 0
    assert 0 < answer["usage"]["completion_tokens"] <= 12


async def test_it_streams_token_by_token_with_usage_at_the_end(router: ProviderRouter) -> None:
    body = question(temperature=0, stream_options={"include_usage": True})
    async with await router.stream(body) as stream:
        payloads = [json.loads(payload) async for payload in stream]
    said = [choice["delta"].get("content") for payload in payloads for choice in payload["choices"]]
    assert len([text for text in said if text]) > 3
    assert payloads[-1]["usage"]["completion_tokens"] <= 12


async def test_its_models_are_names_and_never_paths(router: ProviderRouter) -> None:
    models = await router.models()
    assert {model["id"] for model in models} == {"smollm2-135m-instruct", "use-multilingual-v3"}
    assert "/" not in json.dumps(models)


async def test_a_prompt_longer_than_its_context_is_refused_not_cut(router: ProviderRouter) -> None:
    with pytest.raises(ProviderRejectedError) as caught:
        await router.chat(question("word " * 9000))
    assert caught.value.status == 400


async def test_an_abandoned_stream_frees_its_slot(router: ProviderRouter) -> None:
    for _ in range(8):  # twice as many as there are slots
        async with await router.stream(question("Count to one thousand.", max_tokens=4000)) as stream:
            await anext(stream)
    assert (await router.chat(question(max_tokens=1))).status == 200


async def test_embeddings_tell_meaning_across_languages(router: ProviderRouter) -> None:
    texts = ["The cat sleeps on the sofa.", "猫在沙发上睡觉。", "Interest rates rose again."]
    answer = json.loads((await router.embeddings({"model": "e", "input": texts})).body)
    vectors: list[list[float]] = [item["embedding"] for item in answer["data"]]
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    assert {len(vector) for vector in vectors} == {512}
    assert answer["model"] == "use-multilingual-v3"
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0

    def alike(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert alike(vectors[0], vectors[0]) == pytest.approx(1.0, abs=1e-4)
    assert alike(vectors[0], vectors[1]) > alike(vectors[0], vectors[2]) + 0.2


async def test_embeddings_come_as_base64_when_asked_and_from_tokens(router: ProviderRouter) -> None:
    async def embed(**fields: Any) -> Any:
        return json.loads((await router.embeddings({"model": "e", **fields})).body)["data"][0]["embedding"]

    plain: list[float] = await embed(input="hello world")
    packed = memoryview(base64.b64decode(await embed(input=["hello world"], encoding_format="base64"))).cast(
        "f"
    )
    assert list(packed) == pytest.approx(plain, abs=1e-6)
    assert (
        await embed(input=[15339, 1917]) == plain
    )  # "hello world" in cl100k_base, as some client libraries send it
    assert await embed(input=[[15339, 1917]]) == plain


WRONG: list[dict[str, Any]] = [
    {},
    {"input": []},
    {"input": ""},
    {"input": ["a", 7]},
    {"input": [-1]},
    {"input": [10**9]},
    {"input": [[]]},
    {"input": "x" * 40_000},
    {"input": ["x"] * 3000},
    {"input": "x", "dimensions": 64},
    {"input": "x", "encoding_format": "hex"},
]


@pytest.mark.parametrize("fields", WRONG, ids=lambda fields: str(fields)[:40])
async def test_wrong_embedding_requests_are_refused_with_a_reason(
    router: ProviderRouter, fields: dict[str, Any]
) -> None:
    with pytest.raises(ProviderRejectedError) as caught:
        await router.embeddings({"model": "e", **fields})
    assert caught.value.status == 400
    assert "xxx" not in caught.value.message


async def test_its_servers_answer_nobody_without_the_key(local: LocalModel) -> None:
    for port, path in (
        (local.endpoint.chat_port, "chat/completions"),
        (local.endpoint.embeddings_port, "embeddings"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()
        )
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 401")


async def test_the_key_stands_in_no_repr_and_on_no_command_line(local: LocalModel) -> None:
    key = local.endpoint.key
    for shown in (repr(local), repr(local.endpoint), repr(local.command), repr(local.endpoint.upstream())):
        assert key not in shown
    command_line = await asyncio.to_thread(Path(f"/proc/{local.pid}/cmdline").read_bytes)
    assert key.encode() not in command_line


async def test_after_kill_9_it_is_started_again_and_answers_at_the_same_place(
    local: LocalModel, router: ProviderRouter
) -> None:
    before, starts = local.pid, local.starts
    assert before is not None
    os.kill(before, signal.SIGKILL)
    await wait_until(lambda: local.starts > starts)
    upstream = local.endpoint.upstream()
    await wait_for_health(router)
    assert local.pid != before
    assert upstream.address.port == local.endpoint.chat_port
    assert (await router.chat(question(max_tokens=1))).status == 200
    assert json.loads((await router.embeddings({"model": "e", "input": "a"})).body)["data"]


async def test_calls_made_while_it_restarts_wait_and_are_answered(
    local: LocalModel, router: ProviderRouter
) -> None:
    starts = local.starts
    assert local.pid is not None
    os.kill(local.pid, signal.SIGKILL)
    calls = [router.chat(question(max_tokens=1)) for _ in range(3)]
    calls.append(router.embeddings({"model": "e", "input": "a"}))
    assert [answer.status for answer in await asyncio.gather(*calls)] == [200] * 4
    assert local.starts > starts


async def test_when_its_owner_is_killed_the_child_ends(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, pathlib\n"
        "from sparkle.llm.providers import LocalModel\n"
        "from sparkle.settings import ProviderSettings\n"
        "async def main():\n"
        "    model = LocalModel(ProviderSettings(local_threads=1), pathlib.Path(sys.argv[1]))\n"
        "    await model.start()\n"
        "    print(model.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    child = int(await owner.stdout.readline())
    assert alive(child)
    owner.kill()
    await owner.wait()
    await wait_until(lambda: not alive(child))


async def test_stopping_ends_the_child_and_frees_its_ports(tmp_path: Path) -> None:
    model = LocalModel(SETTINGS, tmp_path)
    await model.start()
    child = model.pid
    assert child is not None
    await model.stop()
    await model.stop()
    assert not alive(child)
    assert model.pid is None
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", model.endpoint.chat_port)


async def test_a_model_file_that_is_none_fails_the_start_and_says_where_to_look(tmp_path: Path) -> None:
    wrong = tmp_path / "model.gguf"
    await asyncio.to_thread(wrong.write_bytes, b"not a model")
    model = LocalModel(ProviderSettings(local_model=str(wrong)), tmp_path)
    with pytest.raises(ConfigurationError, match=r"local-model\.log"):
        await model.start()
    assert model.pid is None


async def test_the_command_lets_another_supervisor_run_it(tmp_path: Path) -> None:
    model = LocalModel(SETTINGS, tmp_path)
    command = model.command
    child = await asyncio.create_subprocess_exec(*command.argv, env=command.env)
    router = build_router(SETTINGS, local=model, environ={})
    await router.start()
    try:
        await wait_for_health(router)
        assert (await router.chat(question(max_tokens=1))).status == 200
    finally:
        await router.close()
        child.terminate()
        assert await child.wait() == 0
        await model.stop()


def alive(pid: int) -> bool:
    """Running, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


async def wait_until(condition: Any) -> None:
    """Poll what no event tells: the state of another process."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def wait_for_health(router: ProviderRouter) -> None:
    while True:
        try:
            await router.ready()
        except ProviderError:
            await asyncio.sleep(0.02)
        else:
            return
