"""The text of a document: JSON, or YAML that is read as JSON, with limits for what it may unfold to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import JsonValue

from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.errors import MessageError, UsageError
from paigeant_celery.core.jsonable import MAX_DEPTH, check_tree, loads

__all__ = ["MOST_ALIASES", "MOST_BYTES", "MOST_NODES", "MOST_YAML", "read_text", "write_json", "write_yaml"]

MOST_BYTES = 16 * 1024 * 1024  # of JSON: as much as the outputs of one step, which an export has
MOST_YAML = 1024 * 1024  # bytes; it is read by Python code, some hundred kilobytes a second
MOST_ALIASES = 100  # places where an anchor is used
MOST_NODES = 100_000  # values in YAML, those behind each use of an anchor counted again

# Plain scalars that are no texts. Each is also none for PyYAML's own writer, which puts texts that look so in quotes.
# Neither `no` nor a date is among them: a prompt may be that.
_SCALARS = {
    "bool": (r"^(?:true|false)$", "tf"),
    "null": (r"^(?:~|null|)$", ["~", "n", ""]),
    "int": (r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    "float": (r"^[-+]?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+][0-9]+)?$", "-+0123456789"),
}
_TAG = "tag:yaml.org,2002:"


def read_text(text: str) -> JsonValue:
    """Return the JSON that a text is, or stands for as YAML; raises `InvalidDocument`.

    What begins with `{` is JSON. YAML has texts, numbers, `true`, `false`, `null`, lists and mappings with texts as
    keys, and nothing else: no tags, and neither dates nor `yes`. It needs PyYAML (`UsageError` without it).
    """
    if not isinstance(text, str):
        raise _invalid("", f"a document is a text, not a {type(text).__name__}", "read the file as UTF-8")
    text = text.removeprefix("\ufeff")
    is_json = text.lstrip()[:1] in ("{", "[")
    most = MOST_BYTES if is_json else MOST_YAML
    if len(text) > most or len(text.encode(errors="surrogatepass")) > most:
        remedy = (
            "leave out what is not needed, such as outputs" if is_json else "leave something out, or write it as JSON"
        )
        raise InvalidDocument("too_large", "", f"the document has more than {most} bytes", remedy)
    try:
        if is_json:
            return loads(text, invalid="invalid_document")
        tree = _Yaml(text).tree()
        check_tree(tree, invalid="invalid_document")
    except MessageError as error:
        raise InvalidDocument(error.reason, error.path, error.text, _remedy_of(error.reason)) from None
    return tree


def write_json(tree: JsonValue) -> str:
    """Return JSON as a text for people, in which each character that a terminal would obey is an escape."""
    text = json.dumps(tree, ensure_ascii=False, indent=2) + "\n"
    return _escaped(text, lambda character: json.dumps(character)[1:-1])


def write_yaml(tree: JsonValue) -> str:
    """Return JSON as YAML that `read_text` reads back equal, with the same escapes.

    Texts of several lines are written as they are.
    """
    yaml = _yaml()

    class Writer(yaml.SafeDumper):  # type: ignore[misc,name-defined]
        def ignore_aliases(self, data: object) -> bool:
            return True  # equal parts are written out: an anchor would tie what somebody edits

    def write(writer: Any, text: str) -> Any:
        # What has trailing spaces, tabs or the like cannot be written as a block and is put in quotes by PyYAML.
        style = '"' if not _is_printable(text) else "|" if "\n" in text else None
        return writer.represent_scalar(f"{_TAG}str", text, style=style)

    Writer.add_representer(str, write)
    written: str = yaml.dump(tree, Dumper=Writer, sort_keys=False, allow_unicode=True, width=100)
    return _escaped(written, lambda character: f"\\U{ord(character):08x}")  # which stand in double quotes


def _is_printable(text: str) -> bool:
    return all(map(str.isprintable, text.split("\n")))


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if _is_printable(text):
        return text
    return "".join(each if each.isprintable() or each == "\n" else escape(each) for each in text)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        text = 'YAML needs PyYAML: `pip install "paigeant_celery[yaml]"`; JSON needs nothing'
        raise UsageError(text) from None
    return yaml


class _Yaml:
    """Reads one document: first what it would unfold to, and then its values."""

    def __init__(self, text: str) -> None:
        yaml = self._yaml = _yaml()

        class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]
            yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own attribute

        for kind, (pattern, first) in _SCALARS.items():
            Loader.add_implicit_resolver(f"{_TAG}{kind}", re.compile(pattern), list(first))
        self._loader, self._text = Loader, text

    def tree(self) -> JsonValue:
        yaml = self._yaml
        try:
            self._check_depth()
            node = yaml.compose(self._text, Loader=self._loader)
        except yaml.reader.ReaderError as error:
            raise _invalid(
                "", f"a character at {error.position} is none that YAML can have", "write it as `\\x…`"
            ) from None
        except yaml.YAMLError as error:
            raise _invalid("", _told(error), "see `docs/documents.md` for an example") from None
        except RecursionError:
            raise _too_deep() from None
        if node is None:
            raise _invalid("", "the document is empty", "give it a `version` and an `itinerary`")
        self._left = MOST_NODES
        return self._value(node, "", frozenset())

    def _check_depth(self) -> None:
        """Refuse what is too deep, or uses anchors too often, before anything is made of it."""
        yaml, depth, aliases, documents = self._yaml, 0, 0, 0
        for event in yaml.parse(self._text, Loader=self._loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.AliasEvent):
                aliases += 1
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
            if depth > MAX_DEPTH:
                raise _too_deep()
            if aliases > MOST_ALIASES:
                raise InvalidDocument("too_large", "", f"it uses anchors more than {MOST_ALIASES} times", _WITHOUT)
            if documents > 1:
                raise _invalid(
                    "", f"a second document begins in line {event.start_mark.line + 1}", "give each its file"
                )

    def _value(self, node: Any, path: str, above: frozenset[int]) -> JsonValue:
        yaml, self._left = self._yaml, self._left - 1
        if self._left < 0:
            raise InvalidDocument("too_large", "", f"with its anchors it has more than {MOST_NODES} values", _WITHOUT)
        if id(node) in above:
            raise _invalid(path, "an anchor is used inside itself", _WITHOUT)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        within = above | {id(node)}
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._value(each, f"{path}[{index}]", within) for index, each in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return dict(self._pairs(node, path, within))
        raise self._tagged(node, path)

    def _pairs(self, node: Any, path: str, within: frozenset[int]) -> Iterator[tuple[str, JsonValue]]:
        seen = set[str]()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, self._yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                raise _invalid(path, f"a key in line {line} is no text", "put it in quotes")
            key = str(key_node.value)
            if key == "<<":
                raise _invalid(path, f"`<<` in line {line} merges mappings", _WITHOUT)
            if key in seen:
                raise _invalid(path, f"key {key[:64]!r} appears twice, again in line {line}", "keep one of them")
            seen.add(key)
            yield key, self._value(value_node, f"{path}.{key[:64]}" if path else key[:64], within)

    def _scalar(self, node: Any, path: str) -> JsonValue:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text == "true"
            case "int" if len(text) <= 4300:  # what Python converts
                return int(text)
            case "float":
                return float(text)
        raise self._tagged(node, path)

    def _tagged(self, node: Any, path: str) -> InvalidDocument:
        text = f"line {node.start_mark.line + 1} has the tag {str(node.tag)[:64]!r}, or a number that is too long"
        return _invalid(path, text, "leave tags out; only what JSON has is read")


_WITHOUT = "write out what the anchors stand for"


def _told(error: Any) -> str:
    """Return what PyYAML says about a mistake, with its place and without what stands there."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"it is neither JSON nor YAML: {str(problem or 'it cannot be read')[:200]}{where}"


def _invalid(path: str, text: str, remedy: str) -> InvalidDocument:
    return InvalidDocument.of([Finding("invalid_document", path, text, remedy)])


def _too_deep() -> InvalidDocument:
    return InvalidDocument("too_deep", "", f"more than {MAX_DEPTH} levels", _remedy_of("too_deep"))


def _remedy_of(reason: str) -> str:
    return {
        "too_deep": "put fewer lists, mappings and blocks into each other",
        "invalid_text": "write the text as UTF-8, without halves of surrogate pairs",
    }.get(reason, "write it as strict JSON, or as YAML")
