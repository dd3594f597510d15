"""Initial weights: of ViT-like blocks, as MAE and AudioMAE set them, and those of PyTorch.

| parameter | value |
|---|---|
| weights of linear layers, qkv as one matrix | Xavier uniform |
| patch convolutions | Xavier uniform over [out, in * kernel] |
| biases | 0 |
| LayerNorm | weight 1, bias 0 |
| CLS and mask tokens | normal, std 0.02 |
"""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def check_widths(block: str, **widths: int) -> None:
    """Raise ValueError unless all widths of a block are 1 or more: PyTorch makes layers without
    outputs, which learn nothing."""
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"{name} of a {block} must be 1 or more, found {width}")


def init_layers(module: nn.Module) -> None:
    """Set every linear layer, patch convolution and LayerNorm inside ``module``."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            nn.init.xavier_uniform_(layer.weight.data.view(layer.weight.shape[0], -1))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def init_token(token: Tensor) -> None:
    """Set a learned CLS or mask token."""
    nn.init.normal_(token, std=0.02)


def init_as_torch(module: nn.Module) -> None:
    """Set every layer inside ``module`` as PyTorch does when it makes one: uniform within
    1 / sqrt(inputs) for weights and biases, norms 1 and 0, running statistics 0 and 1."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, _BatchNorm)):
            layer.reset_parameters()
