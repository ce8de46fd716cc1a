"""``rerank_documents``: which documents answer a query best, by their words and by their meaning."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from sparkle.tasks.own.embedding import cosine, embed_text
from sparkle.tasks.own.hooks import Embed
from sparkle.tasks.own.schema import ranking
from sparkle.tasks.own.words import bm25

_RANK_OFFSET = 60
"""Constant of reciprocal rank fusion (Cormack et al. 2009). Ranks are fused: the two scores have no common scale."""


class Document(msgspec.Struct, frozen=True):
    """One document to rank."""

    id: str
    text: str


def rank(query: str, documents: Sequence[Document], embed: Embed | None) -> list[tuple[str, float]]:
    """Ids and scores, best first; equal scores in the order given.

    Args:
        query: What is looked for, in any language.
        documents: At least one.
        embed: For the meaning; ``None`` goes by the words alone.
    """
    texts = [document.text for document in documents]
    orders = [_order(bm25(query, texts))]
    if embed is not None:
        wanted = embed_text(embed, query)
        orders.append(_order([cosine(wanted, embed_text(embed, text)) for text in texts]))
    fused = [sum(1.0 / (_RANK_OFFSET + order[at]) for order in orders) for at in range(len(texts))]
    best = sorted(range(len(texts)), key=lambda at: -fused[at])
    return [(documents[at].id, round(fused[at], 6)) for at in best]


def _order(scores: Sequence[float]) -> list[int]:
    """Rank of each score, 1 for the best; equal ones share a rank."""
    sorted_scores = sorted(set(scores), reverse=True)
    place = {score: at + 1 for at, score in enumerate(sorted_scores)}
    return [place[score] for score in scores]


def store(
    connection: Connection,
    task_id: str,
    user_id: str,
    query: str,
    ranked: Sequence[tuple[str, float]],
    now: int,
) -> None:
    """Keep a ranking under its task's id."""
    connection.execute(
        ranking.insert(),
        {
            "id": task_id,
            "user_id": user_id,
            "query": query,
            "documents": msgspec.json.encode(ranked).decode(),
            "created_at": now,
        },
    )
