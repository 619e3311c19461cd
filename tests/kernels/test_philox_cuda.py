"""kernels/philox.cuh gives the bits of sampling/philox.py."""

import numpy as np
import pytest
import torch

from specbench.assets import kernels_dir
from specbench.sampling import philox

PROBE = r"""
extern "C" __global__ void probe(const long long* seeds, const long long* positions, int purpose,
                                 int slot, int groups, unsigned* words, float* uniforms,
                                 float* exponentials) {
    const int group = blockIdx.x * blockDim.x + threadIdx.x;
    if (group >= groups) return;
    const int b = blockIdx.y;
    const uint4 four = philox_words(seeds[b], positions[b], (Purpose)purpose, slot, group);
    const unsigned word[4] = {four.x, four.y, four.z, four.w};
    for (int i = 0; i < 4; ++i) {
        const long long at = ((long long)b * groups + group) * 4 + i;
        words[at] = word[i];
        uniforms[at] = uniform(word[i]);
        exponentials[at] = exponential(word[i]);
    }
}
"""


@pytest.mark.gpu
@pytest.mark.parametrize("purpose", list(philox.Purpose))
def test_the_kernel_gives_the_bits_of_torch(purpose):
    cupy = pytest.importorskip("cupy")
    source = (kernels_dir() / "philox.cuh").read_text().replace("#pragma once", "") + PROBE
    kernel = cupy.RawModule(code=source, options=("--std=c++17",)).get_function("probe")
    seeds = np.array([0, 1, -2, 2**62 + 12345], dtype=np.int64)
    positions = np.array([0, 7, 2**31, 2**33 + 9], dtype=np.int64)
    groups, slot = 5000, 3
    words = cupy.empty((4, groups * 4), dtype=cupy.uint32)
    uniforms, exponentials = (
        cupy.empty_like(words, cupy.float32),
        cupy.empty_like(words, cupy.float32),
    )
    kernel(
        (-(-groups // 128), 4), (128,),
        (cupy.asarray(seeds), cupy.asarray(positions), np.int32(purpose), np.int32(slot),
         np.int32(groups), words, uniforms, exponentials),
    )  # fmt: skip
    expected = philox.words(
        torch.tensor(seeds), torch.tensor(positions), purpose, torch.tensor([slot]), groups * 4
    )[:, 0]
    assert np.array_equal(cupy.asnumpy(words).astype(np.int64), expected.numpy())
    assert np.array_equal(cupy.asnumpy(uniforms), philox.uniform(expected).numpy())
    # The kernel takes a series and the GPU's logarithm where torch has log1p.
    assert np.allclose(
        cupy.asnumpy(exponentials), philox.exponential(expected).numpy(), rtol=4e-6, atol=0
    )
