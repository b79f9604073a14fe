"""The judge's own tools: comparison, protocol, encoding, switching off, scope, and the order of the verdict."""

from __future__ import annotations

import ast
import math
import socket
import struct
import types
from argparse import Namespace
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, distributions

from migrator.codemod import NormPart, Swap
from migrator.prove import codec, protocol
from migrator.prove.comparing import Scale, compare, relative
from migrator.prove.isolation import switched_off
from migrator.prove.ledger import Ledger, Tally
from migrator.prove.oracle import _norms
from migrator.prove.remote import BoxError, Ran, ran_of
from migrator.prove.result import Check, TensorRow, Verification
from migrator.prove.scope import check_scope
from migrator.prove.switches import alibi_slopes, reference_norm, rotated
from tests.prove.texts import EXACT, STAGES

NAN, INF = math.nan, math.inf

FLOAT64 = Scale(1e-10, 1e-4)


def ran(*outputs: Tensor, form: object = "tensor", **grads: Tensor | None) -> Ran:
    return Ran(form, list(outputs), dict(grads), [])


# --- comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "figure"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([NAN, 2.0], [NAN, 2.0], 0.0),
        ([NAN, 2.0], [1.0, 2.0], INF),
        ([INF, 2.0], [-INF, 2.0], INF),
        ([INF, 2.0], [NAN, 2.0], INF),
        ([INF, 2.0], [INF, 2.5], 0.25),
        ([], [], 0.0),
    ],
)
def test_relative_difference(old: list[float], new: list[float], figure: float) -> None:
    assert relative(torch.tensor(old, dtype=torch.float64), torch.tensor(new, dtype=torch.float64)) == figure


def test_integers_are_equal_or_infinitely_far() -> None:
    assert relative(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert relative(torch.tensor([1, 2]), torch.tensor([1, 3])) == INF


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (ran(torch.zeros(2, 3)), ran(torch.zeros(3, 2)), "shape"),
        (ran(torch.zeros(2)), ran(torch.zeros(2, dtype=torch.float64)), "dtype"),
        (
            ran(torch.zeros(2)),
            ran(torch.zeros(2), form={"tuple": ["tensor"], "type": "tuple"}),
            "returns a tuple instead of a tensor",
        ),
        (ran(torch.ones(2).double()), ran(torch.ones(2).double() + 1e-8), "differs"),
        (ran(torch.ones(2), w=torch.ones(2)), ran(torch.ones(2), w=None), "no gradient"),
        (ran(torch.ones(2), w=None), ran(torch.ones(2), w=torch.ones(2)), "has a gradient"),
        (ran(torch.ones(2), w=torch.ones(2)), ran(torch.ones(2)), "is gone"),
        (ran(torch.ones(2), w=torch.ones(2)), ran(torch.ones(2), w=-torch.ones(2)), "gradient of w"),
    ],
)
def test_each_difference_is_named(before: Ran, after: Ran, said: str) -> None:
    tally = Tally(FLOAT64.limit)
    compare(tally, before, after, FLOAT64, "here")
    assert tally.failure is not None and said in tally.failure and "here" in tally.failure


def test_noise_in_a_gradient_that_is_zero_is_no_difference() -> None:
    noise = torch.tensor([1e-17, -2e-17], dtype=torch.float64)
    large = torch.ones(2, dtype=torch.float64)
    tally = Tally(FLOAT64.limit)
    compare(tally, ran(large, a=noise, b=large), ran(large, a=-noise, b=large), FLOAT64, "here")
    assert tally.failure is None


# --- ledger -------------------------------------------------------------------------------------------------------


def test_a_gradient_without_any_finite_number_tells_nothing() -> None:
    out, nan = torch.tensor([1.0, math.nan]), torch.full((2,), math.nan)
    tally = Tally(1e-10)
    compare(tally, ran(out, w=nan), ran(out, w=torch.zeros(2)), Scale(1e-10, 0.0), "here")
    assert tally.failure is None
    compare(tally, ran(out, w=torch.tensor([math.nan, 1.0])), ran(out, w=torch.zeros(2)), Scale(1e-10, 0.0), "here")
    assert tally.failure is not None


def test_a_check_that_could_not_run_is_never_passed() -> None:
    ledger = Ledger()
    with ledger.tally("parity", "Attention", 1e-10) as tally:
        tally.cannot("it does not run")
    assert not ledger.checks[0].passed and not ledger.failed
    assert ledger.unable == ["Attention: parity could not be checked: it does not run"]


def test_a_comparison_that_is_no_number_fails() -> None:
    ledger = Ledger()
    with ledger.tally("parity", "Attention", 1e-10) as tally:
        tally.measured(NAN, "the output")
    assert ledger.failed


def test_partial_comparisons_are_noted() -> None:
    ledger = Ledger()
    with ledger.tally("parity", "Attention", 1e-10) as tally:
        tally.measured(0.0, "the output")
        tally.cannot("length 1 is too short")
    assert ledger.checks[0].passed
    assert ledger.notes == ["Attention: parity: 1 of the comparisons could not be made: length 1 is too short"]


# --- protocol and encoding ----------------------------------------------------------------------------------------


def test_tensors_survive_the_way_between_processes() -> None:
    ours, theirs = socket.socketpair()
    tensors = [
        torch.randn(3, 4).t(), torch.zeros(0, 3), torch.tensor(2.5, dtype=torch.float64), torch.tensor([True, False]),
        torch.randn(2).to(torch.bfloat16), torch.randn(2, dtype=torch.complex64).conj(), torch.arange(5)[::2],
    ]  # fmt: skip
    protocol.send(ours, {"op": "run", "x": [1, None]}, tensors)
    message, received = protocol.receive(theirs)
    assert message == {"op": "run", "x": [1, None]}
    for sent, got in zip(tensors, received, strict=True):
        assert sent.dtype == got.dtype and sent.shape == got.shape and torch.equal(sent, got)


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<Q", 1 << 60), struct.pack("<Q", 3) + b"{}}",
                                  struct.pack("<Q", 29) + b'[{}, [["float32", [-1, 100]]]]'[:29]])  # fmt: skip
def test_what_is_no_message_is_a_protocol_error(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(data)
    ours.close()
    with pytest.raises(protocol.ProtocolError, match="the connection ended|is too long|something that is no message"):
        protocol.receive(theirs)


def test_more_tensors_than_fit_are_not_even_made_room_for() -> None:
    ours, theirs = socket.socketpair()
    text = b'[{}, [["float32", [1073741824, 1024]]]]'
    ours.sendall(struct.pack("<Q", len(text)) + text)
    with pytest.raises(protocol.ProtocolError, match="more tensors than there is room for"):
        protocol.receive(theirs)


NONSENSE: list[dict[str, object]] = [
    {}, {"tree": 1, "outputs": "x", "grads": {}, "from": 0, "watched": []},
    {"tree": 1, "outputs": 1, "grads": {"w": 7}, "from": 0, "watched": []},
    {"tree": 1, "outputs": 1, "grads": [1], "from": 0, "watched": []},
    {"tree": 1, "outputs": 1, "grads": {}, "from": 0, "watched": [["a", 9, 9]]},
]  # fmt: skip


@pytest.mark.parametrize("reply", NONSENSE)
def test_an_answer_that_makes_no_sense_is_the_boxs_fault(reply: dict[str, object]) -> None:
    with pytest.raises(BoxError, match="its process gave an answer that makes no sense"):
        ran_of(reply, [torch.zeros(1)])


def test_a_norm_that_is_none() -> None:
    model = Namespace(owners=lambda owner: ["block"], modules={"block.norm": {"classes": ["Linear"]}})
    with pytest.raises(BoxError, match=r"block.norm is neither nn.LayerNorm nor nn.RMSNorm"):
        _norms(model, NormPart("Block", "norm", "x"))  # type: ignore[arg-type]


@dataclass
class Sizes:
    dim: int
    rate: float = 0.5


def test_arguments_are_encoded_and_decoded() -> None:
    space = types.ModuleType("space")
    space.Sizes = Sizes  # type: ignore[attr-defined]
    tensors: list[Tensor] = []
    value = [1, 2.5, None, "x", (True, {"k": torch.ones(2)}), Sizes(3), torch.float16, torch.nn.functional.relu, Sizes]
    data = codec.encode(value, tensors, space)
    back = codec.decode(data, tensors, space)
    assert back[:4] == value[:4] and back[5:] == value[5:]
    assert back[4][0] is True and torch.equal(back[4][1]["k"], torch.ones(2))


def test_what_cannot_be_said_is_unportable() -> None:
    with pytest.raises(codec.Unportable, match="socket"):
        codec.encode([socket.socket()], [])
    with pytest.raises(codec.Unportable):
        codec.encode(lambda x: x, [])


def test_distributions_are_compared_by_their_parameters() -> None:
    tensors: list[Tensor] = []
    normal = distributions.Independent(distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3)), 1)
    form = codec.shape_of(codec.encode(normal, tensors, strict=False))
    assert form["distribution"] == "Independent" and len(tensors) == 2
    other = codec.shape_of(codec.encode(distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3)), [], strict=False))
    assert form != other


