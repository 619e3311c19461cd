"""Documents too long for a pair, outputs that go on behind their answer, chat templates."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from specbench.errors import InputError
from specbench.pairs import check_chat_template, get_pair, load_pair, pair_specs, with_chat_template
from specbench.tasks.base import Sample, get_task
from specbench.texts import ending, find_answer, fit, shortened

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
    "{% if enable_thinking is false %}!{% endif %}"
)


@pytest.fixture(scope="module")
def pair(tiny_pair):
    return load_pair(get_pair(tiny_pair.name), "cpu", "auto")


@pytest.fixture(scope="module")
def chatty(tiny_pair, tmp_path_factory):
    """A pair whose target has a chat template; its tokenizer begins every text with <s>."""
    folder = tmp_path_factory.mktemp("chatty")
    for role in ("target", "draft"):
        shutil.copytree(getattr(tiny_pair, role), folder / role)
        path = folder / role / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }  # fmt: skip
        path.write_text(json.dumps(tokenizer))
    (folder / "target" / "chat_template.jinja").write_text(TEMPLATE)
    return get_pair(f"{folder}/target+{folder}/draft")


def document(text):
    return Sample("s", f"{text} Summary:", "", question=f"Sum up:\n{text}", document=text, kept=1.0)


class TestFit:
    """The tiny pair's tokens are bytes."""

    TEXT = "one two  three\nfour five"

    def test_all_of_it_if_there_is_room(self, pair):
        sample = document(self.TEXT)
        for room in (None, len(sample.prompt), 10_000):
            assert fit(pair, sample, room) is sample

    @pytest.mark.parametrize("room", range(12, 33))
    def test_as_many_words_as_there_is_room_for(self, pair, room):
        found = fit(pair, document(self.TEXT), room)
        assert len(pair.prompt(found)) <= room
        assert self.TEXT.startswith(found.document)
        assert found.prompt == f"{found.document} Summary:"
        assert found.question == f"Sum up:\n{found.document}"
        assert found.kept == len(found.document) / len(self.TEXT)
        left = self.TEXT[len(found.document) :]
        if left:
            next_word = len(left) - len(left.lstrip()) + len(left.split()[0])
            assert len(pair.prompt(found)) + next_word > room, "one word more had fitted"

    @pytest.mark.parametrize("room", [-5, 0, 5, 11])
    def test_without_room_for_a_word_it_is_left_to_be_refused(self, pair, room):
        sample = document(self.TEXT)
        assert fit(pair, sample, room) is sample

    def test_what_is_no_document_is_not_cut(self, pair):
        sample = Sample("s", "x" * 50, "")
        assert fit(pair, sample, 10) is sample

    def test_it_is_said(self, pair):
        samples = [fit(pair, document(text), 20) for text in ("a", "word " * 20, "bb " * 9)]
        assert shortened(samples[:1], 20) is None
        told = shortened(samples, 20)
        assert told.startswith("2 of 3 documents are shortened")
        assert "20 tokens" in told
        assert f"{min(s.kept for s in samples):.0%} is left" in told

    def test_articles_and_functions_have_their_document_in_both_prompts(self):
        for style in ("demo", "instruction"):
            for sample in get_task("summarization").pick(9, 0, style):
                assert sample.document
                assert sample.document in sample.prompt
                assert sample.document in sample.question
                assert sample.kept == 1


