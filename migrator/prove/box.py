"""A box: the one place where user code runs. It serves the judge's requests about one text, and decides nothing."""

from __future__ import annotations

import math
import os
import random
import socket
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from migrator.prove import building, loading, switches, trials
from migrator.prove.alarm import limited
from migrator.prove.codec import decode, encode
from migrator.prove.protocol import ProtocolError, dtype_of, receive, send

_SECONDS = 20.0
Reply = tuple[dict[str, Any], list[Tensor]]


def serve(connection: socket.socket) -> NoReturn:
    """Answer requests until the judge hangs up."""
    torch.set_num_threads(1)
    box, own = _Box(), os.getpid()
    os.register_at_fork(after_in_child=lambda: os._exit(1))  # a copy of a model would answer in its place
    while True:
        try:
            message, tensors = receive(connection)
        except (ProtocolError, OSError):
            os._exit(0)
        try:
            reply, out = box.answer(message, tensors)
        except BaseException as error:
            reply, out = {"error": loading.described(error, box.path)}, []
        if os.getpid() != own:
            os._exit(1)  # user code forked, and this is the copy
        try:
            send(connection, reply, out)
        except OSError:
            os._exit(0)


@dataclass
class _Held:
    """A module that was built, and how, for the case that it cannot be copied."""

    module: nn.Module
    build: dict[str, Any]
    tensors: list[Tensor]
    dtype: torch.dtype


