"""Low-rank adapters (Hu et al. 2021, LoRA) of linear layers and convolutions, to be merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Union

import torch
from torch import Tensor, nn
from torch.nn import functional

LINEAR: tuple[type[nn.Module], ...] = (nn.Linear,)
LINEAR_AND_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable update: W x + (scale / rank) · B A x."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        """B starts at zero, so that the adapted layer starts as ``base``."""
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.factor = scale / rank

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self.base(x) + (x @ self.down.T @ self.up.T) * self.factor

    def merged(self) -> nn.Linear:
        """One plain linear layer that computes the same."""
        base = self.base
        plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
        with torch.no_grad():
            plain.weight.copy_(base.weight + self.factor * self.up @ self.down)
            if base.bias is not None:
                plain.bias.copy_(base.bias)
        return plain


class LoRAConv2d(nn.Module):
    """As ``LoRALinear``, for the kernel as a matrix [out, in · height · width]."""

    def __init__(self, base: nn.Conv2d, rank: int, scale: float) -> None:
        """B starts at zero, so that the adapted layer starts as ``base``."""
        super().__init__()
        self.base = base.requires_grad_(False)
        inner = base.weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inner) * inner**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_channels, rank))
        self.factor = scale / rank

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, height, width] → [B, out, …]."""
        base = self.base
        # The sum of both is one convolution, which is cheaper than two.
        return functional.conv2d(
            x, self._weight(), base.bias, base.stride, base.padding, base.dilation
        )

    def merged(self) -> nn.Conv2d:
        """One plain convolution that computes the same."""
        base = self.base
        plain = nn.Conv2d(
            base.in_channels,
            base.out_channels,
            base.kernel_size,  # type: ignore[arg-type]
            stride=base.stride,  # type: ignore[arg-type]
            padding=base.padding,  # type: ignore[arg-type]
            dilation=base.dilation,  # type: ignore[arg-type]
            bias=base.bias is not None,
        )
        with torch.no_grad():
            plain.weight.copy_(self._weight())
            if base.bias is not None and plain.bias is not None:
                plain.bias.copy_(base.bias)
        return plain

    def _weight(self) -> Tensor:
        base = self.base.weight
        return base + self.factor * (self.up @ self.down).view_as(base)


ADAPTED = (LoRALinear, LoRAConv2d)
_Adaptable = Union[nn.Linear, nn.Conv2d]


def add_lora(
    network: nn.Module,
    *,
    rank: int = 4,
    scale: float = 8.0,
    where: Callable[[str], bool] = lambda name: True,
    kinds: tuple[type[nn.Module], ...] = LINEAR,
) -> int:
    """Freeze ``network`` and adapt its layers of ``kinds`` whose name passes ``where``.

    No layer gets a higher rank than it has itself. Returns the number of trainable parameters.
    """
    network.requires_grad_(False)
    for name, layer in list(_adaptable(network, where, kinds)):
        if isinstance(layer, nn.Linear):
            _replace(network, name, LoRALinear(layer, _rank(layer, rank), scale))
        else:
            _replace(network, name, LoRAConv2d(layer, _rank(layer, rank), scale))
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def lora_size(
    network: nn.Module,
    *,
    rank: int,
    where: Callable[[str], bool] = lambda name: True,
    kinds: tuple[type[nn.Module], ...] = LINEAR,
) -> int:
    """How many parameters ``add_lora`` would make trainable."""
    return sum(
        _rank(layer, rank) * (layer.weight.shape[0] + layer.weight[0].numel())
        for _, layer in _adaptable(network, where, kinds)
    )


def merge_lora(network: nn.Module) -> nn.Module:
    """Replace every adapted layer of ``network`` by the plain layer it amounts to."""
    if isinstance(network, ADAPTED):
        return network.merged().train(network.training)
    every = network.named_modules(remove_duplicate=False)
    adapted = [(n, m) for n, m in every if isinstance(m, ADAPTED)]
    for name, module in adapted:
        _replace(network, name, module.merged().train(module.training))
    return network


def _adaptable(
    network: nn.Module, where: Callable[[str], bool], kinds: tuple[type[nn.Module], ...]
) -> Iterator[tuple[str, _Adaptable]]:
    for name, module in network.named_modules():
        if not name or not isinstance(module, kinds) or not where(name):
            continue
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            if module.padding_mode == "zeros":
                yield name, module
        elif isinstance(module, nn.Linear):
            yield name, module


def _rank(layer: _Adaptable, rank: int) -> int:
    return min(rank, layer.weight.shape[0], layer.weight[0].numel())


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
