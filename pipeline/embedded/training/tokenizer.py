"""Learn the tokenizer from captions: byte-level BPE, so that any text has tokens.

Text to be drawn is spelled one token a glyph, and the Chinese words of the domain, which no space
separates, are cut before merging, so that a colour never fuses with a shape.
"""

import random
import re
from collections.abc import Iterator
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.embedded.scenes import chinese
from pipeline.embedded.scenes.captions import Language, write_caption
from pipeline.embedded.scenes.sampling import sample_scene

VOCABULARY_SIZE: Final = 1024
_NUM_CAPTIONS: Final = 60_000
_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_SIDES: Final = ("左", "右", "上", "下", "边", "侧", "面", "方")

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learn the merges from captions drawn with `seed`."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern()), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[_PAD, _START, _END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_captions(seed), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        padding_side="right",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tokenize_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Return the tokens of a prompt as `ZImagePipeline` makes them."""
    templated = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=True,
    )
    token_ids: list[int] = tokenizer(templated).input_ids
    return token_ids


def _pattern() -> str:
    """Return what is cut apart before merging, in order of preference."""
    words = {*chinese.COLOURS.values(), *_SIDES}
    for synonyms in (*chinese.NOUNS.values(), *chinese.SIZES.values()):
        words.update(synonyms)
    lexicon = "|".join(re.escape(word) for word in sorted(words, key=lambda w: (-len(w), w)))
    spelled, chinese_run = r"[A-Z0-9]|[早安中国]", r"[一-鿿]+?"
    run_end = rf"(?={lexicon}|[^一-鿿]|[早安中国]|$)"
    rest = r" ?[a-z]+|\s|[^\sa-zA-Z0-9一-鿿]"
    return rf"{spelled}|{lexicon}|{chinese_run}{run_end}|{rest}"


def _captions(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    yield from ["user\n", "assistant\n", "<think>\n\n</think>\n\n"] * 100
    for _ in range(_NUM_CAPTIONS):
        language, num_fillers = rng.choice(tuple(Language)), rng.choice((0, 0, 0, 2))
        yield write_caption(sample_scene(rng), language, rng, num_fillers=num_fillers)
