import numpy as np
import pytest

from mla_edge.exporter.latency_table import LatencyTable, allowed_widths
from mla_edge.exporter.width_search import (
    cheapest_widths,
    find_uniform,
    find_widths,
    uniform_widths,
)

WHOLE = {"vital": 64, "idle": 64, "heads": 4, "slow": 64}
OPTIONS = {
    group: allowed_widths(width, 1 if group == "heads" else 16)
    for group, width in WHOLE.items()
}
PER_WIDTH_MS = {"vital": 0.01, "idle": 0.01, "heads": 0.1, "slow": 0.01}
TABLE = LatencyTable(
    tier="full",
    precision="int8",
    measured_on="nowhere",
    threads=1,
    whole_ms=4.0,
    rows={
        group: {width: width * PER_WIDTH_MS[group] for width in widths}
        for group, widths in OPTIONS.items()
    },
)
PARTS = {
    "vital": "linear widths",
    "idle": "linear widths",
    "heads": "attention heads",
    "slow": "convolution widths",
}
LOSSES = {
    group: {w: (WHOLE[group] - w) * (5.0 if group == "vital" else 0.01) for w in widths}
    for group, widths in OPTIONS.items()
}


class Machine:
    """A processor whose graphs take what a formula says, and a little noise."""

    def __init__(self, real_ms, noise_ms=0.001):
        self.real_ms, self.noise_ms = real_ms, noise_ms
        self.random = np.random.default_rng(0)
        self.asked = []

    def time(self, choices, sessions):
        self.asked.append(dict(choices))
        drift = self.random.normal(0, self.noise_ms, sessions)
        return {
            name: self.real_ms(widths) + drift + self.random.normal(0, self.noise_ms, sessions)
            for name, widths in {"": WHOLE, **choices}.items()
        }


def as_the_table_says(widths):
    return TABLE.predict(widths)


def test_it_cuts_what_is_not_missed_and_meets_the_goal():
    found = find_widths(TABLE, LOSSES, PARTS, 3.2, Machine(as_the_table_says).time)
    assert found.chosen.widths["vital"] == 64
    assert found.chosen.measured_ms <= 3.2
    assert found.chosen.predicted_ms == pytest.approx(found.chosen.measured_ms, abs=0.01)
    assert found.undone == ()
    assert found.chosen.loss == pytest.approx(
        sum(LOSSES[group][width] for group, width in found.chosen.widths.items())
    )


def test_what_the_table_gets_wrong_is_corrected_by_measuring():
    def real_ms(widths):  # only 0.7 of what the table promises is saved
        return 4.0 - 0.7 * (4.0 - TABLE.predict(widths))

    found = find_widths(TABLE, LOSSES, PARTS, 3.2, Machine(real_ms).time)
    assert found.chosen.measured_ms <= 3.2
    assert found.chosen.predicted_ms < 3.0
    assert found.attempts[0].measured_ms > 3.2
    assert len(found.attempts) > 1


def test_a_machine_that_became_slower_changes_nothing():
    quick = find_widths(TABLE, LOSSES, PARTS, 3.2, Machine(as_the_table_says).time)
    slow = find_widths(
        TABLE, LOSSES, PARTS, 3.2, Machine(lambda widths: 2 * TABLE.predict(widths), 0.002).time
    )
    assert slow.chosen.widths == quick.chosen.widths
    assert slow.chosen.measured_ms == pytest.approx(quick.chosen.measured_ms, abs=0.01)


def test_cuts_that_save_nothing_in_the_whole_graph_are_rolled_back():
    def real_ms(widths):
        return TABLE.predict({**widths, "slow": WHOLE["slow"]})

    found = find_widths(TABLE, LOSSES, PARTS, 3.4, Machine(real_ms).time)
    assert [cut.what for cut in found.undone] == ["convolution widths"]
    assert found.undone[0].saved_ms <= found.undone[0].noise_ms
    assert found.chosen.widths["slow"] == 64
    assert found.chosen.measured_ms <= 3.4


def test_cuts_that_only_count_together_stay():
    def real_ms(widths):  # any one part may be whole again, and the graph is as fast
        return 4.0 if sum(widths[group] < WHOLE[group] for group in WHOLE) < 2 else 3.0

    found = find_widths(TABLE, LOSSES, PARTS, 3.1, Machine(real_ms).time)
    assert found.chosen.measured_ms <= 3.1
    assert found.undone == ()


def test_a_goal_that_nothing_reaches_gives_none():
    least = TABLE.predict(cheapest_widths(TABLE))
    assert (
        find_widths(TABLE, LOSSES, PARTS, least - 0.1, Machine(as_the_table_says).time) is None
    )
    assert find_widths(TABLE, LOSSES, PARTS, least + 0.05, Machine(as_the_table_says).time)


def test_uniform_widths_are_those_of_a_ratio():
    assert uniform_widths(WHOLE, ["heads"], 0.5, 16) == {
        "vital": 32,
        "idle": 32,
        "heads": 2,
        "slow": 32,
    }
    assert uniform_widths({"odd": 24}, [], 0.9, 16) == {"odd": 24}


def test_the_uniform_network_is_the_least_pruned_that_meets_the_goal():
    machine = Machine(as_the_table_says)
    share, attempt = find_uniform(TABLE, ["heads"], 16, 3.2, machine.time)
    assert attempt.measured_ms <= 3.2
    assert attempt.widths == uniform_widths(WHOLE, ["heads"], share, 16)
    more = uniform_widths(WHOLE, ["heads"], share + 1 / 64, 16)
    assert more == attempt.widths or TABLE.predict(more) > 3.2 - 0.01
    assert find_uniform(TABLE, ["heads"], 16, 1.0, machine.time) is None


def test_a_noisy_clock_never_makes_nothing_pruned_the_answer():
    def time(choices, sessions):  # whatever is timed after the whole seems to reach the goal
        return {
            "": np.full(sessions, 4.0),
            **{name: np.full(sessions, 3.1) for name in choices},
        }

    share, attempt = find_uniform(TABLE, ["heads"], 16, 3.2, time)
    assert share < 1.0
    assert attempt.widths != WHOLE
    # Now there seems to be room for everything: the next choice would be the whole network.
    found = find_widths(TABLE, LOSSES, PARTS, 3.9, time)
    assert found.chosen.widths != WHOLE
    assert all(attempt.widths != WHOLE for attempt in found.attempts)
