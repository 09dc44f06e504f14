"""What training minimises. Shapes: B batch, C channels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def classified(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy of [B, classes] with smoothed labels [B], and the share that is right."""
    logits = logits.float()
    loss = functional.cross_entropy(logits, labels, label_smoothing=0.05)
    return loss, float((logits.argmax(1) == labels).float().mean())


def aligned(left: Tensor, right: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss between two modalities' unit vectors, [B, C] each.

    InfoNCE (van den Oord et al. 2018) with soft targets over all samples of the class, since a
    batch of 64 holds each class several times: equal classes are positives.
    """
    scores = left @ right.T / temperature
    same = (labels[:, None] == labels[None]).float()
    target = same / same.sum(1, keepdim=True)
    return functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)


def distilled(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Hinton et al. 2015: divergence of softened outputs, scaled by the temperature squared."""
    return (
        functional.kl_div(
            (student / temperature).log_softmax(1),
            (teacher / temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )
