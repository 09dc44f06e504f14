"""Memory and order on the GPU, on a fake that forgives nothing."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from mla_edge.errors import InferenceError


@pytest.fixture
def cuda(fakes):
    """The module on a fake GPU of its own memory, and of shared memory."""

    def load(**device):
        fakes.use("10.3", **device)
        return importlib.import_module("mla_edge.engines.cuda")

    return load


def test_the_gpu_is_read_without_a_context(cuda, fakes):
    found = cuda(NAME="Orin (nvgpu)", SM=87, SM_COUNT=14, INTEGRATED=True).read_gpu()
    assert (found.name, found.sm, found.sm_count) == ("Orin (nvgpu)", 87, 14)
    assert found.integrated
    assert found.memory_mb == 30000
    assert fakes.machine.stack == []


def test_without_a_gpu_both_ways_say_so(cuda):
    module = cuda(PRESENT=False)
    with pytest.raises(InferenceError, match="no GPU that can be used: .*no CUDA-capable") as e:
        module.read_gpu()
    assert e.value.hint == "mla-edge doctor"
    with pytest.raises(InferenceError, match="the GPU cannot be used: .*no CUDA-capable"):
        module.Gpu()


def test_without_pycuda_the_fix_is_named():
    code = """if 1:
        import sys
        sys.modules["pycuda"] = None
        from mla_edge.errors import MissingDependency
        try:
            import mla_edge.engines.cuda
        except MissingDependency as error:
            print(error.hint)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install 'mla-edge[jetson]'" in done.stdout


@pytest.mark.parametrize("integrated", [True, False])
def test_a_buffer_has_the_shape_and_type_that_were_asked_for(cuda, fakes, integrated):
    gpu = cuda(INTEGRATED=integrated).Gpu()
    buffer = gpu.buffer((2, 3), "float16")
    assert (buffer.host.shape, buffer.host.dtype) == ((2, 3), np.float16)
    assert buffer.address in fakes.machine.allocations
    assert buffer.address != buffer.host.ctypes.data
    buffer.free()
    gpu.close()


def test_shared_memory_is_seen_at_once_and_nothing_is_copied(cuda, fakes):
    gpu = cuda(INTEGRATED=True).Gpu()
    buffer = gpu.buffer((4,), "float32")
    fakes.machine.calls.clear()
    buffer.host[:] = [1, 2, 3, 4]
    buffer.upload(gpu.stream)
    memory = fakes.machine.allocations[buffer.address]
    assert memory.data.view(np.float32).tolist() == [1, 2, 3, 4]
    memory.data.view(np.float32)[:] = 5
    buffer.download(gpu.stream)
    assert buffer.host.tolist() == [5, 5, 5, 5]
    assert fakes.machine.calls == []
    buffer.free()
    gpu.close()


def test_other_memory_is_copied_when_the_stream_is_waited_for(cuda, fakes):
    gpu = cuda(INTEGRATED=False).Gpu()
    buffer = gpu.buffer((4,), "int8")
    memory = fakes.machine.allocations[buffer.address]
    buffer.host[:] = 7
    buffer.upload(gpu.stream)
    assert memory.data.view(np.int8).tolist() == [-1] * 4  # nothing has happened yet
    gpu.synchronize()
    assert memory.data.tolist() == [7] * 4
    memory.data[:] = 9
    buffer.download(gpu.stream)
    assert buffer.host.tolist() == [7] * 4
    gpu.synchronize()
    assert buffer.host.tolist() == [9] * 4
    buffer.free()
    gpu.close()


def test_the_last_engine_to_let_go_frees_the_gpu(cuda, fakes):
    gpu = cuda().Gpu()
    gpu.hold()
    gpu.hold()
    gpu.release()
    assert fakes.machine.stack
    gpu.release()
    assert fakes.machine.left_over() == []
    gpu.close()
    assert fakes.machine.violations == []


def test_no_memory_left_names_the_tensor_and_frees_its_half(cuda, fakes):
    gpu = cuda(INTEGRATED=False, MEMORY_MB=1).Gpu()
    with pytest.raises(
        InferenceError, match=r"no GPU memory for a tensor of \[512, 1024\] float32"
    ):
        gpu.buffer((512, 1024), "float32")
    assert not fakes.machine.allocations
    gpu.close()


def test_a_failure_on_the_gpu_shows_when_the_stream_is_waited_for(cuda, fakes):
    gpu = cuda().Gpu()

    def fail():
        raise RuntimeError("an illegal memory access was encountered")

    fakes.machine.streams[gpu.stream.handle].add("work", (), fail)
    with pytest.raises(InferenceError, match="the GPU failed: .*illegal memory access"):
        gpu.synchronize()
    gpu.close()


def test_a_gpu_without_a_stream_says_so_and_leaves_no_context(cuda, fakes, monkeypatch):
    module = cuda()

    def fail():
        raise module.driver.MemoryError("cuStreamCreate failed: out of memory")

    monkeypatch.setattr(module.driver, "Stream", fail)
    with pytest.raises(InferenceError, match="the GPU cannot be used: cuStreamCreate failed"):
        module.Gpu()
    assert fakes.machine.left_over() == []


def test_memory_that_the_gpu_cannot_reach_is_given_back_at_once(cuda, fakes, monkeypatch):
    module = cuda(INTEGRATED=True)
    gpu = module.Gpu()
    freed = []

    def fail(self):
        raise module.driver.LogicError("cuMemHostGetDevicePointer failed")

    pinned = module.driver.PagelockedHostAllocation
    free = pinned.free
    monkeypatch.setattr(pinned, "get_device_pointer", fail)
    monkeypatch.setattr(pinned, "free", lambda self: (freed.append(self), free(self)))
    with pytest.raises(InferenceError, match="no GPU memory for a tensor"):
        gpu.buffer((4,), "float32")
    assert len(freed) == 1
    gpu.close()
