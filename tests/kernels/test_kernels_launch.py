"""What a launch promises: no allocation, no waiting, one kernel, any stream, graphs, and no hang."""

from dataclasses import fields

import pytest
import torch

from specbench.sampling.verifier import Verification, Verifier
from specbench.telemetry.profile import profile_kernels

pytestmark = pytest.mark.gpu

METHODS = ["exact", "sigmoid", "fused", "block"]
LOGITS = ["sigmoid", "fused", "block"]


def verifier_for(method, data):
    return Verifier(method, *data.shape, data.target_logits.dtype, data.target_logits.device)


def allocations():
    """How often torch has asked for memory so far."""
    return torch.cuda.memory_stats()["allocation.all.allocated"]


def warm(call):
    """Calls on a side stream, as graph capture asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


def captured(call):
    warm(call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def copy_into(data, other):
    """Another problem's values in the memory of the first."""
    for field in fields(data):
        getattr(data, field.name).copy_(getattr(other, field.name))


@pytest.mark.parametrize("method", METHODS)
def test_a_call_neither_allocates_nor_waits(problem, method):
    """100 calls, with parameters by value and from memory."""
    data = problem(4, 5, 1001, mixed=False)
    verifier = verifier_for(method, data)
    options = data.options
    if method == "exact":  # its softmax divides by a temperature tensor, which is torch's affair
        options["temperature"] = 1.0

    def calls(count):
        for _ in range(count):
            verifier(*data.tensors, **options)
            verifier(*data.tensors, temperature=1.0, seeds=7, positions=3)

    calls(2)
    torch.cuda.synchronize()
    before, mode = allocations(), torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        calls(50)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert allocations() == before


@pytest.mark.parametrize("method", METHODS)
def test_the_answer_lies_in_the_verifiers_own_memory(problem, method):
    data, other = problem(3, 2, 57), problem(3, 2, 57, seed=1)
    verifier = verifier_for(method, data)
    first = verifier(*data.tensors, **data.options)
    again = verifier(*other.tensors, **other.options)
    assert first.tokens.data_ptr() == again.tokens.data_ptr()
    assert first.num_accepted.data_ptr() == again.num_accepted.data_ptr()


@pytest.mark.parametrize("method", LOGITS)
def test_a_call_is_one_kernel(problem, method):
    data = problem(4, 5, 32000, mixed=False)
    verifier = verifier_for(method, data)
    seen = profile_kernels(lambda: verifier(*data.tensors, **data.options), 10)
    assert seen.launches == 1
    assert list(seen.by_name) == [f"verify_{method}"]


def test_exact_adds_one_kernel_to_its_two_softmaxes(problem):
    data = problem(4, 5, 32000, mixed=False)
    verifier = verifier_for("exact", data)
    seen = profile_kernels(lambda: verifier(*data.tensors, temperature=1.0), 10)
    assert seen.launches == 3
    assert "verify_exact" in seen.by_name


@pytest.mark.parametrize("method", METHODS)
def test_a_replayed_graph_follows_what_device_memory_holds(problem, wrong, method):
    """TensorRT-LLM froze sampling parameters into its graphs. The graph holds torch work before and
    after the kernel; logits, drafts, lengths, temperatures, seeds and positions all change."""
    data = problem(8, 4, 1003, seed=20, mixed=False)
    raw = data.target_logits / 2
    verifier = verifier_for(method, data)
    tokens, accepted = torch.zeros_like(verifier._kernel.tokens), torch.zeros_like(data.seeds)

    def step():
        torch.mul(raw, 2, out=data.target_logits)
        found = verifier(*data.tensors, **data.options)
        tokens.copy_(found.tokens)
        accepted.copy_(found.num_accepted)

    graph = captured(step)
    for seed in range(21, 26):
        other = problem(8, 4, 1003, seed=seed, mixed=False)
        other = other.but(
            temperature=problem(8, 0, 1).temperature.roll(seed),
            lengths=torch.tensor([0, 1, 2, 3, 4, 4, 4, 2], device="cuda").roll(seed),
        )
        copy_into(data, other)
        raw.copy_(other.target_logits / 2)
        graph.replay()
        assert wrong(method, other, Verification(tokens, accepted)) == ""


@pytest.mark.parametrize("method", METHODS)
def test_any_stream_will_do(problem, wrong, method):
    """Torch's current stream: work before it is seen, and work after it sees the answer."""
    data, other = problem(8, 4, 1003, seed=30), problem(8, 4, 1003, seed=31)
    verifier = verifier_for(method, data)
    verifier(*data.tensors, **data.options)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # some 10 ms: a kernel on another stream would overtake it
        copy_into(data, other)
        found = verifier(*data.tensors, **data.options)
        tokens = found.tokens.clone()
    torch.cuda.current_stream().wait_stream(side)
    assert wrong(method, other, Verification(tokens, found.num_accepted)) == ""


