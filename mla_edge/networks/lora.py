"""Low-rank adapters on linear layers (Hu et al. 2021, LoRA), merged before export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


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


def add_lora(
    network: nn.Module,
    *,
    rank: int = 4,
    scale: float = 8.0,
    where: Callable[[str], bool] = lambda name: True,
) -> int:
    """Freeze ``network`` and adapt its linear layers whose name passes ``where``.

    Returns the number of trainable parameters.
    """
    network.requires_grad_(False)
    linears = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and where(name)
    ]
    for name, linear in linears:
        _replace(network, name, LoRALinear(linear, rank, scale))
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def merge_lora(network: nn.Module) -> nn.Module:
    """Replace every adapted layer of ``network`` by the plain layer it amounts to."""
    if isinstance(network, LoRALinear):
        return network.merged().train(network.training)
    every = network.named_modules(remove_duplicate=False)
    adapted = [(n, m) for n, m in every if isinstance(m, LoRALinear)]
    for name, module in adapted:
        _replace(network, name, module.merged().train(module.training))
    return network


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
