"""Inputs are seeded and lie apart in memory; bytes are counted as a method reads them."""

import pytest
import torch

from specbench.micro.inputs import (
    ALIGNMENT,
    COLD_SETS,
    bytes_moved,
    count_sets,
    expected_accepted,
    make_sets,
    set_bytes,
)
from specbench.micro.plan import Shape
from specbench.sampling.registry import get_method

CPU = torch.device("cpu")


def sets(shape, count=3, **changed):
    return make_sets(shape, count, **{"noise": 0.6, "seed": 7, "device": CPU} | changed)


class TestBytes:
    def test_of_a_set_are_all_rows_of_both_models(self):
        assert set_bytes(Shape(2, 5, 32000, "float16")) == 2 * 11 * 32000 * 2

    @pytest.mark.parametrize("name", ["baseline", "exact", "fused", "block"])
    def test_who_normalises_reads_every_row_once(self, name):
        shape = Shape(1, 5, 32000, "float32")
        assert bytes_moved(shape, get_method(name), torch.tensor([[0]])) == 1_408_000

    def test_who_reads_in_waves_leaves_out_what_follows_the_one_with_the_stop(self):
        """Waves of 2 slots, γ = 5: stops at 0, 2 and 5 need 2, 4 and 6 rows of the target, and one
        less of the draft's only where the bonus row is among them."""
        accepted = torch.tensor([[0, 2, 5]])
        moved = bytes_moved(Shape(3, 5, 1000, "float16"), get_method("fused"), accepted, wave=2)
        assert moved == ((2 + 2) + (4 + 4) + (6 + 5)) * 1000 * 2

    def test_sigmoid_reads_the_stop_rows_of_what_happened(self):
        """Three sequences stop early (two rows), one accepts all (one); 2·5 entries of each of two."""
        accepted = torch.tensor([[0, 5], [4, 1]])
        moved = bytes_moved(Shape(2, 5, 1000, "float16"), get_method("sigmoid"), accepted)
        assert moved == ((2 + 1 + 2 + 2) / 2 * 1000 + 2 * 5 * 2) * 2


class TestCount:
    shape = Shape(1, 5, 32000, "float32")  # 1.408 MB

    def test_is_one_for_each_call_of_a_replay(self):
        assert count_sets(self.shape, 80 * 10**9) == COLD_SETS

    def test_is_less_where_memory_is_short(self):
        assert count_sets(Shape(64, 8, 128256, "float32"), 80 * 10**9) == 14
        assert count_sets(self.shape, 20_000_000) == 7
        assert count_sets(self.shape, 1) == 1

    def test_of_a_cpu_is_two(self):
        assert count_sets(self.shape, None) == 2


class TestSets:
    shape = Shape(2, 3, 101, "float16")

    def test_have_the_shapes_that_a_verifier_takes(self):
        for index, one in enumerate(sets(self.shape)):
            assert one.target_logits.shape == (2, 4, 101)
            assert one.draft_logits.shape == (2, 3, 101)
            assert one.draft_logits.dtype is torch.float16
            assert one.draft_tokens.shape == (2, 3)
            assert one.target_logits.is_contiguous()
            whole = one.target_logits.untyped_storage()
            assert (one.target_logits.data_ptr() - whole.data_ptr()) % ALIGNMENT == 0
            assert one.positions.tolist() == [index, index]

    def test_are_the_same_again_and_different_from_each_other(self):
        first, second, _ = sets(self.shape)
        again = sets(self.shape)[0]
        assert torch.equal(first.target_logits, again.target_logits)
        assert torch.equal(first.draft_tokens, again.draft_tokens)
        assert not torch.equal(first.target_logits, second.target_logits)
        assert not torch.equal(first.numbers.uniforms, second.numbers.uniforms)

    def test_have_the_spread_and_the_noise_asked_for(self):
        (one,) = sets(Shape(1, 4, 20000, "float32"), 1)
        assert float(one.target_logits.std()) == pytest.approx(2.5, rel=0.02)
        difference = one.draft_logits - one.target_logits[:, :4]
        assert float(difference.std()) == pytest.approx(0.6, rel=0.02)

    def test_drafts_follow_the_draft(self):
        """At V = 2 the likelier token is drafted as often as its probability says."""
        (one,) = sets(Shape(4000, 1, 2, "float32"), 1)
        probability = float(one.draft_logits.softmax(-1)[:, 0, 1].mean())
        assert float(one.draft_tokens.float().mean()) == pytest.approx(probability, abs=0.02)

    def test_without_drafts(self):
        (one,) = sets(Shape(2, 0, 31, "float32"), 1)
        assert one.draft_tokens.shape == (2, 0)

    def test_acceptance_is_what_theory_says(self):
        found = sets(Shape(256, 4, 50, "float32"), 8)
        law = get_method("baseline")
        from specbench.micro.subject import verify_call
        from specbench.sampling.verifier import Verifier

        verifier = Verifier(law, 256, 4, 50)
        counted = [verify_call(verifier, one)().num_accepted.float().mean() for one in found]
        assert float(torch.stack(counted).mean()) == pytest.approx(
            expected_accepted(found), abs=0.1
        )

    def test_equal_models_accept_everything(self):
        assert expected_accepted(sets(self.shape, noise=0.0)) == pytest.approx(3.0, abs=1e-3)
