"""YAML as a configuration has it: each key once, and mistakes that are told without its text."""

import re
from collections import Counter
from typing import Any, Final

import yaml

_QUOTED: Final = re.compile(r"""\s*(['"])(?!<)(?:(?!\1).){2,}\1""")
"""What the parser repeats of the text. `'<block end>'` is a name of its own."""


class YamlMistakeError(ValueError):
    """The text is not YAML, or has a key twice. The message has nothing of its values."""


class DuplicateKeyError(YamlMistakeError):
    """A mapping has a key twice."""


def read_yaml(text: str) -> Any:
    """Read one document.

    Raises:
        YamlMistakeError: Naming the line and the column, where they are known.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a safe one
    except yaml.MarkedYAMLError as exc:
        raise YamlMistakeError(_explain(exc)) from None
    except yaml.reader.ReaderError as exc:
        raise YamlMistakeError(f"character {exc.position + 1}: {exc.reason}") from None
    except RecursionError:
        raise YamlMistakeError("values must be nested less deeply") from None


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter((key.tag, key.value) for key in keys)
        for key in reversed(keys):
            if counts[key.tag, key.value] > 1 and key.value != "<<":
                place = _name_place(key.start_mark)
                raise DuplicateKeyError(f"{place}: a key must be there once, got {key.value} twice")
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except ValueError:
            # A date that no calendar has, or what a tag makes of the text.
            raise YamlMistakeError(
                f"{_name_place(node.start_mark)}: a date or a number must be one"
            ) from None


def _explain(error: yaml.MarkedYAMLError) -> str:
    # Without the name of an alias or a tag: a password may begin with their signs.
    parts = [_QUOTED.sub("", part) for part in (error.context, error.problem) if part]
    if error.context_mark is not None and error.context:
        parts[0] += f" (line {error.context_mark.line + 1})"
    mark = error.problem_mark or error.context_mark
    return ": ".join(parts if mark is None else [_name_place(mark), *parts])


def _name_place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
