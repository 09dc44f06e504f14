"""Options that several commands have."""

from pathlib import Path
from typing import Optional

import typer
from typing_extensions import Annotated

Camera = Annotated[
    str,
    typer.Option(
        help="0, /dev/video0, csi://0, rtsp://…, http://…, a file, sim://digits, or none."
    ),
]
Mic = Annotated[
    str, typer.Option(help="default, a name or index, a WAV file, sim://digits, or none.")
]
Bundle = Annotated[
    Optional[Path],
    typer.Option(help="What export wrote; default: the newest that fits this machine."),
]
Duration = Annotated[
    Optional[float],
    typer.Option(min=0.001, help="Stop after so many seconds, of the files if fast."),
]
Rate = Annotated[
    Optional[float],
    typer.Option(
        min=0.001, help="Decide so many times a second, instead of on each new frame."
    ),
]
MaxAge = Annotated[
    float, typer.Option(min=1.0, help="Leave out a modality whose newest signal is older.")
]
MaskSuspect = Annotated[
    bool,
    typer.Option(
        "--mask-suspect",
        help="Leave out frozen or black pictures and silent or clipping sound, not only "
        "say so.",
    ),
]
Deadline = Annotated[
    Optional[float],
    typer.Option(
        min=0.001,
        help="Answer so many ms after the capture: with lite, where full would be late.",
    ),
]
Reuse = Annotated[
    Optional[float],
    typer.Option(
        min=0.001,
        help="Repeat a sure decision for so many ms while picture and sound stay as they are.",
    ),
]
AuditRate = Annotated[
    Optional[float],
    typer.Option(
        min=0.0, max=1.0, help="Put this share of what full did not answer to full as well."
    ),
]
Threads = Annotated[
    Optional[int],
    typer.Option(min=0, help="Of each engine, 0 for every core; default: the profile's."),
]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the graphs: auto (TensorRT if built here), onnxruntime, tensorrt, "
        "ort-tensorrt or ort-cuda."
    ),
]
Web = Annotated[
    Optional[int],
    typer.Option(
        min=0,
        max=65535,
        metavar="[PORT]",
        help="Show it in a browser on this machine, at http://127.0.0.1:8765 or PORT.",
    ),
]
AsFastAsPossible = Annotated[
    bool,
    typer.Option(
        "--as-fast-as-possible", help="Do not play files and simulators at their own pace."
    ),
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print a JSON object a line, the summary last.")
]
