"""Where in a checkpoint the weights are, and the optimizers, however somebody wrapped them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import Tensor

_DEPTH, _NODES = 6, 20_000
_COMPILED, _PARALLEL = "_orig_mod", "module"


@dataclass(frozen=True)
class Place:
    """A dictionary in a checkpoint: the keys that lead to it, and itself."""

    path: tuple[Any, ...]
    content: dict[Any, Any]

    @property
    def words(self) -> str:
        return ".".join(str(key) for key in self.path) or "the file"


def dictionaries(tree: Any) -> Iterator[Place]:
    """Every dictionary down to some depth; optimizers are not looked into."""
    left: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    for _ in range(_NODES):  # a pickle of a few bytes can repeat one node without end
        if not left:
            return
        path, node = left.pop(0)
        if isinstance(node, dict):
            yield Place(path, node)
        if len(path) < _DEPTH and not is_optimizer(node):
            children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
            left += [((*path, key), child) for key, child in children if isinstance(child, dict | list)]


def is_optimizer(node: Any) -> bool:
    """Whether something has the form of an optimizer's state dict."""
    if not isinstance(node, dict) or not isinstance(node.get("state"), dict):
        return False
    groups = node.get("param_groups")
    return isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)


def is_state(node: dict[Any, Any]) -> bool:
    """Whether a dictionary maps names to tensors, whatever else is in it."""
    return any(isinstance(key, str) and isinstance(value, Tensor) for key, value in node.items())


def put(tree: Any, path: tuple[Any, ...], content: Any) -> Any:
    """The tree with other content at `path`, which must lead there."""
    if not path:
        return content
    node = tree
    for key in path[:-1]:
        node = node[key]
    if content is None:
        del node[path[-1]]
    else:
        node[path[-1]] = content
    return tree


class Names:
    """Names of tensors without what wrappers put before them: `DataParallel` "module.", Lightning "model.", and so on.

    `torch.compile` puts its "_orig_mod." anywhere. `known` are names of the model itself, which say where it begins.
    """

    def __init__(self, content: Mapping[Any, Any], known: Collection[str] = ()) -> None:
        keys = [key for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)]
        self._wrapped = {"": ""}  # plain path of a module -> how the names of what is in it begin
        self.old: dict[str, str] = {}  # plain name -> key
        outside = _outside(keys, known)
        for key in keys:
            self.old.setdefault(self._add(key, outside), key)
        self.unambiguous = len(self.old) == len(keys)

    def _add(self, key: str, outside: int) -> str:
        plain: list[str] = []
        start = ""
        for word in key.split("."):
            if word == _COMPILED or outside:
                outside -= word != _COMPILED
                start += f"{word}."
                self._wrapped[".".join(plain)] = start
            else:
                plain.append(word)
                start += f"{word}."
                self._wrapped.setdefault(".".join(plain), start)
        return ".".join(plain)

    def key(self, name: str) -> str:
        """How a plain name is spelt in this file."""
        words = name.split(".")
        for count in range(len(words) - 1, -1, -1):
            start = self._wrapped.get(".".join(words[:count]))
            if start is not None:
                return start + ".".join(words[count:])
        return name


def _outside(keys: Iterable[str], known: Collection[str]) -> int:
    """How many words all names begin with that are none of the model's own."""
    bare = [[word for word in key.split(".") if word != _COMPILED] for key in keys]
    shared = 0
    while bare and all(len(words) > shared + 1 and words[shared] == bare[0][shared] for words in bare):
        shared += 1
    for count in range(shared + 1):
        if any(".".join(words[count:]) in known for words in bare):
            return count
    return len(list(takewhile(lambda word: word == _PARALLEL, bare[0][:shared]))) if bare else 0
