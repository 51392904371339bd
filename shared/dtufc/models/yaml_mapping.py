"""YAML as users write it: a mapping in which no key stands twice. PyYAML would take the last one."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"{key.value} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load_mapping(text: str) -> dict[str, Any]:
    """The mapping; an empty one of an empty text.

    Raises:
        yaml.YAMLError: it is no YAML, has a key twice, or is something else than a mapping with texts for keys.
    """
    loaded = yaml.load(text, _Loader)  # a safe loader
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise yaml.YAMLError(f"it is {type(loaded).__name__}, not a mapping")
    if strange := [key for key in loaded if not isinstance(key, str)]:
        raise yaml.YAMLError(f"the key {strange[0]!r} is no text")
    return loaded
