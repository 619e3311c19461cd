"""Folders of speech: both layouts, and each way in which one can be incomplete."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from specbench.errors import InputError
from specbench.tasks.asr import SpeechRecognition


@pytest.fixture
def folder(tmp_path):
    """An empty folder with a method that puts audio into it: half a second of a pitch per name."""

    class Folder:
        path = tmp_path / "speech"

        def audio(self, *names, rate=16_000):
            for name in names:
                file = self.path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                times = np.arange(rate // 2) / rate
                soundfile.write(file, 0.5 * np.sin(1000 * times * (1 + len(name))), rate)

        def csv(self, text, **options):
            (self.path / "metadata.csv").write_bytes(text.encode(**options))

        def jsonl(self, *rows):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (self.path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")

        def task(self):
            return SpeechRecognition(str(self.path))

        def refused(self, words):
            with pytest.raises(InputError, match=words) as caught:
                self.task().check_available()
            assert caught.value.hint
            assert "\n" not in caught.value.message
            return caught.value

    Folder.path.mkdir()
    return Folder()


def texts(samples):
    return {sample.sample_id: sample.reference for sample in samples}


class TestTables:
    @pytest.mark.parametrize("column", ["text", "transcription", "transcript", "sentence"])
    def test_both_kinds_and_every_column(self, folder, column):
        folder.audio("b.wav", "sub/a.flac")
        rows = [{"file_name": "b.wav", column: "Bee."}, {"file_name": "sub/a.flac", column: "A, b"}]
        folder.jsonl(*rows)
        of_jsonl = folder.task().samples()
        (folder.path / "metadata.jsonl").unlink()
        folder.csv(f'file_name,speaker,{column}\nb.wav,x,Bee.\nsub/a.flac,y,"A, b"\n')
        of_csv = folder.task().samples()
        assert of_csv == of_jsonl
        assert texts(of_csv) == {"b.wav": "Bee.", "sub/a.flac": "A, b"}
        assert [s.sample_id for s in of_csv] == ["b.wav", "sub/a.flac"], "the table's order"
        assert all(s.prompt == "" and s.prompt_length is None for s in of_csv)
        folder.task().check_available()
        assert of_csv[0].audio.load().shape == (8_000,)

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_tables_as_windows_programs_write_them(self, folder, mark, end):
        folder.audio("a.wav", "b.wav")
        folder.csv(end.join([f"{mark}file_name,text", "a.wav,first", 'b.wav,"two, three"', ""]))
        assert texts(folder.task().samples()) == {"a.wav": "first", "b.wav": "two, three"}

    def test_names_of_every_script(self, folder):
        folder.audio("Übung.wav", "日本 語.flac")
        folder.csv("file_name,text\nÜbung.wav,größer\n日本 語.flac,はい\n")
        assert list(texts(folder.task().samples()).values()) == ["größer", "はい"]

    def test_names_that_macos_has_decomposed(self, folder):
        folder.audio("U\u0308bung.wav")
        folder.csv("file_name,text\n\u00dcbung.wav,ja\n")
        (sample,) = folder.task().samples()
        assert sample.audio.load().size

    def test_a_detour_is_the_same_file(self, folder):
        folder.audio("sub/a.wav")
        folder.csv("file_name,text\n./sub//a.wav,ja\n")
        assert list(texts(folder.task().samples())) == ["sub/a.wav"]

    def test_hidden_files_and_notes_do_not_matter(self, folder):
        folder.audio("a.wav")
        (folder.path / "._a.wav").write_bytes(b"resource fork")
        (folder.path / "README.txt").touch()
        folder.csv("file_name,text\na.wav,ja\n")
        folder.task().check_available()

    def test_suffixes_in_capitals(self, folder):
        folder.audio("A.WAV", "b.Flac")
        folder.csv("file_name,text\nA.WAV,a\nb.Flac,b\n")
        assert len(folder.task().samples()) == 2

    @pytest.mark.parametrize("rate", [8_000, 44_100])
    def test_other_rates_are_fine(self, folder, rate):
        folder.audio("a.wav", rate=rate)
        folder.csv("file_name,text\na.wav,ja\n")
        assert folder.task().samples()[0].audio.load().shape == (8_000,)

    def test_numbers_are_text(self, folder):
        folder.audio("a.wav")
        folder.jsonl({"file_name": "a.wav", "text": 0})
        assert texts(folder.task().samples()) == {"a.wav": "0"}


class TestLibriSpeech:
    @pytest.fixture
    def libri(self, folder):
        folder.audio(
            "test-clean/61/70968/61-70968-0000.flac",
            "test-clean/61/70968/61-70968-0001.flac",
            "test-clean/1089/134686/1089-134686-0000.flac",
        )
        chapter = folder.path / "test-clean" / "61" / "70968"
        (chapter / "61-70968.trans.txt").write_text(
            "61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n61-70968-0001 GIVE NOT SO EARNEST\n"
        )
        (chapter.parents[1] / "1089" / "134686" / "1089-134686.trans.txt").write_text(
            "1089-134686-0000 HE HOPED THERE WOULD BE STEW\r\n"
        )
        return folder

    def test_its_own_tree(self, libri):
        samples = libri.task().samples()
        assert [(s.sample_id, s.reference) for s in samples] == [
            ("1089-134686-0000", "HE HOPED THERE WOULD BE STEW"),
            ("61-70968-0000", "HE BEGAN A CONFUSED COMPLAINT"),
            ("61-70968-0001", "GIVE NOT SO EARNEST"),
        ]
        libri.task().check_available()
        assert all(s.audio.load().size for s in samples)

    def test_at_any_depth(self, libri):
        for inner in ("test-clean", "test-clean/61", "test-clean/61/70968"):
            task = SpeechRecognition(str(libri.path / inner))
            task.check_available()
            assert task.samples()[-1].reference == "GIVE NOT SO EARNEST"

    def test_as_wav(self, libri):
        chapter = libri.path / "test-clean" / "61" / "70968"
        (chapter / "61-70968-0000.flac").unlink()
        libri.audio("test-clean/61/70968/61-70968-0000.wav")
        assert len(libri.task().samples()) == 3

    def test_an_id_in_two_chapters(self, libri):
        libri.audio("other/61-70968-0000.flac")
        (libri.path / "other" / "x.trans.txt").write_text("61-70968-0000 AGAIN\n")
        libri.refused("61-70968-0000 has two transcripts")

    def test_an_id_alone(self, libri):
        file = libri.path / "test-clean" / "61" / "70968" / "61-70968.trans.txt"
        file.write_text("61-70968-0000\n61-70968-0001 GIVE\n")
        libri.refused("no transcript for 1 file: .*61-70968-0000")

    @pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "no-such"])
    def test_a_line_for_no_file(self, libri, name):
        file = libri.path / "test-clean" / "61" / "70968" / "61-70968.trans.txt"
        file.write_text(file.read_text() + f"{name} WORDS\n")
        libri.refused("no audio for 1 file")


class TestRefusals:
    def test_nothing_else_is_a_layout(self, folder):
        for prepare in (lambda: None, lambda: folder.audio("a.wav")):
            prepare()
            hint = folder.refused("no transcripts").hint
            assert "metadata.csv" in hint
            assert "trans.txt" in hint

    def test_a_table_without_rows(self, folder):
        folder.csv("file_name,text\n")
        folder.refused("no transcripts")

    def test_two_tables(self, folder):
        folder.csv("file_name,text\n")
        folder.jsonl()
        folder.refused("both")

    def test_audio_without_transcript(self, folder):
        folder.audio("a.wav", *(f"extra{i}.wav" for i in range(5)))
        folder.csv("file_name,text\na.wav,ja\n")
        message = folder.refused("no transcript for 5 files").message
        assert "extra0.wav, extra1.wav, extra2.wav, …" in message
        assert "extra3" not in message

    @pytest.mark.parametrize("row", ["a.wav,", "a.wav,   ", "a.wav"])
    def test_a_blank_transcript_is_none(self, folder, row):
        folder.audio("a.wav")
        folder.csv(f"file_name,text\n{row}\n")
        folder.refused("no transcript for 1 file: a.wav")

    def test_a_transcript_of_null_is_none(self, folder):
        folder.audio("a.wav")
        folder.jsonl({"file_name": "a.wav", "text": None})
        folder.refused("no transcript for 1 file: a.wav")

    def test_transcripts_without_audio(self, folder):
        folder.audio("a.wav")
        folder.csv("file_name,text\na.wav,x\nb.wav,y\nc.txt,z\n")
        assert "b.wav, c.txt" in folder.refused("no audio for 2 files").message

    def test_a_file_twice(self, folder):
        folder.audio("a.wav")
        folder.csv("file_name,text\na.wav,x\n./a.wav,y\n")
        folder.refused("a.wav has two transcripts")

    @pytest.mark.parametrize(
        "name",
        ["../a.wav", "sub/../../a.wav", "/a.wav", "C:\\a.wav", "..\\a.wav", "\\\\host\\a.wav", " "],
    )
    def test_names_that_leave_the_folder(self, folder, name):
        folder.audio("a.wav")
        soundfile.write(folder.path.parent / "a.wav", np.zeros(10), 16_000)
        folder.jsonl({"file_name": "a.wav", "text": "x"}, {"file_name": name, "text": "secret"})
        assert "line 2" in folder.refused("not a path inside the folder").message

    @pytest.mark.parametrize("head", ["file,text", "file_name,words", "a.wav,hello"])
    def test_other_columns(self, folder, head):
        folder.csv(f"{head}\na.wav,hello\n")
        assert head.split(",")[1] in folder.refused("expected file_name and one of text").message

    def test_a_comma_that_is_not_in_quotes(self, folder):
        """csv would hand out the words before it, and the rest would never be missed."""
        folder.audio("a.wav")
        folder.csv("file_name,text\na.wav,hello, world\n")
        assert "quotes" in folder.refused("line 2: more fields").hint

    def test_a_quote_that_never_ends(self, folder):
        folder.audio("a.wav", "b.wav")
        folder.csv('file_name,text\na.wav,"hello\nb.wav,world\n')
        folder.refused("line 3")

    @pytest.mark.parametrize("line", ["{", "[1]", "null", "words"])
    def test_lines_that_are_no_objects(self, folder, line):
        folder.audio("a.wav")
        folder.jsonl({"file_name": "a.wav", "text": "x"}, "", line)
        folder.refused("line 3: no JSON object")

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_other_encodings(self, folder, encoding):
        folder.audio("a.wav")
        folder.csv("file_name,text\na.wav,größer\n", encoding=encoding)
        folder.refused("not UTF-8")

    def test_a_damaged_header_is_found_before_any_model_is_loaded(self, folder):
        folder.audio("a.wav", "b.wav")
        folder.csv("file_name,text\na.wav,x\nb.wav,y\n")
        (folder.path / "b.wav").write_text("not audio at all, just words " * 10)
        assert "b.wav" in folder.refused("cannot be decoded").message

    def test_a_folder_that_went_away(self, folder):
        task = folder.task()
        folder.path.rmdir()
        with pytest.raises(InputError, match="no folder"):
            task.samples()


class TestPick:
    @pytest.fixture
    def task(self, folder):
        names = [f"{i}.wav" for i in range(7)]
        folder.audio(*names)
        folder.jsonl(*({"file_name": name, "text": name} for name in names))
        return folder.task()

    def test_depends_on_the_seed_alone(self, task):
        assert task.pick(4, 1) == task.pick(4, 1)
        assert task.pick(7, 1) != task.pick(7, 2)

    def test_a_larger_count_begins_with_the_smaller(self, task):
        assert task.pick(7, 3)[:4] == task.pick(4, 3)

    def test_all_of_them_once(self, task):
        assert texts(task.pick(7, 2**63 - 1)) == texts(task.samples())

    def test_more_than_there_are(self, task):
        with pytest.raises(InputError, match="8 samples asked") as caught:
            task.pick(8, 0)
        assert "7" in caught.value.hint
