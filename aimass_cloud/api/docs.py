"""The OpenAPI document as a page, made here: it needs no script and nothing from other hosts, so it works offline."""

from __future__ import annotations

import json
from html import escape
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
summary{cursor:pointer;padding:.35rem 0}code,pre{font:13px/1.4 ui-monospace,monospace}
pre{background:#f5f5f5;padding:.7rem;overflow:auto}b{display:inline-block;width:4.5rem}
h2{border-bottom:1px solid #ccc}details{border-bottom:1px solid #eee}
"""


def page(document: dict[str, Any]) -> str:
    """A page that lists every operation with its parameters, bodies and answers."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(path, method, operation))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(items)}" for tag, items in by_tag.items()]
    schemas = json.dumps(document.get("components", {}).get("schemas", {}), indent=1)
    title = escape(document["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title} {escape(document['info']['version'])}</h1>"
        f"<p>{escape(document['info'].get('description', ''))} Machine-readable: "
        f"<a href=openapi.json>openapi.json</a></p>{''.join(parts)}"
        f"<h2>Schemas</h2><details><summary>all</summary><pre>{escape(schemas)}</pre></details></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    shown = {key: operation[key] for key in ("parameters", "requestBody", "responses", "security") if key in operation}
    return (
        f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code> "
        f"{escape(operation.get('summary', ''))}</summary><p>{escape(operation.get('description', ''))}</p>"
        f"<pre>{escape(json.dumps(shown, indent=1))}</pre></details>"
    )
