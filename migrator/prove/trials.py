"""What a box does to try an ability out: decoding with a cache, sampling, checkpointing. It only reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from migrator.prove import building, switches
from migrator.prove.alarm import limited
from migrator.prove.codec import decode, encode
from migrator.prove.protocol import dtype_of

if TYPE_CHECKING:
    from migrator.prove.box import Reply, _Box

_SECONDS = 20.0
_WINDOW = ("block_size", "context", "max_len", "max_seq", "n_ctx", "window", "n_positions", "max_pos", "seq_len")
_DRAWS = ("multinomial", "argmax", "topk")


def decoded(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """Several sessions on one module: a method gets one prefix of its sequences after the other.

    A session's `cache` is "none" (the method is called as ever), "returned" (by its first call), "given" (a new one,
    of just the size that is needed) or "reset" (the one of the session before, after a reset).
    """
    torch.set_default_dtype(dtype_of(message["default"]))
    module = box.fresh(message["handle"]).train(message["train"])
    if message["enable"]:
        module.gradient_checkpointing_enable()  # type: ignore[operator]
    target = module.get_submodule(message["path"])
    out: list[Tensor] = []
    sessions, cache = [], None
    with switches.dropout_set(False), torch.set_grad_enabled(message["enable"]), limited(_SECONDS):
        for session in message["sessions"]:
            steps, cache = _session(box, getattr(target, message["method"]), session, tensors, cache, out)
            sessions.append(steps)
    return {"sessions": sessions}, out


def _session(
    box: _Box, method: Callable[..., Any], session: dict[str, Any], tensors: list[Tensor], cache: Any, out: list[Tensor]
) -> tuple[list[dict[str, Any]], Any]:
    cached = session["cache"] != "none"
    cache = _first_cache(session, cache)
    given = session["cache"] == "given"
    steps = []
    for end in session["ends"]:
        prefix = list(tensors)
        for place, axis in session["cuts"]:
            prefix[place] = tensors[place].narrow(axis, 0, end).clone()
        args, kwargs = (decode(session[name], prefix, box.space) for name in ("args", "kwargs"))
        options = ({"past_kv": cache} if given else {"past_kv": cache, "use_cache": True}) if cached else {}
        with _attended() as rows:
            result = method(*args, **dict(kwargs), **options)
        if cached and not given and isinstance(result, tuple):
            cache = result[-1]
        first = len(out)
        tree = encode(result, out, box.space, strict=False)
        steps.append({"tree": tree, "from": first, "to": len(out), "rows": rows})
    return steps, cache


def _first_cache(session: dict[str, Any], last: Any) -> Any:
    if session["cache"] == "given":
        import runtime

        return runtime.KVCache(max_len=session["ends"][-1])
    if session["cache"] == "reset":
        last.reset()
        return last
    return None


@contextmanager
def _replaced(holder: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, make(before))
    try:
        yield
    finally:
        setattr(holder, name, before)


def _watching(see: Callable[..., None]) -> Callable[[Any], Any]:
    """Makes a function show its arguments to `see` before it does what it does."""

    def make(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            see(*args, **kwargs)
            return function(*args, **kwargs)

        return call

    return make


@contextmanager
def _attended() -> Iterator[list[int]]:
    """How many queries each call of attention gets."""
    rows: list[int] = []
    see = _watching(lambda query, *args, **kwargs: rows.append(query.size(-2)))
    with _replaced(functional, "scaled_dot_product_attention", see):
        yield rows


# --- sampling -----------------------------------------------------------------------------------------------------


def sampled(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """One call of a function, or of a method of the first module, under a seed.

    The modules stand behind the tensors in the list that the arguments point into.
    """
    from migrator.prove.box import seed_all

    torch.set_default_dtype(dtype_of(message["default"]))
    modules = [box.fresh(handle).train(message["train"]).get_submodule(path) for handle, path in message["modules"]]
    values: list[Any] = [*tensors, *modules]
    args, kwargs = (decode(message[name], values, box.space) for name in ("args", "kwargs"))
    function = getattr(modules[0] if message["bound"] else box.space, message["function"])
    seed_all(message["seed"])
    quiet = (switches.dropout_set(False), torch.no_grad(), limited(message["seconds"]))
    with quiet[0], quiet[1], quiet[2], _drawn() as draws, _attended() as queries:
        result = function(*args, **dict(kwargs))
    out: list[Tensor] = []
    tree = encode(result, out, box.space, strict=False)
    modes = [module.training for module in modules]
    reply = {"tree": tree, "outputs": len(out), "draws": len(draws), "modes": modes}
    reply.update(queries=sum(queries), attentions=len(queries))
    return reply, [*out, *draws, torch.get_rng_state()]


@contextmanager
def _drawn() -> Iterator[list[Tensor]]:
    """What tokens are drawn from: the distributions and scores that torch's own functions get."""
    draws: list[Tensor] = []
    see = _watching(lambda scores, *args, **kwargs: draws.append(scores.detach().clone()))
    with ExitStack() as stack:
        for holder in (torch, Tensor):
            for name in _DRAWS:
                stack.enter_context(_replaced(holder, name, see))
        yield draws


