"""The README's configuration table, out of the schema itself.

python tests/support/config_table.py   # rewrites the table in README.md
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[2]
BEGIN = "<!-- configuration table: begin -->\n"
END = "<!-- configuration table: end -->"


def render_table(section: type[BaseModel]) -> str:
    """Render every key with its default and its description."""
    rows = [
        f"| `{key}` | {default} | {description} |" for key, default, description in _rows(section)
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows, ""])


def replace_table(readme: str, table: str) -> str:
    """Return the README with another table."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table}{END}{after}"


def _rows(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        models = _models_in(field.annotation)
        if not models:
            yield f"{prefix}{name}", _default(field), field.description or ""
        for model in models:
            yield from _rows(model, f"{prefix}{_place(name, field, model, models)}.")


def _place(name: str, field: FieldInfo, model: type[BaseModel], models: list[Any]) -> str:
    if "tuple" in str(field.annotation):
        return f"{name}[]"
    return f"{name} ({get_args(model.model_fields['kind'].annotation)[0]})" if models[1:] else name


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{json.dumps(value, default=str)}`"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from deployments.config import AppConfig

    readme = ROOT / "README.md"
    readme.write_text(replace_table(readme.read_text("utf-8"), render_table(AppConfig)), "utf-8")
