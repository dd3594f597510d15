"""The transformer's switches: recomputed activations, drop path, initial weights."""

import math

import pytest
import torch

from avssl.blocks.transformer import Transformer


def make(**arguments: float) -> Transformer:
    torch.manual_seed(0)
    block = Transformer(width=32, depth=2, heads=4, **arguments)  # type: ignore[arg-type]
    block.init_weights()
    return block


def gradients(block: Transformer, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(3)
    block.zero_grad()
    block(x).square().sum().backward()
    return [parameter.grad for parameter in block.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_recomputed_activations_change_no_gradient(drop_path: float) -> None:
    block, x = make(drop_path=drop_path), torch.randn(4, 5, 32)
    expected = gradients(block, x)
    block.checkpoint_activations = True
    found = gradients(block, x)
    assert len(found) == len(expected) == len(list(block.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_recomputed_activations_keep_fewer_tensors() -> None:
    block, x = make(), torch.randn(4, 5, 32, requires_grad=True)

    def stored() -> int:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            block(x)
        return count

    everything = stored()
    block.checkpoint_activations = True
    assert stored() < everything / 4


def test_recomputed_activations_compile_without_a_break() -> None:
    torch.compiler.reset()
    block, x = make(), torch.randn(4, 5, 32)
    block.checkpoint_activations = True
    expected = gradients(block, x)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    found = gradients(compiled, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_drop_path_rises_linearly_and_keeps_the_mean() -> None:
    block = Transformer(width=32, depth=3, heads=4, drop_path=0.3)
    assert [layer.drop_path for layer in block.blocks] == pytest.approx([0, 0.15, 0.3])
    torch.manual_seed(0)
    branch = block.blocks[2]._drop(torch.ones(20000, 1, 1))
    assert set(branch.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs(branch.mean().item() - 1) < 0.03
    assert torch.equal(block.eval().blocks[2]._drop(torch.ones(5, 1, 1)), torch.ones(5, 1, 1))


def test_initial_weights_are_xavier_uniform_with_zero_biases() -> None:
    block = make()
    qkv = block.blocks[0].attn.qkv
    bound = math.sqrt(6 / (32 + 96))  # one matrix for query, key and value
    assert 0.95 * bound < qkv.weight.abs().max() <= bound
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones(32)), name


def test_width_must_divide_into_heads() -> None:
    with pytest.raises(ValueError, match="width 10 is no multiple of heads 4"):
        Transformer(width=10, depth=1, heads=4)
