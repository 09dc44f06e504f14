import copy
import dataclasses
import itertools

import numpy as np
import torch
from torch import nn

from mla_edge.exporter.distillation import distil, logits_of
from mla_edge.exporter.recipe import DistillationRecipe

QUICK = DistillationRecipe(samples=64, steps=80, batch=16, learning_rate=5e-3)


def pair():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    student = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    random = np.random.default_rng(0)
    return (
        student,
        teacher,
        [{"x": random.normal(size=(1, 6)).astype(np.float32)} for _ in range(64)],
    )


def agreement(student, teacher, samples):
    answers = [logits_of(m, samples, ("x",)).argmax(1) for m in (student, teacher)]
    return float((answers[0] == answers[1]).float().mean())


def test_the_student_comes_to_agree_with_the_teacher():
    student, teacher, samples = pair()
    before = agreement(student, teacher, samples)
    taught = distil(student, teacher, samples, ("x",), QUICK)
    assert taught.steps == 80
    assert taught.kept
    assert taught.last_loss < taught.first_loss / 2
    assert agreement(student, teacher, samples) > max(before, 0.85)
    assert not student.training
    assert all(p.grad is None and not p.requires_grad for p in student.parameters())


class OneAtATime(nn.Module):
    """What a network may be written for: a batch of one."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x.view(1, 6))


def test_a_network_for_one_sample_at_a_time_learns_the_same():
    learned = []
    for wrap in (lambda body: body, OneAtATime):
        student, teacher, samples = pair()
        recipe = dataclasses.replace(QUICK, steps=10)
        taught = distil(wrap(student), wrap(teacher), samples, ("x",), recipe)
        learned.append(taught.last_loss)
        assert taught.kept
    np.testing.assert_allclose(*learned, rtol=1e-3)


def test_it_ends_at_its_time_limit():
    student, teacher, samples = pair()
    clock = itertools.count(0.0, 10.0).__next__
    taught = distil(student, teacher, samples, ("x",), QUICK, clock=clock)
    assert taught.steps < 10
    assert taught.seconds > QUICK.time_limit_s


def test_equal_seeds_give_equal_weights():
    weights = []
    for _ in range(2):
        student, teacher, samples = pair()
        distil(student, teacher, samples, ("x",), QUICK, seed=3)
        weights.append(student[0].weight.detach().clone())
    assert torch.equal(*weights)


def test_one_that_makes_the_student_worse_is_undone():
    _, teacher, samples = pair()
    twin = copy.deepcopy(teacher)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    wild = DistillationRecipe(samples=64, steps=5, batch=16, learning_rate=0.5)
    taught = distil(twin, teacher, samples, ("x",), wild)
    assert not taught.kept
    assert taught.last_loss >= taught.first_loss == 0.0
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())
