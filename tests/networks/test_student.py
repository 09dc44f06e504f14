"""A student begins with what its teacher knows, and is trained by it."""

import json

import pytest
import torch
from data_folder import make_data_folder
from safetensors import safe_open

from mla_edge.errors import ConfigError
from mla_edge.networks import commands as commands_module
from mla_edge.networks import digits as digits_module
from mla_edge.networks import train
from mla_edge.networks.checkpoint import load_weights, save_weights
from mla_edge.networks.student import inherit


@pytest.mark.parametrize("networks", [digits_module, commands_module])
def test_what_has_its_place_in_both_is_the_teachers(networks):
    teacher, student = networks.make_full(), networks.make_student()
    inherit(student, teacher)
    known = teacher.state_dict()
    name = student.names[0]
    for own, whole in (
        (f"encoders.{name}.blocks.0.attention.local.query.weight",) * 2,
        (f"encoders.{name}.position",) * 2,
        ("encoders.audio.stages.2.0.weight", "encoders.audio.stages.3.0.weight"),  # 32 → 80
        ("bridge.layers.0.cross.key.weight",) * 2,
    ):
        value = student.state_dict()[own]
        assert torch.equal(value, known[whole][tuple(slice(n) for n in value.shape)]), own


def test_a_student_that_knows_as_much_answers_like_its_teacher():
    teacher, same = digits_module.make_full().eval(), digits_module.make_full().eval()
    inherit(same, teacher)
    inputs = torch.rand(1, 3, 128, 128) * 255, torch.randn(1, 8000), torch.ones(1, 2)
    with torch.no_grad():
        assert torch.equal(same(*inputs), teacher(*inputs))


def test_a_wider_student_is_refused():
    with pytest.raises(ValueError, match=r"\(24, 3, 3, 3\) of \(16, 3, 3, 3\)"):
        inherit(digits_module.make_full(), digits_module.make_student())


def test_single_stages_go_on_from_earlier_weights(tmp_path, one_thread, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    make_data_folder(folder)
    torch.manual_seed(0)
    before = {"full": digits_module.make_full(), "lite": digits_module.make_lite()}
    start, out = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    save_weights(before, start, {"made": "long ago"})  # as it was before there were students
    words = ["digits", "--data", str(folder), "--out", str(out), "--threads", "1"]
    words += ["--effort", "0.0067", "--start", str(start)]
    assert train.main([*words, "--stages", "stundent"]) == 2
    assert "no stage 'stundent'" in capsys.readouterr().err
    assert train.main([*words, "--stages", "student"]) == 0
    said = capsys.readouterr().err
    assert "student 20/20" in said
    assert "image" not in said
    after = {"full": digits_module.make_full(), "full-student": digits_module.make_student()}
    load_weights(out, after, "digits")
    whole = before["full"].half().state_dict()
    assert all(torch.equal(v.half(), whole[k]) for k, v in after["full"].state_dict().items())
    with safe_open(out, "pt") as file:
        about = file.metadata()
    assert json.loads(about["plan"])["stages"][-1]["name"] == "student"
    assert about["stages"] == "student"
    assert json.loads(about["started_from"]) == {"made": "long ago"}


def test_weights_without_a_student_are_no_network(tmp_path):
    path = tmp_path / "old.safetensors"
    save_weights(
        {"full": digits_module.make_full(), "lite": digits_module.make_lite()}, path, {}
    )
    with pytest.raises(ConfigError, match="not weights of this network"):
        digits_module.digits(weights=path)
