"""A model that is no file: cut by hooks, fitted, evaluated, and tuned on what a codec loses."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import dtufc
from dtufc.errors import InputError


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 5)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.second(torch.relu(self.first(x) * scale))


@pytest.fixture(scope="module")
def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(40, 12, generator=generator) for _ in range(8)]


def test_features_and_output_are_those_of_the_module(inputs: list[Tensor]) -> None:
    module = Mlp()
    cut = dtufc.split(module, after="first")
    torch.testing.assert_close(cut.features(inputs[0]), module.first(inputs[0]), rtol=0, atol=0)
    torch.testing.assert_close(cut.output(cut.features(inputs[0]), inputs[0]), module(inputs[0]), rtol=0, atol=0)
    changed = cut.output(torch.zeros(40, 32), inputs[0])
    torch.testing.assert_close(changed, module.second.bias.expand(40, 5))


def test_inputs_may_be_arguments_by_place_or_by_name(inputs: list[Tensor]) -> None:
    module = Mlp()
    cut = dtufc.split(module, after="first")
    for x in ((inputs[0], 2.0), {"x": inputs[0], "scale": 2.0}):
        torch.testing.assert_close(cut.output(cut.features(x), x), module(inputs[0], 2.0), rtol=0, atol=0)


def test_the_gradient_is_that_of_the_loss_by_the_features(inputs: list[Tensor]) -> None:
    module = Mlp()
    cut = dtufc.split(module, after="first")
    found = cut.gradient(inputs[0], loss=lambda output: output[:, 0].sum())
    alive = (module.first(inputs[0]) > 0).float()
    torch.testing.assert_close(found, alive * module.second.weight[0])
    assert cut.gradient(inputs[0]).shape == (40, 32)
    assert not torch.equal(*cut.gradients([inputs[0], inputs[0]]))  # signs of their own


def test_a_llama_cut_by_hooks_is_fitted_and_evaluated() -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    cut = dtufc.split(model, after="model.layers.1")
    generator = torch.Generator().manual_seed(2)
    data = [torch.randint(64, (1, 48), generator=generator) for _ in range(8)]
    codec = dtufc.fit([cut.features(x) for x in data[:6]], gradients=cut.gradients(data[:6]))
    found = codec.evaluate(cut, data[6:])
    rows = {(row.codec, row.quality): row for row in found.rows}
    assert found.num_samples == 2
    assert rows["none", None].scores["agreement"] == 1
    assert rows["int8", None].bpfp == 8 + 32 / 32
    bits = [row.bpfp for row in found.rows if row.codec == "klt"]
    assert bits == sorted(bits)
    assert len(bits) == 5
    assert rows["klt", 0.8].scores["agreement"] > rows["klt", 0.2].scores["agreement"]
    assert "agreement" in str(found).splitlines()[0]


def test_a_metric_is_given_output_and_target(inputs: list[Tensor]) -> None:
    module = Mlp()
    cut = dtufc.split(module, after="first")
    codec = dtufc.fit([cut.features(x) for x in inputs])
    data = [(x, module(x).argmax(dim=-1)) for x in inputs[:2]]
    found = codec.evaluate(
        cut,
        data,
        metric=lambda output, target: float((output.argmax(dim=-1) == target).float().mean()),
        qualities=[0.8],
    )
    assert [row.codec for row in found.rows] == ["none", "float16", "int8", "klt"]
    assert found.rows[0].scores == {"score": 1.0}
    assert 0.8 < found.rows[-1].scores["score"] <= 1


def test_a_round_trip_lets_gradients_through_and_a_head_be_tuned(inputs: list[Tensor]) -> None:
    module = Mlp()
    cut = dtufc.split(module, after="first")
    codec = dtufc.fit([cut.features(x) for x in inputs])
    features = cut.features(inputs[0]).requires_grad_(True)
    lost = codec.round_trip(features, quality=0.1)
    decoded = codec.decode_tensor(codec.encode(features.detach(), quality=0.1))
    torch.testing.assert_close(lost.detach(), decoded, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad((3 * lost).sum(), features)
    torch.testing.assert_close(gradient, torch.full_like(features, 3.0))

    target = module(inputs[0]).detach()
    optimizer = torch.optim.SGD(module.second.parameters(), lr=1e-4)
    losses = []
    for _ in range(20):
        loss = nn.functional.mse_loss(module.second(torch.relu(lost.detach())), target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("inplace", [True, False])
def test_a_module_that_works_in_place_changes_no_features(inplace: bool, inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 16), nn.ReLU(inplace=inplace), nn.Linear(16, 3))
    cut = dtufc.split(module, after="0")
    features = cut.features(inputs[0])
    kept = features.clone()
    torch.testing.assert_close(cut.output(features, inputs[0]), module(inputs[0]), rtol=0, atol=0)
    torch.testing.assert_close(features, kept, rtol=0, atol=0)
    torch.testing.assert_close(next(iter(cut.samples(inputs))).features, kept.numpy(), rtol=0, atol=0)
    found = cut.gradient(inputs[0], loss=lambda output: output.sum())
    torch.testing.assert_close(found, (kept > 0) * module.get_submodule("2").get_parameter("weight").sum(dim=0))


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Several(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.inner, self.kind = Inner(kind), kind

    def forward(self, x: Tensor) -> Tensor:
        made = self.inner(x)
        assert isinstance(made, self.kind)
        return made[0] + 2 * made[1]


class Inner(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return Pair(x, x + 1) if self.kind is Pair else self.kind((x, x + 1))


@pytest.mark.parametrize("kind", [tuple, list, Pair])
def test_of_several_tensors_the_first_is_replaced_and_the_kind_stays(kind: Any) -> None:
    x = torch.ones(2, 3)
    cut = dtufc.split(Several(kind), after="inner")
    torch.testing.assert_close(cut.output(torch.zeros(2, 3), x), torch.full((2, 3), 4.0))


@pytest.mark.parametrize("part", [nn.BatchNorm1d(12), nn.Dropout(0.5)])
def test_a_module_in_training_mode_is_an_error(part: nn.Module, inputs: list[Tensor]) -> None:
    module = nn.Sequential(part, nn.Linear(12, 3))
    with pytest.raises(InputError, match=r"0, a \w+, is in training mode"):
        dtufc.split(module, after="1").features(inputs[0])
    module.eval()
    dtufc.split(module, after="1").features(inputs[0])


def test_a_wrong_submodule_is_an_error_that_names_those_like_it() -> None:
    with pytest.raises(InputError, match=r"no submodule 'frist'.*first"):
        dtufc.split(Mlp(), after="frist")


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.named = nn.Linear(4, 4), nn.Linear(4, 4), Named()

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.twice(x)) + self.named(x)["y"]


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x}


@pytest.mark.parametrize(("after", "problem"), [("never", "not called"), ("named", "gives a dict")])
def test_a_submodule_that_gives_no_features_is_an_error(after: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        dtufc.split(Odd(), after=after).features(torch.zeros(2, 4))


def test_a_submodule_that_is_called_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="called 2 times"):
        dtufc.split(Odd(), after="twice").output(torch.zeros(2, 4), torch.zeros(2, 4))


def test_no_data_is_an_error(inputs: list[Tensor]) -> None:
    cut = dtufc.split(Mlp(), after="first")
    codec = dtufc.fit([cut.features(x) for x in inputs])
    with pytest.raises(InputError, match="no sample"):
        codec.evaluate(cut, [])