class TestAnswers:
    def found(self, pair, output, has_ended=False, sample=None):
        task = get_task("code")
        sample = sample or task.samples()[0]
        tokens = pair.encode(output) + ((2,) if has_ended else ())
        prompt = pair.encode(sample.prompt)
        return *find_answer(pair, task, sample, prompt, tokens, has_ended), tokens

    def test_up_to_the_token_that_shows_its_end(self, pair):
        text, count, tokens = self.found(pair, "    return 3\n\nclass A:\n    pass\n" * 9)
        assert text == "    return 3\n\n"
        assert pair.decode(tokens[:count]).endswith("\n\nclass")
        assert len(tokens) > count

    def test_all_of_it_if_the_model_ended_it(self, pair):
        text, count, tokens = self.found(pair, "    return 3\n", has_ended=True)
        assert (text, count) == ("    return 3\n", len(tokens))

    def test_unknown_if_it_never_ended(self, pair):
        assert self.found(pair, "    x = 3\n")[:2] == ("    x = 3\n", None)

    def test_nothing_at_all(self, pair):
        assert self.found(pair, "")[:2] == ("", None)
        assert self.found(pair, "", has_ended=True)[:2] == ("", 1)

    def test_the_last_token_may_be_the_one(self, pair):
        _, count, tokens = self.found(pair, "    return 3\n#")
        assert count == len(tokens)

    def test_an_earlier_block_that_was_closed_is_not_the_end(self, pair):
        sample = get_task("code").samples()[0]
        whole = f"```\n{sample.prompt}    pass\n```"
        _, count, tokens = self.found(pair, f"So:\n```\nx\n```\n{whole}\nGood.")
        assert pair.decode(tokens[:count]).endswith(whole)


EXTRA = [
    "Ċdef",
    "Ċd",
    "ef",
    "Ċcl",
    "ass",
    "Ċ#",
    "Ċ```",
    "``",
    "def",
    "ĠĠĠĠ",
    "ĠĠĠĠreturn",
    "return",
    ")Ċ",
]
"""What a tokenizer may make of a stop, as byte-level BPE writes it: Ċ is a newline, Ġ a blank."""


@pytest.fixture(scope="module")
def merged(save_tiny, tmp_path_factory):
    """A pair whose tokenizer has some more tokens, which its encoder never uses."""
    folder = save_tiny(tmp_path_factory.mktemp("merged") / "one", 1, 16, 1, extra=EXTRA)
    return load_pair(get_pair(f"{folder}+{folder}"), "cpu", "auto")


def splits(text, pieces):
    """Every way to write a text in these pieces."""
    if not text:
        return [()]
    heads = [piece for piece in pieces if text.startswith(piece)]
    return [(head, *rest) for head in heads for rest in splits(text[len(head) :], pieces)]


