"""Fake file trees of Jetson boards, in the forms that L4T writes."""

L4T = {
    "4": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64\n",
    "5": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "6": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
}
TENSORRT = {
    "5": ("libnvinfer8", "8.5.2-1+cuda11.4"),
    "6": ("libnvinfer10", "10.3.0.30-1+cuda12.5"),
}


def make_board(
    root, *, compatible, boardids="", model="", jetpack="6", memory_kb, modes=(), mode=None
):
    """Write the files of a board under ``root`` and return it."""

    def write(name, text):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    write("proc/device-tree/compatible", "".join(f"{name}\0" for name in compatible))
    write("sys/firmware/devicetree/base/model", f"{model}\0")
    if boardids:
        write("proc/device-tree/nvidia,boardids", f"{boardids}\0")
    if jetpack in L4T:
        write("etc/nv_tegra_release", L4T[jetpack])
    if jetpack in TENSORRT:
        package, version = TENSORRT[jetpack]
        write(
            "var/lib/dpkg/status",
            "Package: libnvinfer-bin\nVersion: 0.0\n\n"
            f"Package: {package}\nStatus: install ok installed\nVersion: {version}\n\n",
        )
    write("proc/meminfo", f"MemTotal:       {memory_kb} kB\nMemFree:        1 kB\n")
    if modes:
        lines = [
            f"< POWER_MODEL ID={i} NAME={name} >\nGPU MAX_FREQ -1\n"
            for i, name in enumerate(modes)
        ]
        write("etc/nvpmodel.conf", "# POWER_MODEL DEFINITIONS #\n" + "".join(lines))
    if mode is not None:
        write("var/lib/nvpmodel/status", f"pmode:{mode:04d} fmode:fanNull\n")
    return root


def make_agx_xavier(root):
    """An AGX Xavier 32 GB in its default power mode."""
    return make_board(
        root,
        compatible=["nvidia,p2972-0000", "nvidia,tegra194"],
        boardids="2888-0400-0004-300-0-001-E",
        model="Jetson-AGX",
        jetpack="5",
        memory_kb=31_918_000,
        modes=[
            "MAXN",
            "MODE_10W",
            "MODE_15W",
            "MODE_30W_ALL",
            "a",
            "b",
            "c",
            "MODE_15W_DESKTOP",
        ],
        mode=7,
    )
