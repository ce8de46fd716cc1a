"""What the router refuses, lists and tells about itself."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.providers import started
from tests.support.upstream import ScriptedUpstream

from sparkle.errors import InvalidRequestError, NotFoundError, ProviderError
from sparkle.llm.providers import Upstream


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": 7}, {"model": None}])
async def test_a_request_without_a_model_is_the_callers_fault(body: dict[str, object]) -> None:
    async with started("http://127.0.0.1:9/v1") as h:
        with pytest.raises(InvalidRequestError) as caught:
            await h.router.chat(body)
        assert caught.value.param == "model"


@pytest.mark.parametrize("odd", ["\ud800", {1, 2}.__iter__(), object()])
async def test_a_body_that_is_no_json_is_the_callers_fault(odd: object) -> None:
    async with started("http://127.0.0.1:9/v1") as h:
        with pytest.raises(InvalidRequestError):
            await h.router.chat({"model": "m", "odd": odd})


async def test_a_model_nobody_serves_is_not_found() -> None:
    async with started(Upstream("a", "http://127.0.0.1:9/v1", models=("gpt-*",))) as h:
        with pytest.raises(NotFoundError):
            await h.ask("llama")


async def test_embeddings_go_their_own_way_with_the_same_care() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        up.fail(503)
        response = await h.router.embeddings({"model": "e", "input": ["a", "bb"]})
        assert [item["embedding"][0] for item in json.loads(response.body)["data"]] == [1.0, 2.0]
        assert response.attempts == 2
        assert up.requests[0].path == "/v1/embeddings"


async def test_models_are_the_union_of_all_that_answer_and_are_cached() -> None:
    async with ScriptedUpstream(models=("a", "b")) as one, ScriptedUpstream(models=("b", "c")) as two:
        down = Upstream("down", "http://127.0.0.1:9/v1", models=("d", "x-*"))
        ups = [Upstream("one", one.url), Upstream("two", two.url, models=("c",)), down]
        async with started(*ups, aliases={"fast": ("one/a",)}) as h:
            assert [model["id"] for model in await h.router.models()] == ["fast", "a", "b", "c", "d"]
            await asyncio.gather(*(h.router.models() for _ in range(5)))
            assert len(one.requests) == 1
            assert h.router.known_models() == {"fast", "a", "b", "c", "d"}
            h.clock.advance(61)
            await h.router.models()
            assert len(one.requests) == 2


async def test_a_list_of_models_that_is_none_counts_as_failing() -> None:
    async with ScriptedUpstream(models=("a",)) as one, ScriptedUpstream() as two:
        two.models_status = 500
        async with started(one.url, two.url) as h:
            assert [model["id"] for model in await h.router.models()] == ["a"]


async def test_ready_needs_only_one_usable_upstream_and_asks_nobody() -> None:
    async with ScriptedUpstream() as up, started("http://127.0.0.1:9/v1", up.url) as h:
        await h.router.ready()
        assert up.requests == []


async def test_a_router_can_be_closed_twice_and_started_again() -> None:
    async with ScriptedUpstream() as up, started(up.url) as h:
        await h.ask()
        await h.router.close()
        await h.router.close()
        with pytest.raises(ProviderError, match="not started"):
            await h.ask()
        await h.router.start()
        assert (await h.ask()).status == 200
