"""A board that grows warm as it works: a heat sink of the first order, and the files of sysfs.

What lite and full draw, how many degrees a watt leaves in the end and how fast are settings;
the zone says half degrees with noise, as boards do.
"""

import math
import random

from mla_edge.runtime.guard import Seen

ZONE = "sys/class/thermal/thermal_zone0"
RAIL = "sys/class/hwmon/hwmon1"
THROTTLES_C = 99.0


class WarmBoard:
    """Files under ``root``, and the physics behind them."""

    def __init__(
        self, root, *, ambient_c=71.0, k_per_w=2.0, tau_s=60.0, lite_w=8.0, full_w=18.0
    ):
        self.root = root
        self.ambient_c, self._k_per_w, self._tau_s = ambient_c, k_per_w, tau_s
        self._lite_w, self._full_w = lite_w, full_w
        self.power_w = lite_w
        self.temperature_c = ambient_c + k_per_w * lite_w
        self.now_s = 0.0
        self._chance = random.Random(0)
        for name, text in {
            f"{ZONE}/type": "cpu-thermal",
            f"{ZONE}/trip_point_0_type": "critical",
            f"{ZONE}/trip_point_0_temp": "104500",
            f"{ZONE}/trip_point_1_type": "passive",
            f"{ZONE}/trip_point_1_temp": f"{THROTTLES_C * 1e3:.0f}",
            f"{RAIL}/name": "ina3221",
            f"{RAIL}/in1_label": "VDD_IN",
            f"{RAIL}/in1_input": "5000",
        }.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        self.write()

    def clock(self):
        return self.now_s

    def look(self):
        """What a reading of it gives."""
        noisy_c = self.temperature_c + self._chance.gauss(0, 0.3)
        noisy_w = self.power_w + self._chance.gauss(0, 0.3)
        return Seen({"cpu-thermal": round(2 * noisy_c) / 2}, round(noisy_w, 2))

    def write(self):
        """Put a reading into the files."""
        seen = self.look()
        milli_c = seen.temperatures_c["cpu-thermal"] * 1e3
        (self.root / ZONE / "temp").write_text(f"{milli_c:.0f}\n")
        (self.root / RAIL / "curr1_input").write_text(f"{seen.power_w / 5 * 1e3:.0f}\n")

    def second(self, guard=None, *, rate_hz=30, wanted=1.0):
        """A second of decisions, of which full is ``wanted`` for a share; the share it got."""
        asked = sum(self._chance.random() < wanted for _ in range(rate_hz))
        got = asked
        if guard is not None:
            guard.take(self.look())
            got = sum(not guard.refusal() for _ in range(asked))
        self.power_w = self._lite_w + (self._full_w - self._lite_w) * got / rate_hz
        settles_c = self.ambient_c + self._k_per_w * self.power_w
        self.temperature_c += (settles_c - self.temperature_c) * (
            1 - math.exp(-1 / self._tau_s)
        )
        self.now_s += 1.0
        return got / rate_hz
