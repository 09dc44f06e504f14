"""Make the pictures of the documents: ``python scripts/render_pictures.py [--bundle DIR]``.

The page of ``mla-edge run --web`` on the simulator, in a headless Chromium
(``sudo apt-get install chromium-driver``), at the moment of a spoken digit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "runtime"))

from browser import CHROMIUM, DRIVER, open_browser  # noqa: E402

OUT = ROOT / "docs" / "pictures"
SOURCE = "sim://digits?gap_s=2&noise_db=20"
SCREENS = {
    "watch-desktop.png": (1280, 1000, "dark", 1, False),
    "watch-phone.png": (390, 844, "light", 1, True),
}
SEEN = (
    "last && last.picture && last.sound && rows.length > 600"
    " && last.decision && last.decision.label !== 'none'"
)


def main() -> int:
    """Run, look, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "digits-host")
    args = parser.parse_args()
    if not (CHROMIUM and DRIVER):
        print("no Chromium: sudo apt-get install chromium-driver", file=sys.stderr)
        return 3
    command = [sys.executable, "-m", "mla_edge", "run", "--bundle", str(args.bundle)]
    command += ["--camera", SOURCE, "--mic", SOURCE, "--web", "0", "--duration", "300"]
    OUT.mkdir(exist_ok=True)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            url = next(m[0] for m in map(re.compile(r"http://\S+").search, run.stderr) if m)
            for name, (width, height, theme, scale, is_mobile) in SCREENS.items():
                with open_browser() as browser:
                    browser.look_like(width, height, theme, scale, is_mobile)
                    browser.open(url)
                    browser.wait(SEEN, 60)
                    (OUT / name).write_bytes(browser.screenshot())
        finally:
            run.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
