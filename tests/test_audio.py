"""Audio: whatever a file holds, a model hears one channel at 16 kHz, or a sentence says why not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from specbench.audio import RATE, Clip, check_length
from specbench.errors import InputError


def tone(seconds=0.5, rate=RATE, hertz=440.0):
    """(samples,) float32, half of full scale."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def encoded(samples, rate=RATE, **kind):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **kind})
    return file.getvalue()


@pytest.fixture
def write(tmp_path):
    """Writes an audio file and gives its clip."""

    def _write(name, samples, rate=RATE, **kind):
        soundfile.write(tmp_path / name, samples, rate, **kind)
        return Clip(name, tmp_path / name)

    return _write


def refused(clip, words):
    """Its length or its sound is refused in a sentence that names the file, with a way out."""
    with pytest.raises(InputError, match=words) as caught:
        clip.load()
    assert clip.name in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


class TestKinds:
    @pytest.mark.parametrize(
        ("name", "kind", "tolerance"),
        [
            ("a.wav", {"subtype": "PCM_16"}, 1e-4),
            ("a.wav", {"subtype": "PCM_24"}, 1e-6),
            ("a.wav", {"subtype": "FLOAT"}, 0),
            ("a.wav", {"subtype": "PCM_U8"}, 1e-2),
            ("a.flac", {}, 1e-4),
            ("A.FLAC", {}, 1e-4),
            ("a.mp3", {}, 0.05),
            ("a.ogg", {}, 0.1),
        ],
    )
    def test_what_was_written_is_heard(self, write, name, kind, tolerance):
        clip = write(name, tone(), **kind)
        sound = clip.load()
        assert sound.dtype == np.float32
        assert sound.shape == (RATE // 2,)
        assert clip.seconds == 0.5
        np.testing.assert_allclose(sound, tone(), atol=tolerance)

    def test_bytes_are_as_good_as_a_file(self, write, tmp_path):
        for name in ("a.wav", "a.flac", "a.mp3"):
            clip = write(name, tone())
            same = Clip("row 7", (tmp_path / name).read_bytes())
            assert same.seconds == clip.seconds
            np.testing.assert_array_equal(same.load(), clip.load())

    def test_channels_are_averaged(self, write):
        left, right = tone(hertz=300), tone(hertz=500)
        sound = write("stereo.flac", np.stack([left, right], axis=1)).load()
        np.testing.assert_allclose(sound, (left + right) / 2, atol=1e-4)

    def test_opposite_channels_are_silence_not_an_error(self, write):
        sound = write("stereo.wav", np.stack([tone(), -tone()], axis=1), subtype="FLOAT").load()
        assert not sound.any()

    @pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
    def test_other_rates_become_16_khz(self, write, rate):
        clip = write("a.wav", tone(1.0, rate), rate)
        sound = clip.load()
        assert clip.seconds == 1.0
        assert abs(len(sound) - RATE) <= 1
        inner = slice(400, RATE - 400)  # a filter has no neighbours at the ends
        np.testing.assert_allclose(sound[inner], tone(1.0)[inner], atol=2e-3)

    def test_what_16_khz_cannot_hold_is_filtered_not_folded(self, write):
        sound = write("a.wav", tone(1.0, 48_000, hertz=11_000), 48_000).load()
        assert np.abs(sound[400:-400]).max() < 1e-3

    def test_overshoot_of_full_scale_is_clipped(self, write):
        sound = write("a.wav", 2.8 * tone(), subtype="FLOAT").load()
        assert sound.max() == 1.0
        assert sound.min() == -1.0

    @pytest.mark.parametrize("name", ["Übung 日本.wav", 'a\'b "c".flac', "nai\u0308f.wav"])
    def test_names_of_every_script(self, write, name):
        assert write(name, tone()).load().shape == (RATE // 2,)

    def test_a_stream_whose_header_was_never_mended(self, tmp_path):
        """ffmpeg writes WAV to a pipe with the largest length there is."""
        for length in (0, 0xFFFFFFFF):
            data = bytearray(encoded(tone()))
            at = data.index(b"data") + 4
            data[at : at + 4] = struct.pack("<I", length)
            if length:
                assert Clip("pipe", bytes(data)).load().shape == (RATE // 2,)
            else:
                refused(Clip("pipe", bytes(data)), "no samples")

    def test_chunks_before_the_samples(self):
        data = encoded(tone())
        at = data.index(b"data")
        odd = data[:at] + b"junk" + struct.pack("<I", 3) + b"abc\0" + data[at:]
        odd = odd[:4] + struct.pack("<I", len(odd) - 8) + odd[8:]
        np.testing.assert_array_equal(Clip("odd", odd).load(), Clip("even", data).load())


class TestRefusals:
    def test_missing(self, tmp_path):
        assert "path" in refused(Clip("gone.wav", tmp_path / "gone.wav"), "no audio file").hint

    def test_a_folder(self, tmp_path):
        refused(Clip("folder.wav", tmp_path), "cannot be")

    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
    def test_empty(self, tmp_path, name):
        (tmp_path / name).touch()
        refused(Clip(name, tmp_path / name), "0 bytes")
        refused(Clip(name, b""), "0 bytes")

    def test_no_samples(self, write):
        refused(write("a.wav", tone(0)), "no samples")

    def test_too_short_for_one_sample_at_16_khz(self, write):
        refused(write("a.wav", tone()[:1], 48_000), "no samples")

    @pytest.mark.parametrize("name", ["notes.wav", "notes.raw", "notes.txt"])
    def test_text_under_another_name(self, tmp_path, name):
        (tmp_path / name).write_text("it was a dark and stormy night\n" * 20)
        assert "WAV, FLAC, MP3 or OGG" in refused(Clip(name, tmp_path / name), "decoded").hint

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    @pytest.mark.parametrize("kind", ["PCM_16", "PCM_24", "FLOAT"])
    def test_a_wav_that_broke_off(self, share, kind):
        """libsndfile would play what is left, against the whole transcript."""
        data = encoded(tone(), subtype=kind)
        clip = Clip("half.wav", data[: int(len(data) * share)])
        refused(clip, "cut off")
        with pytest.raises(InputError, match="cut off"):
            _ = clip.seconds

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("kind", [{"format": "FLAC"}, {"format": "MP3"}])
    def test_a_compressed_file_that_broke_off(self, share, kind, capfd):
        data = encoded(tone(2.0), **kind)
        refused(Clip("half", data[: int(len(data) * share)]), r"cut off|cannot be decoded")

    def test_bits_that_changed(self):
        data = bytearray(encoded(tone(2.0), format="FLAC"))
        for at in range(len(data) // 2, len(data) // 2 + 50):
            data[at] ^= 0xFF
        refused(Clip("bad.flac", bytes(data)), "cannot be decoded|cut off")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_samples_that_are_no_numbers(self, write, value):
        samples = tone()
        samples[100] = value
        refused(write("a.wav", samples, subtype="FLOAT"), "not finite")

    def test_integers_stored_as_floats(self, write):
        assert (
            "full scale"
            in refused(write("a.wav", 32767 * tone(), subtype="FLOAT"), "up to 16,38").hint
        )


class TestLength:
    def test_all_within(self, write):
        check_length([write("a.wav", tone(1.0)), write("b.wav", tone(0.5))], 1.0)
        check_length([], 30.0)

    def test_the_first_that_is_longer_is_named(self, write):
        clips = [write("a.wav", tone(0.5)), write("b.wav", tone(1.1)), write("c.wav", tone(2.0))]
        with pytest.raises(InputError, match=r"b\.wav is 1\.10 s long, .* 1 s") as caught:
            check_length(clips, 1.0)
        assert "at most 1 s" in caught.value.hint

    def test_the_samples_are_not_decoded(self, write, monkeypatch):
        clip = write("a.flac", tone())
        monkeypatch.setattr(soundfile, "read", None)
        check_length([clip], 30.0)

    def test_the_odd_sample_of_another_rate(self, write):
        check_length([write("a.wav", tone(1.0, 44_100)[:-1], 44_100)], 1.0)


def test_clips_are_told_apart_by_their_source(tmp_path):
    assert Clip("a", b"1") == Clip("a", b"1")
    assert Clip("a", b"1") != Clip("a", b"2")
    assert "1" not in repr(Clip("a", b"111"))


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, specbench.audio, specbench.tasks.asr; "
        "print(*{'soundfile', 'soxr', 'jiwer', 'datasets', 'transformers', 'torch',"
        " 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
