"""YAML that says each thing once: no alias that repeats a part, no tag, no key twice.

Aliases and merged keys let some lines stand for gigabytes; of a key that is there twice, YAML takes the last.
"""

from pathlib import Path
from typing import Any, Final

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent

from dtufc.errors import InputError
from dtufc.files import read_file

_MAX_BYTES: Final = 1 << 16  # the parser takes its time
_REMEDY: Final = "Fix the file"


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ComposerError(None, None, "an anchor, an alias or a tag", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for name in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name in seen:
                raise ConstructorError(None, None, f"the key {name!r} twice", node.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, *, field: str, remedy: str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty one of an empty file.

    Args:
        path: of the file.
        field: of the error.
        remedy: where there is no such file.

    Raises:
        InputError: the file cannot be read, has more than 64 KiB, or is no mapping of texts in such YAML.
    """
    data = read_file(path, _MAX_BYTES, field=field, remedy=remedy)
    try:
        read = yaml.load(data.decode("utf-8-sig"), _Loader)
    except RecursionError as error:
        raise InputError(field=field, problem=f"{path} is nested too deeply", remedy=_REMEDY) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a number or date that is none
        raise InputError(field=field, problem=f"{path}: {' '.join(str(error).split())}", remedy=_REMEDY) from error
    read = {} if read is None else read
    if not isinstance(read, dict) or not all(isinstance(name, str) for name in read):
        raise InputError(field=field, problem=f"{path}: it is no mapping of names", remedy=_REMEDY)
    return read
