"""A learned score for routing: how probably lite is wrong where the full tier would be right.

A head of one hidden layer takes lite's logits, its pooled features and the mask, and learns
what the full tier will say (its whole distribution: each sample then teaches something, while
lite is wrong and full right in few of a hundred). The more of it lies on other classes than
lite's own, the less safe it is to keep lite's answer. One factor in each mode, fitted to how
often full is right where it contradicts, makes that the probability g.

The head is fitted to TRAIN samples and judged on TUNE samples: on other samples of the same
pictures, clips and takes it looks better than it is. There it must beat lite's confidence in
normalised score by more than two standard errors, in each mode by itself; where it does not,
that mode routes by confidence.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Mapping

import numpy as np

from mla_edge.bundle import CONFIDENCE, LEARNED
from mla_edge.exporter.policy import confidence, fit_temperature

HIDDEN = 32
_EPOCHS, _PATIENCE, _BATCH, _RATE, _DECAY, _DROPOUT = 80, 6, 128, 2e-3, 0.1, 0.2
_RUNS = 2  # of which the one that is better on the samples for stopping is taken
_SURE = 2.0  # standard errors by which it must win
_RESAMPLES = 200
_GRID = 64
_FEWEST = 8  # samples that lite spoils; of fewer nothing can be said


@dataclass(frozen=True)
class Rows:
    """What both tiers said in one mode, and how to tell what was held out: [samples, …]."""

    present: np.ndarray  # [n, modalities]
    pooled: np.ndarray  # [n, features]; no features where a graph has none
    lite: np.ndarray  # logits [n, classes]
    full: np.ndarray
    labels: np.ndarray

    @property
    def inputs(self) -> np.ndarray:
        """What the head takes, [n, inputs]."""
        return np.concatenate([self.lite, self.present, self.pooled], 1).astype(np.float32)


@dataclass(frozen=True)
class ScoreHead:
    """The weights of the head, all float32."""

    mean: np.ndarray  # [inputs]
    spread: np.ndarray  # [inputs]
    inner: np.ndarray  # [inputs, hidden]
    inner_bias: np.ndarray  # [hidden]
    outer: np.ndarray  # [hidden, classes]
    outer_bias: np.ndarray  # [classes]
    sharpness: float  # what lite's logits are multiplied by
    share: np.ndarray  # [modalities]: by the mask, how often full is right if it contradicts
    share_bias: float

    def contradiction(self, rows: Rows) -> np.ndarray:
        """The probability that the full tier says another class than lite, [n]."""
        scaled = (rows.inputs - self.mean) / self.spread
        hidden = np.maximum(scaled @ self.inner + self.inner_bias, 0)
        logits = hidden @ self.outer + self.outer_bias + self.sharpness * rows.lite
        odds = np.exp(logits - logits.max(1, keepdims=True))
        chosen = odds[np.arange(len(odds)), rows.lite.argmax(1)]
        return np.asarray(1 - chosen / odds.sum(1))

    def apply(self, rows: Rows) -> np.ndarray:
        """g of each sample, [n]: the probability that lite is wrong and full is right."""
        share = rows.present @ self.share + self.share_bias
        return np.asarray(self.contradiction(rows) * share)

    def to_json(self) -> dict[str, Any]:
        """For a file; ``from_json`` reads it."""
        return {
            name: value if isinstance(value, float) else np.asarray(value).tolist()
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScoreHead:
        """From what ``to_json`` gave; KeyError, TypeError or ValueError if it is not."""

        def array(name: str) -> np.ndarray:
            return np.array(values[name], np.float32)

        return cls(
            mean=array("mean"),
            spread=array("spread"),
            inner=array("inner"),
            inner_bias=array("inner_bias"),
            outer=array("outer"),
            outer_bias=array("outer_bias"),
            sharpness=float(values["sharpness"]),
            share=array("share"),
            share_bias=float(values["share_bias"]),
        )


@dataclass(frozen=True)
class ModeScore:
    """How both scores did in one mode on TUNE samples, and which one routes."""

    score: str  # CONFIDENCE or LEARNED
    thresholds: tuple[float, ...]  # of the learned score, from careful to bold
    confidence: float | None  # normalised scores; None where full never helps
    learned: float | None
    error: float  # the standard error of their difference
    samples: int
    spoiled: int  # of those, lite wrong and full right


def normalised_score(
    keep: np.ndarray, lite_right: np.ndarray, full_right: np.ndarray
) -> float | None:
    """(area of ``keep`` - area of chance) / (area of the oracle - area of chance).

    All are [n]; ``keep`` is higher where it is safer to keep lite's answer. Areas are under
    accuracy against the share that goes on to full. 1 is an oracle that asks full only where
    that helps, 0 is chance. None: full never helps.
    """
    gains = np.asarray(full_right, int) - np.asarray(lite_right, int)

    def area(order: np.ndarray) -> float:
        curve = np.concatenate([[0.0], np.cumsum(gains[order])]) / len(gains)
        return float(np.mean((curve[1:] + curve[:-1]) / 2))

    chance = float(np.mean(gains)) / 2  # a straight line
    oracle = area(np.argsort(-gains, kind="stable"))
    if oracle <= chance:
        return None
    return (area(np.argsort(keep, kind="stable")) - chance) / (oracle - chance)


def fit_score(modes: Mapping[str, Rows], *, seed: int = 0) -> ScoreHead:
    """Fit one head to the samples of every mode. Needs PyTorch."""
    import torch

    rows = list(modes.values())
    inputs = np.concatenate([each.inputs for each in rows])
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-3
    scaled = torch.tensor((inputs - mean) / spread)
    lite = torch.tensor(np.concatenate([each.lite for each in rows]))
    wanted = torch.tensor(np.concatenate([each.full for each in rows])).softmax(1)
    stop = np.random.default_rng(seed).random(len(inputs)) < 0.2  # noqa: PLR2004
    found = [
        _train(scaled, lite, wanted, stop, generator_seed)
        for generator_seed in range(seed, seed + _RUNS)
    ]
    _, best = min(found, key=lambda each: each[0])
    head = ScoreHead(
        mean=mean,
        spread=spread,
        inner=best["inner"].numpy(),
        inner_bias=best["inner_bias"].numpy(),
        outer=best["outer"].numpy(),
        outer_bias=best["outer_bias"].numpy(),
        sharpness=float(best["log_sharpness"].exp()),
        share=np.zeros(rows[0].present.shape[1], np.float32),
        share_bias=1.0,
    )
    return _with_shares(head, rows)


def _train(
    scaled: Any, lite: Any, wanted: Any, stop: np.ndarray, seed: int
) -> tuple[float, dict[str, Any]]:
    """The loss on the samples to ``stop`` by, and the weights where it was least."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    order = np.random.default_rng(seed)
    count, classes = scaled.shape[1], lite.shape[1]
    weights = {
        "inner": torch.randn(count, HIDDEN, generator=draw) / math.sqrt(count),
        "inner_bias": torch.zeros(HIDDEN),
        "outer": torch.zeros(HIDDEN, classes),  # it begins with what lite says
        "outer_bias": torch.zeros(classes),
        "log_sharpness": torch.zeros(()),
    }
    for value in weights.values():
        value.requires_grad_()
    matrices = [weights["inner"], weights["outer"]]
    rest = [value for name, value in weights.items() if name not in ("inner", "outer")]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": _DECAY},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=_RATE,
    )

    def loss(chosen: Any, dropout: float) -> Any:
        hidden = (scaled[chosen] @ weights["inner"] + weights["inner_bias"]).relu()
        if dropout:
            keeps = torch.rand(hidden.shape, generator=draw) >= dropout
            hidden = hidden * keeps / (1 - dropout)
        logits = hidden @ weights["outer"] + weights["outer_bias"]
        logits = logits + lite[chosen] * weights["log_sharpness"].exp()
        return -(wanted[chosen] * logits.log_softmax(1)).sum(1).mean()

    learns, watched = np.flatnonzero(~stop), torch.tensor(np.flatnonzero(stop))
    least, best, since = math.inf, {}, 0  # type: tuple[float, dict[str, Any], int]
    for _ in range(_EPOCHS):
        order.shuffle(learns)
        for first in range(0, len(learns), _BATCH):
            optimizer.zero_grad()
            loss(torch.tensor(learns[first : first + _BATCH]), _DROPOUT).backward()
            optimizer.step()
        with torch.no_grad():
            found = float(loss(watched, 0.0))
        since += 1
        if found < least:
            least, since = found, 0
            best = {name: value.detach().clone() for name, value in weights.items()}
        if since > _PATIENCE:
            break
    return least, best