def test_verifications_survive_json() -> None:
    check = Check("parity", "Attention", True, "", 1e-16, 1e-10, "attention")
    row = TensorRow("w", "new", "", "(3,)")
    verification = Verification("proved", (check,), ("note",), (row,), (("Model", 1, 2),), 1.5)
    assert Verification.from_json(verification.to_json()) == verification


# --- switching off, and scope ---------------------------------------------------------------------------------------


def test_swaps_count_utf8_bytes() -> None:
    text = 'x = "ü"; y = f(x)\nz = f(\n    y\n)\n'
    swaps = [Swap(1, len('x = "ü"; y = '.encode()), 1, len('x = "ü"; y = f(x)'.encode()), "x"), Swap(2, 4, 4, 1, "y")]
    assert switched_off(text, swaps) == 'x = "ü"; y = x\nz = y\n'


def test_a_swap_outside_of_the_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 7"):
        switched_off("x = 1\n", [Swap(7, 0, 7, 1, "y")])
    with pytest.raises(SyntaxError):
        switched_off("x = (1)\n", [Swap(1, 4, 1, 5, "1")])


@pytest.mark.parametrize("name", STAGES)
def test_the_hand_written_stages_keep_their_scope(name: str) -> None:
    ledger = Ledger()
    check_scope(ledger, STAGES[name])
    assert [check.passed for check in ledger.checks] == [True]


def test_the_texts_are_python() -> None:
    for stage in STAGES.values():
        ast.parse(stage.before)
        ast.parse(stage.after)
    assert "runtime" in EXACT


# --- references -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_the_rotary_reference_is_a_multiplication_of_complex_numbers(layout: str) -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    pairs = x.unflatten(-1, (3, 2)) if layout == "interleaved" else torch.stack(x.chunk(2, -1), -1)
    rate = 100.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    turn = torch.polar(torch.ones(5, 3, dtype=torch.float64), torch.arange(5, dtype=torch.float64)[:, None] * rate)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    expected = turned.flatten(-2) if layout == "interleaved" else torch.cat(turned.unbind(-1), -1)
    assert relative(expected, rotated(x, 100.0, layout)) < 1e-14


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8) == [2.0 ** -(i + 1) for i in range(8)]
    assert alibi_slopes(16)[:2] == [2**-0.5, 2**-1]
    assert alibi_slopes(12) == [2.0 ** -(i + 1) for i in range(8)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


@pytest.mark.parametrize("centred", [True, False])
def test_the_norm_reference_is_torchs(centred: bool) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    weight, bias = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    if centred:
        expected = torch.nn.functional.layer_norm(x, (5,), weight, bias, 1e-5)
    else:
        bias = torch.zeros(5, dtype=torch.float64)
        expected = torch.nn.functional.rms_norm(x, (5,), weight, 1e-5)
    assert relative(expected, reference_norm(x, weight, bias, 1e-5, 1, centred)) < 1e-14
