"""The fakes themselves: what a real GPU does not forgive, they say at once."""

import gc
import threading

import numpy as np
import pytest
from faking import VERSIONS


@pytest.fixture
def gpu(fakes):
    """pycuda's driver, with the primary context on this thread, and a stream."""
    fakes.use("10.3", INTEGRATED=False)
    import pycuda.driver as driver

    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    fakes.forgiven = True
    yield driver
    fakes.machine.stack.clear()


@pytest.fixture
def refused(fakes):
    return lambda text: pytest.raises(fakes.violation, match=text)


def test_memory_is_freed_once_and_not_used_afterwards(gpu, refused):
    stream, pinned, memory = gpu.Stream(), gpu.pagelocked_empty(4, np.int8), gpu.mem_alloc(4)
    assert isinstance(pinned.base, gpu.PagelockedHostAllocation)
    memory.free()
    with refused("is no memory of the GPU"):
        gpu.memcpy_htod_async(memory, pinned, stream)
    with refused("double free of device memory of 4 bytes"):
        memory.free()
    pinned.base.free()
    with refused("uses pinned memory .* after it was freed"):
        gpu.memcpy_htod_async(gpu.mem_alloc(4), pinned, stream)
    assert pinned.tolist() == [-1] * 4  # what is read there is nobody's


def test_memory_is_not_freed_while_the_stream_waits_for_it(gpu, refused):
    stream, pinned, memory = gpu.Stream(), gpu.pagelocked_empty(4, np.int8), gpu.mem_alloc(4)
    gpu.memcpy_htod_async(memory, pinned, stream)
    with refused("memcpy_htod_async still waits for it"):
        memory.free()
    stream.synchronize()
    memory.free()


def test_copies_are_of_the_same_size_contiguous_and_pinned(gpu, refused):
    stream, memory = gpu.Stream(), gpu.mem_alloc(16)
    with refused("8 bytes of device memory of 16 bytes"):
        gpu.memcpy_htod_async(memory, gpu.pagelocked_empty(8, np.int8), stream)
    with refused("32 bytes are more than device memory of 16 bytes"):
        gpu.memcpy_dtoh_async(gpu.pagelocked_empty(32, np.int8), memory, stream)
    with refused("is not pinned"):
        gpu.memcpy_htod_async(memory, np.zeros(16, np.int8), stream)
    with refused("is not contiguous"):
        gpu.memcpy_htod_async(memory, gpu.pagelocked_empty((4, 8), np.int8)[:, ::2], stream)
    with refused("without a stream"):
        gpu.memcpy_htod_async(memory, gpu.pagelocked_empty(16, np.int8))
    with refused("not mapped"):
        gpu.pagelocked_empty(4, np.int8).base.get_device_pointer()


def test_a_stream_that_nobody_waited_for_is_told(gpu, fakes):
    stream, pinned, memory = gpu.Stream(), gpu.pagelocked_empty(4, np.int8), gpu.mem_alloc(4)
    gpu.memcpy_dtoh_async(pinned, memory, stream)
    del stream
    gc.collect()
    assert fakes.machine.violations == [
        "the stream ends and nobody waited for memcpy_dtoh_async"
    ]


def test_another_thread_has_no_context(gpu, fakes):
    found = []

    def allocate():
        try:
            gpu.mem_alloc(4)
        except fakes.violation as error:
            found.append(str(error))

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert found == ["mem_alloc: no CUDA context is current on this thread"]


def test_a_context_leaves_its_thread_last_and_once(gpu, fakes, refused):
    context = fakes.machine.stack[-1]
    with refused("detached before it is popped"):
        context.detach()
    memory = gpu.mem_alloc(4)
    gpu.Context.pop()
    with refused("detached before device memory of 4 bytes"):
        context.detach()
    with pytest.raises(gpu.LogicError, match="cannot pop non-current context"):
        gpu.Context.pop()
    with refused("detached twice"):
        context.detach()
    assert fakes.machine.left_over() == [repr(memory._memory)]


@pytest.mark.parametrize("version", VERSIONS)
def test_names_that_are_listed_and_not_taught_say_so(fakes, version):
    bindings = fakes.use(version)
    builder = bindings.trt.Builder(bindings.logger)
    assert not hasattr(builder, "no_such_name")
    assert not hasattr(bindings.trt, "no_such_name")
    fakes.forgiven = True
    with pytest.raises(fakes.violation, match="lacks 'max_threads': teach it"):
        builder.max_threads  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        builder.no_such_name = 1


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("IInt8EntropyCalibrator2", {"8.6", "10.3"}),
        ("IProgressMonitor", {"10.3", "11.4"}),
        ("OnnxParser", set(VERSIONS)),
    ],
)
def test_a_class_is_there_in_the_versions_that_have_it(fakes, name, there):
    assert {version for version in VERSIONS if hasattr(fakes.use(version).trt, name)} == there


def test_a_callback_must_call_its_base(fakes):
    trt = fakes.use("10.3").trt

    class Forgetful(trt.ILogger):
        def __init__(self):
            pass

        def log(self, severity, message):
            pass

    with pytest.raises(TypeError, match=r"ILogger.__init__\(\) must be called"):
        Forgetful()


def test_enumerations_are_no_numbers_but_have_one(fakes):
    flags = fakes.use("10.3").trt.NetworkDefinitionCreationFlag
    assert 1 << int(flags.STRONGLY_TYPED) == 2
    assert flags.STRONGLY_TYPED != 1
    with pytest.raises(TypeError):
        1 << flags.STRONGLY_TYPED
    with pytest.raises(AttributeError, match="EXPLICIT_PRECISION"):
        flags.EXPLICIT_PRECISION  # noqa: B018
