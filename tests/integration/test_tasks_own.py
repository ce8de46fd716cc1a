"""Sparkle's own ten tasks do their work, once, over both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.support.ledgers import LedgerHouse
from tests.support.own_tasks import Workshop

from sparkle.errors import QuotaExceededError
from sparkle.tasks.own import hooks, schema
from sparkle.tasks.own.embedding import unpack
from sparkle.tasks.registry import registry

pytest_plugins = ["tests.support.ledger_fixtures"]

TEN = {
    "generate_node_embedding",
    "analyze_error_batch",
    "record_token_usage",
    "save_learning_state",
    "update_mastery",
    "invalidate_cache",
    "cleanup_pending_actions",
    "rerank_documents",
    "expand_knowledge_node",
    "visualize_graph",
}


@pytest.fixture
def shop(house: LedgerHouse) -> Iterator[Workshop]:
    yield Workshop(house)
    hooks.connect_hooks()


class Letters:
    """A real, small embedding for tests that need no meaning: how often each letter occurs."""

    model = "letters"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls += 1
        counted = [[text.lower().count(chr(97 + at)) + 1e-6 for at in range(26)] for text in texts]
        return [[n / sum(m * m for m in row) ** 0.5 for n in row] for row in counted]


def node(id: str, title: str, body: str = "", *, user: str = "alice", at: int = 1) -> dict[str, Any]:
    return {
        "id": id,
        "user_id": user,
        "title": title,
        "body": body,
        "status": "active",
        "created_at": at,
        "updated_at": at,
    }


def test_the_ten_and_the_health_check_are_registered() -> None:
    assert {task.name for task in registry if task.function.__module__ == "sparkle.tasks.celery_tasks"} == {
        *TEN,
        "health_check",
    }


# Nodes ----------------------------------------------------------------------------------------------------------------


def test_a_node_gets_a_vector_that_means_what_it_says(shop: Workshop) -> None:
    shop.insert(
        schema.node,
        node("n1", "Derivative", "The slope of the tangent to a curve."),
        node("n2", "导数", "函数曲线切线的斜率。"),
        node("n3", "Photosynthesis", "Plants turn light, water and carbon dioxide into sugar."),
    )
    for id in ("n1", "n2", "n3"):
        value = shop.value("generate_node_embedding", node_id=id)
        assert value == {"node_id": id, "model": "use-multilingual-v3", "dimensions": 512, "changed": True}
    stored = {
        id: unpack(vector) for id, vector in shop.rows("SELECT node_id, vector FROM sparkle_node_embedding")
    }

    def like(one: str, other: str) -> float:
        return sum(a * b for a, b in zip(stored[one], stored[other], strict=True))

    assert abs(like("n1", "n1") - 1) < 1e-4
    assert like("n1", "n2") > like("n1", "n3") + 0.2


def test_the_same_text_is_not_embedded_twice(shop: Workshop) -> None:
    letters = Letters()
    hooks.connect_hooks(embed=letters)
    shop.insert(schema.node, node("n1", "abc", "text " * 200))
    assert shop.value("generate_node_embedding", node_id="n1")["changed"]
    assert not shop.value("generate_node_embedding", node_id="n1")["changed"]
    assert letters.calls == 1


def test_a_node_that_changes_meanwhile_is_embedded_anew(shop: Workshop) -> None:
    class Meanwhile(Letters):
        def __call__(self, texts: Sequence[str]) -> list[list[float]]:
            with shop.house.ledger.write() as connection:
                connection.execute(schema.node.update().values(title="changed", updated_at=2))
            return super().__call__(texts)

    hooks.connect_hooks(embed=Meanwhile())
    shop.insert(schema.node, node("n1", "abc"))
    record = shop.run("generate_node_embedding", node_id="n1")
    assert (record.state, record.error_type) == ("failed", "TaskStateError")
    assert shop.rows("SELECT * FROM sparkle_node_embedding") == []


def test_a_node_that_is_not_there_is_not_tried_again(shop: Workshop) -> None:
    hooks.connect_hooks(embed=Letters())
    for name in ("generate_node_embedding", "expand_knowledge_node"):
        record = shop.run(name, node_id="none")
        assert (record.state, record.error_type) == ("failed", "NotFoundError")
        task = registry.get(name)
        assert task is not None
        assert "NotFoundError" in task.retry.give_up_on


def test_a_node_is_expanded_into_what_its_text_is_about(shop: Workshop) -> None:
    body = (
        "# Limits\nA limit is the value a function approaches. The chain rule is used for nested functions. "
        "The chain rule needs the inner derivative. The chain rule is central.\n# Product rule\n"
    )
    shop.insert(schema.node, node("n1", "Derivative", body), node("n2", "Chain rule"))
    first = shop.value("expand_knowledge_node", node_id="n1")
    assert "n2" in first["children"]
    titles = {title.lower() for title in first["titles"]}
    assert {"product rule", "chain rule"} <= titles
    assert titles & {"limit", "limits"}
    assert not first["by_model"]
    again = shop.value("expand_knowledge_node", node_id="n1")
    assert again["children"] == first["children"]
    (count,) = shop.rows("SELECT count(*) FROM sparkle_edge WHERE target = 'n1' AND kind = 'part_of'")
    assert count == (len(first["children"]),)
    suggested = shop.rows("SELECT count(*) FROM sparkle_node WHERE status = 'suggested'")
    assert suggested == [(len(first["children"]) - 1,)]


def test_a_chinese_node_is_expanded_too(shop: Workshop) -> None:
    body = "极限是指函数趋近的值。链式法则用于复合函数。链式法则很重要，链式法则需要内层导数。"
    shop.insert(schema.node, node("n1", "导数", body))
    titles = shop.value("expand_knowledge_node", node_id="n1", max_children=3)["titles"]
    assert any("链式法则" in title for title in titles)
    assert any("极限" in title for title in titles)


def test_a_node_is_linked_to_the_nearest_of_the_same_user(shop: Workshop) -> None:
    hooks.connect_hooks(embed=Letters())
    shop.insert(
        schema.node,
        node("n1", "aaaa"),
        node("n2", "aaab"),
        node("n3", "zzzz"),
        node("other", "aaaa", user="bob"),
    )
    for id in ("n1", "n2", "n3", "other"):
        shop.value("generate_node_embedding", node_id=id)
    related = shop.value("expand_knowledge_node", node_id="n1")["related"]
    assert [id for id, _ in related] == ["n2"]
    assert shop.rows("SELECT source, target FROM sparkle_edge WHERE kind = 'related'") == [("n1", "n2")]


def test_a_connected_model_names_the_parts_and_a_refusing_one_is_done_without(shop: Workshop) -> None:
    asked: list[tuple[str, str]] = []

    def answer(user_id: str, instructions: str, text: str) -> str:
        asked.append((user_id, text))
        return "1. Slope\n- Tangent line\n\nderivative\n"

    def refuse(user_id: str, instructions: str, text: str) -> str:
        raise QuotaExceededError

    shop.insert(schema.node, node("n1", "Derivative", "A tangent is a line that touches a curve."))
    hooks.connect_hooks(complete=answer)
    value = shop.value("expand_knowledge_node", node_id="n1")
    assert (value["titles"], value["by_model"]) == (["Slope", "Tangent line"], True)
    assert asked[0][0] == "alice"
    hooks.connect_hooks(complete=refuse)
    assert not shop.value("expand_knowledge_node", node_id="n1")["by_model"]


def test_a_graph_becomes_a_picture_that_holds_no_markup_of_its_titles(shop: Workshop) -> None:
    shop.insert(
        schema.node,
        node("n1", "<script>alert(1)</script>"),
        node("n2", "导数 & \x07 limits"),
        node("n3", "alone"),
        node("n4", "another's", user="bob"),
    )
    shop.insert(schema.edge, {"source": "n1", "target": "n2", "kind": "part_of", "weight": 1.0})
    value = shop.value("visualize_graph", user_id="alice")
    assert (value["nodes"], value["edges"]) == (3, 1)
    ((svg, digest),) = shop.rows("SELECT svg, digest FROM sparkle_graph_picture WHERE user_id = 'alice'")
    assert digest == value["sha256"]
    tree = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert len(tree.findall(f".//{space}circle")) == 3
    assert tree.findall(f".//{space}script") == []
    assert "another" not in svg
    assert shop.value("visualize_graph", user_id="alice")["sha256"] == digest
    assert shop.value("visualize_graph", user_id="nobody")["nodes"] == 0


# Documents ------------------------------------------------------------------------------------------------------------


def test_documents_are_ranked_by_words_and_by_meaning(shop: Workshop) -> None:
    documents = [
        {"id": "cooking", "text": "Boil the pasta for nine minutes."},
        {"id": "meaning", "text": "微积分中，切线的斜率由求导得到。"},
        {"id": "words", "text": "The derivative of a function is the slope of its tangent."},
    ]
    ranked = shop.run("rerank_documents", for_user="alice", query="derivative slope", documents=documents)
    order = [id for id, _ in ranked.value]
    assert order == ["words", "meaning", "cooking"]
    ((id, query, stored),) = shop.rows("SELECT id, query, documents FROM sparkle_ranking")
    assert (id, query, json.loads(stored)) == (ranked.id, "derivative slope", ranked.value)


def test_documents_can_be_ranked_by_words_alone(shop: Workshop) -> None:
    documents = [
        {"id": str(at), "text": text} for at, text in enumerate(["红色的花", "导数的定义", "定义导数与极限"])
    ]
    top = shop.value("rerank_documents", query="极限", documents=documents, by_meaning=False, top_k=1)
    assert [id for id, _ in top] == ["2"]


@pytest.mark.parametrize("documents", [[], [{"id": "1"}], ["text"], [{"id": 1, "text": "x"}]])
def test_documents_of_another_shape_are_refused(shop: Workshop, documents: list[Any]) -> None:
    record = shop.run("rerank_documents", query="x", documents=documents, by_meaning=False)
    assert (record.state, record.error_type) == ("failed", "InvalidRequestError")
