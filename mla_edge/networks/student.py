"""A student that begins with what its teacher knows.

It is a network of the same family with fewer blocks, fewer stages and narrower layers.
"""

from __future__ import annotations

from mla_edge.networks.encoders import EncoderConfig
from mla_edge.networks.multimodal import MultimodalNetwork


def inherit(student: MultimodalNetwork, teacher: MultimodalNetwork) -> None:
    """Copy every weight that has its place in both; where the student is narrower, the first.

    Which channels a narrower layer gets is no choice: they are the same ones in the layer that
    makes them and in the one that takes them, and all is taught anew. Raises ValueError where
    the student is wider than its teacher.
    """
    known = teacher.state_dict()
    own = student.state_dict()
    for name, value in own.items():
        source = known.get(_teachers(name, student, teacher))
        if source is None:
            continue
        if any(size > whole for size, whole in zip(value.shape, source.shape)):
            raise ValueError(f"{name}: {tuple(value.shape)} of {tuple(source.shape)}")
        value.copy_(source[tuple(slice(size) for size in value.shape)])


def _teachers(name: str, student: MultimodalNetwork, teacher: MultimodalNetwork) -> str:
    """What the teacher calls the student's weight ``name``; stages are numbered anew."""
    parts = name.split(".")
    if parts[0] != "encoders" or parts[2] != "stages":
        return name
    of_student, of_teacher = (
        _stages(network.encoders[parts[1]].config)  # type: ignore[arg-type]
        for network in (student, teacher)
    )
    stage = of_student[int(parts[3])]
    if stage not in of_teacher:
        return ""
    return ".".join([*parts[:3], str(of_teacher.index(stage)), *parts[4:]])


def _stages(config: EncoderConfig) -> list[tuple[str, int]]:
    """What each entry of an encoder's ``stages`` is."""
    stages = []
    for i, inner in enumerate(config.inner):
        stages.append(("convolution", i))
        if inner:
            stages.append(("residual", i))
    return [*stages, ("collapse", 0)]
