"""SwiGLU against its formula, and the width rule."""

import math

import pytest
import torch

from runtime import SwiGLU, swiglu, swiglu_width


def test_swiglu_against_plain_python() -> None:
    gate, up = torch.randn(2, 3, 5, dtype=torch.float64)
    for got, g, u in zip(swiglu(gate, up).flatten(), gate.flatten(), up.flatten(), strict=True):
        assert got.item() == pytest.approx(g.item() / (1 + math.exp(-g.item())) * u.item(), rel=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 7, 6)])
def test_module_against_the_formula(shape: tuple[int, ...], bias: bool) -> None:
    module, x = SwiGLU(6, 10, bias=bias).double(), torch.randn(*shape, dtype=torch.float64)
    state = module.state_dict()
    assert list(state) == [
        f"{p}.{t}" for p in ("gate", "up", "down") for t in (["weight", "bias"] if bias else ["weight"])
    ]

    def project(name: str, y: torch.Tensor) -> torch.Tensor:
        return y @ state[f"{name}.weight"].T + (state[f"{name}.bias"] if bias else 0)

    gate, up = project("gate", x), project("up", x)
    expected = project("down", gate * torch.sigmoid(gate) * up)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    module = SwiGLU(3, 4).double()
    assert torch.autograd.gradcheck(module, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))
    module(torch.randn(2, 3, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_module_calls_the_function_through_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SwiGLU.forward.__globals__, "swiglu", lambda gate, up: gate + up)
    module, x = SwiGLU(4, 4), torch.randn(2, 4)
    torch.testing.assert_close(module(x), module.down(module.gate(x) + module.up(x)))


def test_dropout_is_on_hidden_units_and_in_training_only() -> None:
    module, x = SwiGLU(4, 64, dropout=0.5), torch.randn(1, 4)
    plain = SwiGLU(4, 64)
    plain.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(x), plain(x))
    module.train()
    with torch.no_grad():
        module.down.weight.zero_()[0] = 1.0
        module.down.bias.zero_()
    hidden = swiglu(module.gate(x), module.up(x))[0]
    torch.manual_seed(0)
    got = module(x)[0, 0]
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(torch.ones(1, 64), 0.5)[0]
    assert 0 < kept.count_nonzero() < 64
    torch.testing.assert_close(got, (kept * hidden).sum())


@pytest.mark.parametrize(
    ("hidden_dim", "multiple_of", "width"),
    [
        (128, 8, 88),
        (512, 8, 344),
        (2048, 256, 1280),
        (18, 8, 16),
        (17, 8, 8),
        (1, 8, 8),
        (3, 1, 2),
        (4, 1, 3),
        (96, 32, 64),
    ],
)
def test_width_rule(hidden_dim: int, multiple_of: int, width: int) -> None:
    assert swiglu_width(hidden_dim, multiple_of) == width


def test_width_is_the_nearest_multiple() -> None:
    for hidden_dim in range(1, 300):
        for multiple_of in (1, 2, 5, 8, 64):
            width = swiglu_width(hidden_dim, multiple_of)
            assert width % multiple_of == 0 and width >= multiple_of
            assert width == multiple_of or abs(6 * hidden_dim - 9 * width) * 2 <= 9 * multiple_of


def test_width_keeps_the_parameter_count() -> None:
    plain, gated = 2 * 512 * 2048, 3 * 512 * swiglu_width(2048)
    assert abs(gated - plain) / plain < 0.005


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="got 0 and 8"):
        swiglu_width(0)
    with pytest.raises(ValueError, match="got 4 and -1"):
        SwiGLU(4, -1)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\], got 1.5"):
        SwiGLU(4, 4, dropout=1.5)
