"""The prompt templates of `demo-lm`: training and benchmarking must build the very same text.

The separators are special tokens, so no byte-pair merge ever crosses the end of a prompt:
tokens(prompt) + tokens(completion) are the tokens seen in training. The tokenizer puts <bos>
in front by itself; a completion ends with <eos>.
"""

BOS = "<bos>"
EOS = "<eos>"
PAD = "<pad>"
SOURCE = "<|source|>"
SUMMARY = "<|summary|>"
CODE = "<|code|>"
BODY = "<|body|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, SOURCE, SUMMARY, CODE, BODY)

MAX_SOURCE_LINES = 40
MAX_SOURCE_CHARS = 1400


def shorten(source: str) -> str:
    """The head of a function: at most 40 lines and 1,400 characters, so that a prompt always fits."""
    lines = source.strip("\n").splitlines()[:MAX_SOURCE_LINES]
    return "\n".join(lines)[:MAX_SOURCE_CHARS].rstrip()


def summarization_prompt(source: str) -> str:
    """Asks for the first docstring line of a Python function, given its source without docstring."""
    return document_prompt(shorten(source))


def document_prompt(document: str) -> str:
    """Asks for the summary of a text, all of it."""
    return f"{SOURCE}{document}{SUMMARY}"


def code_prompt(prompt: str) -> str:
    """Asks for the body of a function, given its signature and docstring (HumanEval's `prompt`)."""
    return f"{CODE}{prompt}{BODY}"