@pytest.mark.parametrize("method", METHODS)
def test_cuda_without_a_number_is_the_current_gpu(problem, wrong, method):
    data = problem(3, 2, 57)
    verifier = Verifier(method, *data.shape, device="cuda")
    assert verifier.device == torch.device("cuda", torch.cuda.current_device())
    assert verifier.implementation == "cuda"
    assert wrong(method, data, verifier(*data.tensors, **data.options)) == ""


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("method", METHODS)
def test_the_other_gpu_will_do(problem, wrong, method):
    data = problem(3, 2, 57, device="cuda:1")
    verifier = verifier_for(method, data)
    found = verifier(*data.tensors, **data.options)
    assert torch.cuda.current_device() == 0
    assert wrong(method, data, found) == ""


class Stream:
    """A verifier on a stream of its own, which counts its wrong answers on the GPU."""

    def __init__(self, method, data, expected, launches, looks):
        self.verifier = verifier_for(method, data)
        self.data, self.expected = data, expected
        self.stream, self.launches = torch.cuda.Stream(), 0
        self.wrong = torch.zeros((), dtype=torch.int64, device="cuda")
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.eager()
            self.look()
        torch.cuda.synchronize()
        self.graph, self.in_graph = torch.cuda.CUDAGraph(), launches
        with torch.cuda.graph(self.graph, stream=self.stream):
            for i in range(launches):
                self.call()
                if i % (launches // looks) == 0:
                    self.look()

    def call(self):
        self.found = self.verifier(*self.data.tensors, **self.data.options)

    def look(self):
        same = self.found.tokens == self.expected.tokens
        self.wrong += (~same).sum()

    def eager(self):
        self.call()
        self.launches += 1

    def replay(self):
        with torch.cuda.stream(self.stream):
            self.graph.replay()
        self.launches += self.in_graph


@pytest.mark.parametrize("methods", [("fused", "block"), ("sigmoid", "fused")], ids="+".join)
def test_half_a_million_launches_interleaved_on_two_streams(problem, bind, wrong, methods):
    """10⁶ with both pairs: nothing hangs, no answer is wrong, and every launch was counted.

    Members wait for one another, so launches that stood in each other's way would hang; mail of an
    earlier launch, or of the other stream's, would give a wrong token.
    """
    pairs = [problem(1, 2, 4096, seed=40 + i, mixed=False) for i in range(2)]
    streams = []
    for method, data in zip(methods, pairs, strict=True):
        kernel = bind(method, data)
        assert kernel.launcher.grid.members > 1
        expected = kernel(data)
        assert wrong(method, data, expected) == ""
        streams.append(Stream(method, data, expected, launches=500, looks=10))
    for _ in range(490):
        for stream in streams:
            stream.replay()
    for _ in range(5000):
        for stream in streams:
            with torch.cuda.stream(stream.stream):
                stream.eager()
    for stream in streams:
        with torch.cuda.stream(stream.stream):
            stream.look()
    torch.cuda.synchronize()
    assert sum(stream.launches for stream in streams) >= 500_000
    for stream in streams:
        assert int(stream.wrong) == 0
        epochs = {epoch % 2**32 for epoch in stream.verifier._kernel._launch.epochs.tolist()}
        assert epochs == {stream.launches % 2**32}


@pytest.mark.parametrize("method", METHODS)
def test_the_count_of_launches_wraps_around(problem, wrong, method):
    """After 2³² launches the word is 0 again, and its parity goes on alternating."""
    data = problem(4, 3, 2000)
    verifier = verifier_for(method, data)
    verifier._kernel._launch.epochs.fill_(-3)
    for _ in range(6):
        found = verifier(*data.tensors, **data.options)
        assert wrong(method, data, found) == ""
    assert set(verifier._kernel._launch.epochs.tolist()) == {3}


@pytest.mark.parametrize("method", METHODS)
def test_the_mail_of_a_launch_is_gone_two_launches_later(problem, wrong, method):
    """Halves alternate: what one launch posts, the next one clears, and both alternate inputs."""
    steps = [problem(5, 3, 2000, seed=seed) for seed in range(3)]
    verifier = verifier_for(method, steps[0])
    for i in range(12):
        data = steps[i % 3]
        found = verifier(*data.tensors, **data.options)
        assert wrong(method, data, found) == ""