def _with_shares(head: ScoreHead, rows: list[Rows]) -> ScoreHead:
    """``head`` with the factor that makes each mode's mean g what was counted there."""
    masks, factors = [], []
    for mode in rows:
        spoiled = _right(mode.full, mode.labels) & ~_right(mode.lite, mode.labels)
        expected = float(head.contradiction(mode).mean())
        factors.append(min(1.0, max(0.01, float(spoiled.mean()) / max(expected, 1e-6))))
        masks.append(np.append(mode.present[0], 1.0))
    found, *_ = np.linalg.lstsq(np.array(masks), np.array(factors), rcond=None)
    return dataclasses.replace(
        head, share=found[:-1].astype(np.float32), share_bias=float(found[-1])
    )


def judge_score(head: ScoreHead, mode: Rows, *, seed: int = 0) -> ModeScore:
    """Compare the learned score with confidence on samples of ``mode`` that fitted nothing."""
    temperature = fit_temperature(mode.lite, mode.labels)
    lite, full = _right(mode.lite, mode.labels), _right(mode.full, mode.labels)
    sure, safe = confidence(mode.lite, temperature), 1 - head.apply(mode)
    ours, theirs = normalised_score(safe, lite, full), normalised_score(sure, lite, full)
    spoiled = int(np.sum(full & ~lite))
    rng, differences = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES if spoiled >= _FEWEST else 0):
        again = rng.integers(len(lite), size=len(lite))
        one = normalised_score(safe[again], lite[again], full[again])
        other = normalised_score(sure[again], lite[again], full[again])
        if one is not None and other is not None:
            differences.append(one - other)
    error = float(np.std(differences)) if differences else math.inf
    wins = ours is not None and theirs is not None and ours - theirs > _SURE * error
    return ModeScore(
        LEARNED if wins else CONFIDENCE,
        grid_of(safe) if wins else (),
        theirs,
        ours,
        error if differences else 0.0,
        len(lite),
        spoiled,
    )


def grid_of(keep: np.ndarray) -> tuple[float, ...]:
    """Thresholds from careful to bold that keep evenly more of the samples, and at last all."""
    shares = np.linspace(1, 0, _GRID + 1)[1:]
    grid = np.unique(np.quantile(keep, shares))[::-1]
    return tuple(float(each) for each in grid)


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(logits.argmax(1) == labels)