class TestEndings:
    """The rule that a decoder asks, over every way to cut an output into tokens and steps."""

    @pytest.fixture
    def sample(self):
        return get_task("code").samples()[0]

    def stops_at(self, pair, sample, tokens, width):
        """With how many tokens the rule ends an output that comes in steps of so many; None: never."""
        ended = ending(pair, get_task("code"), sample, pair.encode(sample.prompt))
        for start in range(0, len(tokens), width):
            if (count := ended(tokens[:start], tokens[start : start + width])) is not None:
                return start + count
        return None

    def written(self, pair, text):
        """The outputs, in tokens, that read like that."""
        vocabulary = pair.tokenizer.get_vocab()
        pieces = {pair.tokenizer.decode([i]): i for i in vocabulary.values() if i > 2}
        return [[pieces[piece] for piece in one] for one in splits(text, list(pieces))]

    @pytest.mark.parametrize("width", [1, 2, 3, 5, 129])
    @pytest.mark.parametrize("stop", ["\ndef", "\nclass", "\n#", "\n```"])
    def test_the_token_that_completes_a_stop_ends_it(self, merged, sample, stop, width):
        found = self.written(merged, f"    f(){stop} g")
        assert len(found) >= 6
        for tokens in found:
            texts = [merged.continuation((), tokens[:n]) for n in range(len(tokens) + 1)]
            first = next(n for n, text in enumerate(texts) if stop in text)
            assert self.stops_at(merged, sample, tokens, width) == first

    @pytest.mark.parametrize("width", [1, 4, 129])
    def test_it_is_the_token_that_the_answer_is_found_with(self, merged, sample, width):
        """Cut afterwards or stopped there: one answer, of one number of tokens."""
        prompt, task = merged.encode(sample.prompt), get_task("code")
        for text in (
            "    return 3\n\nclass A:\n  pass\n",
            f"```\n{sample.prompt}    pass\n```\nSo\n#",
        ):
            tokens = list(merged.encode(text))
            whole, count = find_answer(merged, task, sample, prompt, tokens, False)
            assert count < len(tokens)
            assert self.stops_at(merged, sample, tokens, width) == count
            assert find_answer(merged, task, sample, prompt, tokens[:count], False) == (
                whole,
                count,
            )

    @pytest.mark.parametrize(
        "text",
        [
            "    x = 'é€😀'\n    return x\n",  # several tokens to a character
            "    define = 1\n    #\n    if x:\n        print(x)\n",
            "def other():\n    pass\n# and\n",  # a whole function of that name may follow
            "So:\n\n```python\nx = 1\n```\nand\n",  # so may another block
            "def",
            "",
        ],
    )
    def test_what_may_go_on_does(self, merged, sample, text):
        for width in (1, 3, 129):
            assert self.stops_at(merged, sample, list(merged.encode(text)), width) is None

    def test_a_newline_of_the_prompt_does_not_count(self, merged, sample):
        """The prompt ends with one, and the output begins with what would make a stop of it."""
        for prompt in (sample.prompt.rstrip() + "\n", sample.prompt + "class A: pass\ndef f():\n"):
            asked = dataclasses.replace(sample, prompt=prompt)
            for text in ("#\n    return 3\n", "    return 3"):
                tokens = list(merged.encode(text))
                assert self.stops_at(merged, asked, tokens, 1) is None

    def test_bytes_of_a_character_that_is_cut_in_two_by_a_step(self, merged, sample):
        text = "    x = '😀'\ndef"
        tokens = list(merged.encode(text))
        for width in range(1, len(tokens) + 1):
            assert self.stops_at(merged, sample, tokens, width) == len(tokens)

    def test_a_block_in_thoughts_is_no_answer(self, chatty, sample):
        """Whether the model began to think or its template did."""
        block = f"```\n{sample.prompt}    pass\n```\n"
        for template, begun in (("<answer>", "<think>\n"), ("<answer><think>\n", "")):
            pair = load_pair(chatty, "cpu", "auto")
            pair.tokenizer.chat_template = template
            pair = dataclasses.replace(pair, chats=True)
            prompt, task = pair.prompt(sample), get_task("code")
            ended = ending(pair, task, sample, prompt)
            tokens = list(pair.encode(f"{begun}{block}Hm.\n</think>\n\n{block}Done.")[1:])
            thought = len(pair.encode(f"{begun}{block}Hm.\n</think>\n\n")) - 1
            assert all(ended(tokens[:n], tokens[n : n + 1]) is None for n in range(thought))
            end = next(n for n in range(thought, len(tokens)) if ended(tokens[:n], [tokens[n]]))
            assert pair.decode(tokens[thought : end + 1]) == block.strip()
            assert find_answer(pair, task, sample, prompt, tokens, False)[1] == end + 1

    def test_no_more_is_read_than_a_stop_may_take(self, merged, sample, monkeypatch):
        """However long the output is."""
        from specbench.pairs import Pair

        ended = ending(merged, get_task("code"), sample, merged.encode(sample.prompt))
        read, original = [], Pair.continuation

        def spy(self, prompt, tokens):
            read.append(len(prompt) + len(tokens))
            return original(self, prompt, tokens)

        monkeypatch.setattr(Pair, "continuation", spy)
        line = list(merged.encode("    x = f(x)\n"))
        for length in (0, 10, 1000):
            assert ended(line * length, line) is None
        assert max(read) <= len("\nprint") + len(line)
        assert len(read) == 3

    def test_random_weights_write_no_text(self, merged, sample):
        nobody = dataclasses.replace(merged, tokenizer=None)
        assert ending(nobody, get_task("code"), sample, (1, 2)) is None