def windows(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """Lengths that a module may be limited to: numbers by their names, in it and in its configuration."""
    module = box.held[message["handle"]].module
    spaces = [vars(child) for child in module.modules()]
    spaces += [vars(value) for space in spaces for value in space.values() if hasattr(value, "__dict__")]
    named = {
        value for space in spaces for name, value in space.items()
        if type(value) is int and any(word in name.lower() for word in _WINDOW)
    }  # fmt: skip
    vocabularies = [child.num_embeddings for child in module.modules() if isinstance(child, nn.Embedding)]
    return {"windows": sorted(named), "vocabularies": sorted(vocabularies)}, []


# --- checkpointing ------------------------------------------------------------------------------------------------


def checkpointed(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """One call, and its gradients, with gradient checkpointing off, on, or switched on and off again.

    Each of the `blocks` gets noise into its input, so that its second run differs if it draws other random numbers.
    """
    torch.set_default_dtype(dtype_of(message["default"]))
    module = box.fresh(message["handle"]).train(message["train"])
    for word in message["switches"]:
        getattr(module, f"gradient_checkpointing_{word}")()
    counts = dict.fromkeys(message["blocks"], 0)
    for path in counts:
        module.get_submodule(path).register_forward_pre_hook(_noisy(path, counts))
    leaves = [building.leaf(tensor, message["grads"]) for tensor in tensors]
    with torch.set_grad_enabled(message["grads"]), limited(_SECONDS):
        result = box.call(module, message, [building.passed(leaf) for leaf in leaves])
        out: list[Tensor] = []
        tree = encode(result, out, box.space, strict=False)
        nodes = _nodes(out)
        backwards = message["grads"] and building.backward(out)
    out, count = [tensor.detach() for tensor in out], len(out)
    grads: dict[str, int | None] = {}
    for name, parameter in module.named_parameters() if backwards else ():
        grads[name] = None if parameter.grad is None else len(out)
        out += [] if parameter.grad is None else [parameter.grad]
    reply = {"tree": tree, "outputs": count, "grads": grads, "watched": [], "from": len(out)}
    return {**reply, "counts": list(counts.values()), "reentrant": "CheckpointFunctionBackward" in nodes}, out


def _noisy(path: str, counts: dict[str, int]) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, args: Any) -> Any:
        counts[path] += 1
        return (args[0] * (1 + 0.1 * torch.rand_like(args[0])), *args[1:]) if args else None

    return hook


def _nodes(outputs: list[Tensor]) -> set[str]:
    """The names of all steps of the backward pass."""
    seen: set[Any] = set()
    left = [output.grad_fn for output in outputs]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


OPERATIONS: dict[str, Callable[[_Box, dict[str, Any], list[Tensor]], Reply]] = {
    "decode": decoded,
    "sample": sampled,
    "windows": windows,
    "checkpoint": checkpointed,
}
