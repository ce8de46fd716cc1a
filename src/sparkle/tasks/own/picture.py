"""``visualize_graph``: a user's knowledge as an SVG picture that any browser shows and no script can hide in."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from html import escape

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from sparkle.tasks.own.layout import force_layout
from sparkle.tasks.own.schema import edge, node, picture

_WIDTH, _HEIGHT, _MARGIN = 960, 720, 60
_LABEL = 24
_STYLE = (
    "text{font:12px system-ui,'Noto Sans CJK SC',sans-serif;fill:#1c2733;text-anchor:middle}"
    "line{stroke:#9fb3c8;stroke-width:1.2}.related{stroke-dasharray:4 3}"
    "circle{fill:#2f6fde;stroke:#fff;stroke-width:1.5}.suggested{fill:#b8cbe8}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf5}line{stroke:#52657a}}"
)


@dataclass(frozen=True, slots=True)
class Graph:
    """What is drawn."""

    nodes: tuple[tuple[str, str, str], ...]
    """Id, title, status."""
    edges: tuple[tuple[str, str, str], ...]
    """Source, target, kind; both ends are among the nodes."""


def load(connection: Connection, user_id: str, most: int) -> Graph:
    """A user's latest ``most`` nodes and the edges between them."""
    rows = connection.execute(
        select(node.c.id, node.c.title, node.c.status)
        .where(node.c.user_id == user_id)
        .order_by(node.c.updated_at.desc(), node.c.id)
        .limit(most)
    ).all()
    ids = {row.id for row in rows}
    mine = select(node.c.id).where(node.c.user_id == user_id)
    between = connection.execute(
        select(edge.c.source, edge.c.target, edge.c.kind)
        .where(edge.c.source.in_(mine))
        .order_by(edge.c.source, edge.c.target, edge.c.kind)
    )
    return Graph(
        tuple((row.id, row.title, row.status) for row in rows),
        tuple((source, target, kind) for source, target, kind in between if source in ids and target in ids),
    )


def draw(graph: Graph) -> str:
    """The picture; equal graphs give equal pictures."""
    index = {id: at for at, (id, _, _) in enumerate(graph.nodes)}
    pairs = [(index[source], index[target]) for source, target, _ in graph.edges]
    places = [
        (_MARGIN + x * (_WIDTH - 2 * _MARGIN), _MARGIN + y * (_HEIGHT - 2 * _MARGIN))
        for x, y in force_layout(len(graph.nodes), pairs)
    ]
    degrees = Counter(end for pair in pairs for end in pair)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{len(graph.nodes)} nodes, {len(graph.edges)} edges">',
        f"<style>{_STYLE}</style>",
    ]
    for (one, other), (_, _, kind) in zip(pairs, graph.edges, strict=True):
        (x1, y1), (x2, y2) = places[one], places[other]
        sort = "related" if kind == "related" else "part"
        parts.append(f'<line class="{sort}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    for at, (_, title, status) in enumerate(graph.nodes):
        x, y = places[at]
        radius = 5 + min(degrees[at], 9)
        sort = "suggested" if status == "suggested" else "active"
        # Titles come from users: control characters would break the file, markup the page around it.
        plain = "".join(sign if sign.isprintable() else " " for sign in title)
        shown = plain if len(plain) <= _LABEL else plain[: _LABEL - 1] + "…"
        parts.append(
            f'<g><title>{escape(plain)}</title><circle class="{sort}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
            f'<text x="{x:.1f}" y="{y + radius + 13:.1f}">{escape(shown)}</text></g>'
        )
    return "\n".join([*parts, "</svg>"])


def store(connection: Connection, user_id: str, graph: Graph, svg: str, now: int) -> str:
    """Keep the picture as the user's only one. Returns its digest."""
    digest = hashlib.sha256(svg.encode()).hexdigest()
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = {
        "user_id": user_id,
        "svg": svg,
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "digest": digest,
        "created_at": now,
    }
    insert = dialect.insert(picture).values(row)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["user_id"],
            set_={name: insert.excluded[name] for name in row if name != "user_id"},
        )
    )
    return digest