class TestContinuation:
    def test_keeps_its_white_space(self, pair):
        prompt, tokens = pair.encode("def f():\n"), pair.encode("    return 1 \n")
        assert pair.continuation(prompt, tokens) == "    return 1 \n"
        assert pair.continuation(prompt, (*tokens, 2)) == "    return 1 \n"
        assert pair.continuation(prompt, ()) == ""

    def test_of_a_tokenizer_that_drops_the_first_blank(self, pair):
        """As SentencePiece's do, Llama-2's among them."""

        class Dropping:
            def decode(self, ids, **options):
                return pair.tokenizer.decode(ids, **options).removeprefix(" ")

        dropping = dataclasses.replace(pair, tokenizer=Dropping())
        prompt, tokens = pair.encode("def f():\n"), pair.encode("    return 1\n")
        assert dropping.decode(tokens) == "return 1"
        assert dropping.continuation(prompt, tokens) == "    return 1\n"

    def test_of_the_embedded_pair(self):
        demo = load_pair(get_pair("demo-lm"), "cpu", "auto")
        sample = get_task("code").samples("demo")[0]
        prompt = demo.prompt(sample)
        tokens = demo.tokenizer(sample.reference, add_special_tokens=False)["input_ids"]
        assert demo.continuation(prompt, tokens) == sample.reference


class TestChatTemplates:
    QUESTION = Sample("s", "plain", "", question="What?")

    def test_a_question_goes_through_it(self, chatty):
        pair = with_chat_template(load_pair(chatty, "cpu", "auto"), None)
        assert pair.chats
        ids = pair.prompt(self.QUESTION)
        assert pair.tokenizer.decode(ids) == "<s><user>What?<answer>!"

    def test_the_first_token_is_not_doubled(self, chatty):
        pair = load_pair(chatty, "cpu", "auto")
        assert pair.encode("x").count(1) == 1, "the tokenizer adds it by itself"
        assert with_chat_template(pair, None).prompt(self.QUESTION).count(1) == 1

    @pytest.mark.parametrize("asked", [False, None])
    def test_without_it_the_plain_prompt(self, chatty, pair, asked):
        plain = with_chat_template(load_pair(chatty, "cpu", "auto"), False)
        assert not plain.chats
        assert plain.prompt(self.QUESTION) == plain.encode("plain")
        assert not with_chat_template(pair, asked).chats, "the tiny pair has none"

    def test_what_has_no_question_is_asked_plainly(self, chatty):
        pair = with_chat_template(load_pair(chatty, "cpu", "auto"), None)
        assert pair.prompt(Sample("s", "plain", "")) == pair.encode("plain")
        assert len(pair.prompt(Sample("s", "", "", 7))) == 7

    def test_a_base_model_that_has_one_is_asked_plainly_unless_it_is_wished(self, chatty):
        base = dataclasses.replace(chatty, chats=False)
        pair = load_pair(base, "cpu", "auto")
        assert not with_chat_template(pair, None).chats
        assert with_chat_template(pair, True).chats

    def test_the_embedded_pair_has_prompts_of_its_own(self):
        demo = load_pair(get_pair("demo-lm"), "cpu", "auto")
        assert with_chat_template(demo, None) is demo
        with pytest.raises(InputError, match="prompts of its own"):
            check_chat_template(get_pair("demo-lm"))

    def test_one_that_is_not_there_is_refused(self, tiny_pair, chatty):
        check_chat_template(chatty)
        with pytest.raises(InputError, match="has no chat template") as caught:
            check_chat_template(get_pair(tiny_pair.name))
        assert "--chat-template" in caught.value.hint

    def test_of_the_registry_those_that_were_trained_to(self):
        chats = {name for name, spec in pair_specs().items() if spec.chats}
        assert "llama-3.1-8b-instruct/llama-3.2-1b-instruct" in chats
        assert "qwen3-8b/qwen3-0.6b" in chats
        base = {
            "llama-2-7b/sheared-llama-1.3b",
            "qwen2.5-7b/qwen2.5-0.5b",
            "qwen3-8b-base/qwen3-0.6b-base",
        }
        assert not base & chats
        assert all(pair_specs()[name].chats is False for name in base)