class _Box:
    def __init__(self) -> None:
        self.space = types.ModuleType("nothing")
        self.path = Path("nothing")
        self.held: list[_Held] = []
        self.neutral: list[switches.Part] = []

    def answer(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        operations: dict[str, Callable[[dict[str, Any], list[Tensor]], Reply]] = {
            "load": self.load, "build": self.build, "adopt": self.adopt, "run": self.run, "spread": self.spread,
            "train": self.train, "dress": self.dress, "count": self.count, "discover": self.discover,
            "vary": self.vary, "masks": self.masks, "calls": self.calls, "probes": self.probes,
        }  # fmt: skip
        if message["op"] in trials.OPERATIONS:
            return trials.OPERATIONS[message["op"]](self, message, tensors)
        return operations[message["op"]](message, tensors)

    # --- the text -------------------------------------------------------------------------------------------------

    def load(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        self.path, self.neutral = Path(message["path"]), message["neutral"]
        switches.replace_runtime(self.neutral, message["reference"])
        if message["isolated_draws"]:
            switches.isolate_draws()
        seed_all(0)
        self.space, notes = loading.load(message["text"], self.path, definitions_only=message["definitions_only"])
        return {"notes": notes}, []

    # --- modules --------------------------------------------------------------------------------------------------

    def build(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """Construct a module under a seed; gives its state dict, its parameters' names and its submodules' classes."""
        torch.set_default_dtype(dtype_of(message["default"]))
        module = self.construct(message["build"], tensors, message["seed"], dtype_of(message["dtype"]))
        stream = torch.get_rng_state()
        if message.get("init_seed") is not None:
            seed_all(message["init_seed"])
            module.apply(building.initialise)
        neutralised = switches.neutralise(module, self.neutral)
        self.held.append(_Held(module, message["build"], tensors, dtype_of(message["dtype"])))
        state = building.state_of(module)
        reply = {
            "handle": len(self.held) - 1, "keys": list(state), "neutralised": neutralised,
            "parameters": [name for name, _ in module.named_parameters()], "tied": building.tied(module),
            "modules": building.modules_of(module), "attributes": building.attributes_of(module),
        }  # fmt: skip
        return reply, [*state.values(), stream]

    def construct(self, build: dict[str, Any], tensors: list[Tensor], seed: int, dtype: torch.dtype) -> nn.Module:
        seed_all(seed)
        with switches.MemorySet():  # type: ignore[no-untyped-call]
            module = building.construct(build, tensors, self.space)
        return module.to(dtype) if dtype != torch.float32 else module

    def adopt(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """Load a state dict, strictly."""
        held = self.held[message["handle"]]
        held.module.load_state_dict(dict(zip(message["keys"], tensors, strict=True)), strict=True)
        return {}, []

    def fresh(self, handle: int) -> nn.Module:
        """A copy of a module, because a forward may change it."""
        held = self.held[handle]
        try:
            return building.copied(held.module)
        except (RuntimeError, TypeError):
            module = self.construct(held.build, held.tensors, 0, held.dtype)
            switches.neutralise(module, self.neutral)
            module.load_state_dict(held.module.state_dict(), strict=True)
            return module

    def dress(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """Let a reference layer norm follow `source` of each `owner`, with the weights that come along."""
        weights = iter(tensors)
        count = 0
        for owner in switches.owners(self.held[message["handle"]].module, message["owner"]):
            source = getattr(owner, message["source"])
            # A stack may be called, or looped over; in both its last block gives out what it gives out.
            stack = isinstance(source, nn.ModuleList | nn.Sequential) and len(source)
            target = source[-1] if stack else source
            weight = next(weights) if message["weight"] else None
            bias = next(weights) if message["bias"] else None
            target.register_forward_hook(
                building.normed(weight, bias, message["eps"], message["axes"], message["centred"], message["place"])
            )
            count += 1
        return {"count": count}, []

    # --- runs -----------------------------------------------------------------------------------------------------

    def run(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """One call: outputs, then gradients of a fixed weighted sum of them, then what was watched."""
        torch.set_default_dtype(dtype_of(message["default"]))
        module = self.fresh(message["handle"])
        module.train(message["train"])
        leaves = [building.leaf(tensor, message["grads"]) for tensor in tensors]
        watched: list[Tensor] = []
        log = building.watch(module, message["watch"], watched)
        with switches.dropout_set(message["dropout"]), torch.set_grad_enabled(message["grads"]), limited(_SECONDS):
            result = self.call(module, message, [building.passed(leaf) for leaf in leaves])
            out: list[Tensor] = []
            tree = encode(result, out, self.space, strict=False)
            differentiated = message["grads"] and building.backward(out)  # here, because it may compute blocks again
        grads: dict[str, int | None] = {}
        if differentiated:
            out, count = [tensor.detach() for tensor in out], len(out)
            for name, leaf in [*module.named_parameters(), *((f"input {i}", leaf) for i, leaf in enumerate(leaves))]:
                if leaf.requires_grad:
                    grads[name] = None if leaf.grad is None else len(out)
                    out += [] if leaf.grad is None else [leaf.grad]
            return {"tree": tree, "outputs": count, "grads": grads, "watched": log, "from": len(out)}, [*out, *watched]
        return {"tree": tree, "outputs": len(out), "grads": grads, "watched": log, "from": len(out)}, [*out, *watched]

    def call(self, module: nn.Module, message: dict[str, Any], tensors: list[Tensor]) -> Any:
        target = module.get_submodule(message["path"])
        args, kwargs = (decode(message[name], tensors, self.space) for name in ("args", "kwargs"))
        seed_all(message["seed"])
        method = target if message["method"] == "forward" else getattr(target, message["method"])
        return method(*args, **dict(kwargs))

    def spread(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """Mean and variance of the outputs over many seeds."""
        torch.set_default_dtype(dtype_of(message["default"]))
        total: list[Tensor] = []
        squares: list[Tensor] = []
        for seed in range(message["repeats"]):
            module = self.fresh(message["handle"]).train(message["train"])
            with torch.no_grad():
                result = self.call(module, {**message, "seed": seed}, [tensor.clone() for tensor in tensors])
            out: list[Tensor] = []
            encode(result, out, self.space, strict=False)
            floats = [tensor.double() for tensor in out if tensor.is_floating_point()]
            total = [a + b for a, b in zip(total, floats, strict=True)] if total else floats
            square = [tensor * tensor for tensor in floats]
            squares = [a + b for a, b in zip(squares, square, strict=True)] if squares else square
        count = message["repeats"]
        means = [tensor / count for tensor in total]
        variances = [square / count - mean * mean for square, mean in zip(squares, means, strict=True)]
        return {"count": len(means)}, [*means, *variances]

    def train(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """Losses of some AdamW steps on one batch: the scalar that forward gives, else a distance to a fixed target."""
        torch.set_default_dtype(dtype_of(message["default"]))
        module = self.fresh(message["handle"]).train()
        building.disturb(module, message["noise"])
        optimizer = building.AdamW(module)
        losses: list[float] = []
        with switches.dropout_set(False):
            for step in range(message["steps"]):
                result = self.call(module, {**message, "seed": message["seed"] + step}, [t.clone() for t in tensors])
                out: list[Tensor] = []
                encode(result, out, self.space, strict=False)
                loss = building.loss_of(out)
                losses.append(loss.item())
                module.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return {}, [torch.tensor(losses, dtype=torch.float64)]

    def count(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """Sizes of the parameters and of the state dict of a module of full size."""
        torch.set_default_dtype(torch.float32)
        module = building.construct(message["build"], tensors, self.space)
        return {
            "counts": {name: math.prod(parameter.shape) for name, parameter in module.named_parameters()},
            "shapes": {name: list(value.shape) for name, value in building.state_of(module).items()},
            "classes": {path: found["classes"] for path, found in building.modules_of(module).items()},
        }, []  # fmt: skip

    def calls(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        return {"calls": switches.reference_calls()}, []

    # --- probes ---------------------------------------------------------------------------------------------------

    def discover(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        from migrator.prove.discovery import discover

        out: list[Tensor] = []
        return discover(self.space, message, tensors, out), out

    def vary(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        from migrator.prove.variation import vary

        return {"builds": vary(self.space, message, tensors)}, []

    def masks(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        from migrator.prove.variation import optional_masks

        return {"masks": optional_masks(self.space, message, tensors)}, []

    def probes(self, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
        """What the file's own `probe()` says of constructor arguments."""
        given = self.space.probe() if callable(getattr(self.space, "probe", None)) else {}
        out: list[Tensor] = []
        builds = {}
        for name, (args, kwargs) in given.items():
            builds[name] = {
                "cls": name,
                "args": encode(list(args), out, self.space),
                "kwargs": encode(kwargs, out, self.space),
            }
        return {"builds": builds}, out


def seed_all(seed: int) -> None:
    """The same random numbers, whoever draws them."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)
